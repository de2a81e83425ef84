//! Runtimes to race against: found or built on demand, tuned with the same effort, started as servers.
//!
//! A reference is never compiled into the harness. It is a program under `<target>/references/NAME/`, made by the
//! route that its file describes, and spoken to over HTTP like the candidate.

pub mod agreement;
mod candle;
mod compressed_tensors;
mod format;
pub mod gguf;
mod install;
mod llama_cpp;
mod onnxruntime;
mod openvino;
mod python;
pub(crate) mod steps;
pub mod survey;
pub mod sweep;
mod vllm;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

use serde::{Deserialize, Serialize};
use synth::model::{Model, ModelErrors};

use crate::load::Wire;
use crate::process::Launch;

pub use candle::Candle;
pub use format::Format;
pub use llama_cpp::LlamaCpp;
pub use onnxruntime::OnnxRuntime;
pub use openvino::OpenVino;
pub use vllm::Vllm;

/// Loading and warming a model must end within this time.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// A runtime to race.
pub trait Reference: Sync {
    /// Its name, as commands and the ledger spell it.
    fn name(&self) -> &'static str;

    /// The version that is pinned.
    fn version(&self) -> &'static str;

    /// Whether its program is there.
    fn is_installed(&self, target_dir: &Path) -> bool;

    /// Why it has no weights of this format, if it has none.
    fn lacks(&self, _format: Format) -> Option<&'static str> {
        None
    }

    /// Makes the program, unless it is there, and returns it. `progress` is told what is being done, a line at a time.
    ///
    /// # Errors
    /// When something that making it takes is missing, or a step fails.
    fn install(&self, target_dir: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf, ReferenceError>;

    /// Makes the program and the model ready. `progress` is told what is being done, a line at a time.
    ///
    /// # Errors
    /// When the program is not there and cannot be made, or the runtime cannot run this model faithfully.
    fn prepare(&self, job: &Job, progress: &dyn Fn(&str)) -> Result<Prepared, ReferenceError>;

    /// What may be tuned for this job; the first value of each knob is where tuning starts.
    fn knobs(&self, job: &Job) -> Vec<Knob>;

    /// How to start it, tuned so, on `listen`.
    fn launch(&self, prepared: &Prepared, job: &Job, settings: &Settings, listen: SocketAddr) -> Launch;

    /// How to ask it for a completion.
    fn wire(&self) -> Wire;
}

/// Every reference there is, the one that needs nothing but cargo first.
pub const ALL: [&dyn Reference; 5] = [&Candle, &LlamaCpp, &OpenVino, &Vllm, &OnnxRuntime];

/// The reference of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Reference> {
    ALL.into_iter().find(|reference| reference.name() == name)
}

/// What a reference is asked to serve: the same as the candidate.
#[derive(Debug, Clone)]
pub struct Job {
    /// Hugging Face model folder.
    pub model_dir: PathBuf,
    /// Threads that may compute.
    pub threads: usize,
    /// Most positions of one sequence, prompt and output together.
    pub context: usize,
    /// Most sequences in flight.
    pub concurrency: usize,
    /// Format of the weight matrices, the candidate's and so the reference's.
    pub format: Format,
    /// Cargo's target folder; everything made is put under `references/` in it.
    pub target_dir: PathBuf,
    /// Where records of tuning are kept, if not with what the references made: a suite keeps them beside its specs.
    pub tuning_dir: Option<PathBuf>,
}

impl Job {
    /// Where a reference keeps what it made.
    pub(crate) fn home(&self, name: &str) -> PathBuf {
        home(&self.target_dir, name)
    }

    /// Where a reference keeps this model in a form of its own: named by everything that decides its bytes.
    pub(crate) fn converted(&self, name: &str, model: &Model, form: &str) -> Result<PathBuf, ReferenceError> {
        let folder = self.home(name).join("models");
        std::fs::create_dir_all(&folder)
            .map_err(|source| ReferenceError::File { path: folder.clone(), source })?;
        let digests = model.digests()?;
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        let [weights, config, tokenizer] =
            [&digests.weights, &digests.config, &digests.tokenizer].map(|digest| short(digest));
        Ok(folder.join(format!("{weights}-{config}-{tokenizer}-{form}")))
    }
}

/// Where a reference keeps what it made.
fn home(target_dir: &Path, name: &str) -> PathBuf {
    target_dir.join("references").join(name)
}

/// A reference that is ready to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The server's program.
    pub program: PathBuf,
    /// The model in the form it loads: a folder, or a file.
    pub model: PathBuf,
}

/// Something to tune.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knob {
    /// Its name in [`Settings`].
    pub name: &'static str,
    /// The values to try, the usual one first.
    pub values: Vec<String>,
}

/// One value for each knob.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Settings(pub BTreeMap<String, String>);

impl Settings {
    /// The first value of every knob.
    #[must_use]
    pub fn first(knobs: &[Knob]) -> Self {
        let first = |knob: &Knob| Some((knob.name.to_owned(), knob.values.first()?.clone()));
        Self(knobs.iter().filter_map(first).collect())
    }

    /// The same settings with one knob at another value.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut settings = self.clone();
        settings.0.insert(name.to_owned(), value.to_owned());
        settings
    }

    /// The value of a knob; empty where there is no such knob.
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, (name, value)) in self.0.iter().enumerate() {
            let gap = if idx == 0 { "" } else { " " };
            write!(f, "{gap}{name}={value}")?;
        }
        Ok(())
    }
}

/// Why a reference cannot be raced.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum ReferenceError {
    #[error("{name} is not installed; run: {cure}")]
    Missing { name: &'static str, cure: &'static str },
    #[error("{tool} is needed and does not work ({reason}); {cure}")]
    Tool { tool: &'static str, reason: String, cure: &'static str },
    #[error("{step} failed ({status}); the log is {}, it ends with:\n{tail}", log.display())]
    Step { step: String, status: String, log: PathBuf, tail: String },
    #[error("{name} has no {format} weights: {reason}")]
    Lacks { name: &'static str, format: Format, reason: &'static str },
    #[error("{name} cannot run {}: {reason}", model.display())]
    Unsupported { name: &'static str, model: PathBuf, reason: String },
    #[error(transparent)]
    Model(#[from] ModelErrors),
    #[error(transparent)]
    Gguf(#[from] gguf::GgufError),
    #[error("cannot use {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

impl ReferenceError {
    /// Whether the cure is to install something, which callers report apart from failures.
    #[must_use]
    pub fn is_environment(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Tool { .. })
    }
}

/// `--flag value` pairs as arguments.
fn arguments<const N: usize>(pairs: [(&str, OsString); N]) -> Vec<OsString> {
    pairs.into_iter().flat_map(|(flag, value)| [flag.into(), value]).collect()
}

/// A knob of fixed values.
fn knob(name: &'static str, values: &[&str]) -> Knob {
    Knob { name, values: values.iter().map(|value| (*value).to_owned()).collect() }
}

/// `threads`, then fewer: small models can be faster when fewer threads have to meet.
fn thread_counts(threads: usize) -> Knob {
    let counts = if threads > 1 { vec![threads, threads.div_ceil(2)] } else { vec![threads] };
    Knob { name: "threads", values: counts.iter().map(usize::to_string).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_by_the_name_they_give() {
        for reference in ALL {
            assert_eq!(by_name(reference.name()).map(Reference::name), Some(reference.name()));
        }
        assert!(by_name("nobody").is_none());
    }

    #[test]
    fn settings_start_at_the_first_values_and_print_every_knob() {
        let knobs = [
            Knob { name: "b", values: vec!["1".into(), "2".into()] },
            Knob { name: "a", values: vec!["x".into()] },
        ];
        let first = Settings::first(&knobs);
        assert_eq!(first.to_string(), "a=x b=1");
        assert_eq!(first.with("b", "2").to_string(), "a=x b=2");
        assert_eq!(first.get("c"), "");
    }

    #[test]
    fn only_what_can_be_installed_is_the_environments_fault() {
        let missing = ReferenceError::Missing { name: "x", cure: "y" };
        assert!(missing.is_environment());
        let source = io::Error::other("full");
        assert!(!ReferenceError::File { path: "f".into(), source }.is_environment());
    }
}

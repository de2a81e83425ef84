//! llama.cpp's own server, built for this machine by [`install_llama_cpp`] and fed GGUF that [`super::gguf`] writes.

mod install;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use synth::model::{Family, Model};

use super::{
    Job, Knob, Prepared, READY_WITHIN, Reference, ReferenceError, Settings, arguments, gguf, thread_counts,
};
use crate::load::Wire;
use crate::process::Launch;

pub use install::install_llama_cpp;

/// Counts up when the GGUF writer writes other bytes for the same model, so that no stale file is raced.
const WRITER: u32 = 1;

/// llama.cpp as a reference runtime.
#[derive(Debug, Clone, Copy)]
pub struct LlamaCpp;

impl Reference for LlamaCpp {
    fn name(&self) -> &'static str {
        "llama.cpp"
    }

    fn version(&self) -> &'static str {
        install::VERSION
    }

    fn is_installed(&self, target_dir: &Path) -> bool {
        install::installed(target_dir).is_some()
    }

    fn prepare(&self, job: &Job, progress: &dyn Fn(&str)) -> Result<Prepared, ReferenceError> {
        let program = install::installed(&job.target_dir)
            .ok_or(ReferenceError::Missing { name: "llama.cpp", cure: "cargo xtask reference llama.cpp" })?;
        let model = Model::read(&job.model_dir)?;
        if let Some(reason) = unfaithful(&model, job.context) {
            return Err(ReferenceError::Unsupported {
                name: self.name(),
                model: job.model_dir.clone(),
                reason,
            });
        }
        let path = self.converted(&model, job)?;
        if !path.is_file() {
            progress("writing the model as GGUF");
            gguf::convert(&model, job.precision, &path, &mut |written, total| {
                progress(&format!("GGUF: {} of {} MiB", written >> 20, total >> 20));
            })?;
        }
        Ok(Prepared { program, model: path })
    }

    fn knobs(&self, job: &Job) -> Vec<Knob> {
        let knob =
            |name, values: &[&str]| Knob { name, values: values.iter().map(|v| (*v).to_owned()).collect() };
        vec![
            thread_counts(job.threads),
            knob("flash_attn", &["on", "off"]),
            knob("kv_type", &["f16", "bf16", "f32"]),
            knob("ubatch", &["512", "128"]),
            knob("poll", &["50", "0"]),
            knob("cache_ram", &["8192", "0"]),
        ]
    }

    fn launch(&self, prepared: &Prepared, job: &Job, settings: &Settings, listen: SocketAddr) -> Launch {
        let setting = |name| settings.get(name).into();
        let mut args = arguments([
            ("--model", prepared.model.clone().into_os_string()),
            ("--host", listen.ip().to_string().into()),
            ("--port", listen.port().to_string().into()),
            ("--parallel", job.concurrency.to_string().into()),
            // Shared out evenly among the slots.
            ("--ctx-size", (job.context * job.concurrency).to_string().into()),
            ("--threads", setting("threads")),
            ("--threads-batch", setting("threads")),
            ("--flash-attn", setting("flash_attn")),
            ("--cache-type-k", setting("kv_type")),
            ("--cache-type-v", setting("kv_type")),
            ("--ubatch-size", setting("ubatch")),
            ("--poll", setting("poll")),
            ("--cache-ram", setting("cache_ram")),
        ]);
        args.push("--offline".into());
        Launch {
            program: prepared.program.clone(),
            args,
            env: Vec::new(),
            listen,
            ready_path: "/health",
            timeout: READY_WITHIN,
            log: job.home(self.name()).join(format!("server-{}.log", listen.port())),
        }
    }

    fn wire(&self) -> Wire {
        Wire::LlamaCpp
    }
}

impl LlamaCpp {
    /// Where this model is kept as GGUF: named by everything that decides its bytes.
    fn converted(&self, model: &Model, job: &Job) -> Result<PathBuf, ReferenceError> {
        let folder = job.home(self.name()).join("models");
        std::fs::create_dir_all(&folder)
            .map_err(|source| ReferenceError::File { path: folder.clone(), source })?;
        let digests = model.digests()?;
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        Ok(folder.join(format!(
            "{}-{}-{}-{:?}-v{WRITER}.gguf",
            short(&digests.weights),
            short(&digests.config),
            short(&digests.tokenizer),
            job.precision,
        )))
    }
}

/// Why llama.cpp would compute another model than this one, if it would.
fn unfaithful(model: &Model, context: usize) -> Option<String> {
    match (model.family, model.sliding_window) {
        (Family::Mistral, Some(window)) if window < context => Some(format!(
            "its Llama architecture, which Mistral runs as, has no sliding window, and this one of {window} is \
             shorter than the context of {context}"
        )),
        _ => None,
    }
}

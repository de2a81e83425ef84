//! The workload: what a spec asks for, valid by construction.
//!
//! [`Workload::read`] is the only way to make one; whatever is wrong with a file comes back as one
//! [`SpecErrors`] that names every place at once.

mod build;
mod check;
mod errors;
mod field;
mod file;
mod locate;
mod requests;
mod scalar;
pub mod schema;
#[cfg(test)]
mod tests;
mod units;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use errors::{SpecError, SpecErrors};
pub use requests::{Message, Sample, SampleInput, TraceEvent};

use crate::target::Cpu;

/// One job: a model, a machine, the traffic it gets and what is promised about the answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Name of the emitted crate.
    pub name: String,
    /// Where the model folder is.
    pub model: ModelSource,
    /// Precision of the weight matrices in memory, where the spec forces one. `None` keeps them as stored, or rounds
    /// them as far as the tolerance allows.
    pub weights: Option<Weights>,
    /// The format that keys and values are forced into: f32 or bf16; `None` leaves it to the planner.
    pub kv: Option<Precision>,
    /// The CPU to serve on.
    pub target: Cpu,
    /// What arrives.
    pub traffic: Traffic,
    /// What a request is answered with.
    pub output: Output,
    /// The routes that exist beside the operational ones; not empty, no repeats, in `Api` order.
    pub api: Vec<Api>,
    /// What to make fast, and what to keep while doing so.
    pub slo: Slo,
    /// How far an answer may be from the model's.
    pub tolerance: Tolerance,
    /// sha256 (hex) of the canonical form: comments, key order, unit spelling and paths do not count.
    pub digest: String,
    /// The file it was read from, to point at a field later.
    pub source: SpecSource,
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// A folder in Hugging Face format, resolved against the folder of the spec.
    Path(PathBuf),
    /// A repository on the Hugging Face hub.
    Hub {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
    },
}

/// The precision that a spec forces on weight matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Weights {
    /// Matrices of the layers.
    pub layers: Precision,
    /// Output head and embedding; `None` leaves them to the plan.
    pub head: Option<Precision>,
}

/// How finely a weight is held, from the finest down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// Codes of 8 bits in groups with a scale.
    Int8,
    /// Codes of 4 bits in groups with a scale.
    Int4,
}

/// What arrives, and how much of it at once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Traffic {
    /// When requests come.
    pub arrivals: Arrivals,
    /// Most sequences in flight; 1 to 1024.
    pub concurrency: usize,
    /// Prompt lengths in tokens.
    pub prompt: Lengths,
    /// Output lengths in tokens.
    pub output: Lengths,
    /// JSON Lines file of real requests, for proof and bench.
    pub samples: Option<PathBuf>,
}

/// When requests come.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Open loop: independent arrivals, this many per second on average.
    Poisson(f64),
    /// Closed loop: this many clients, each sends when its last answer is complete.
    Closed(usize),
    /// Open loop: a JSON Lines file of arrival times and lengths.
    Trace(PathBuf),
}

/// A length distribution in tokens; `1 <= p50 <= p99 <= max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// Half of the requests are no longer than this.
    pub p50: usize,
    /// 99 of 100 requests are no longer than this.
    pub p99: usize,
    /// What memory is planned for.
    pub max: usize,
}

/// What a request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Free text.
    Text,
}

/// A public route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/completions`.
    Completions,
}

/// What to make fast, and what to keep while doing so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slo {
    /// The metric to make as small as possible.
    pub minimise: Metric,
    /// Upper bounds that hold meanwhile.
    pub keep: BTreeMap<Metric, Duration>,
}

/// A latency that is measured per request (or per gap, for `itl`), at a percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Time to first token, median.
    TtftP50,
    /// Time to first token, 99th percentile.
    TtftP99,
    /// Time per output token after the first, median over requests.
    TpotP50,
    /// Time per output token after the first, 99th percentile over requests.
    TpotP99,
    /// Gap between two tokens, median over gaps.
    ItlP50,
    /// Gap between two tokens, 99th percentile over gaps.
    ItlP99,
    /// Whole request, median.
    E2eP50,
    /// Whole request, 99th percentile.
    E2eP99,
}

/// How far an answer may be from the model's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerance {
    /// Greedy tokens equal the model's.
    Exact,
    /// Log-probabilities stay within bounds under teacher forcing.
    Bounded {
        /// 99th percentile of the absolute difference in log-probability, nats.
        logprob_p99: f64,
        /// Least share of positions whose most likely token agrees, 0 to 1.
        same_top: f64,
        /// Mean Kullback-Leibler divergence, nats.
        kl_mean: f64,
        /// 99.9th percentile of the Kullback-Leibler divergence, nats.
        kl_p999: f64,
    },
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// The text of a spec and where it lies, kept to point at its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecSource {
    path: PathBuf,
    text: Arc<str>,
}

impl fmt::Display for Bytes {
    /// In the largest binary unit that leaves at least one, with one decimal where it is not whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match UNITS.iter().find(|(size, _)| self.0 >= *size) {
            Some((size, unit)) if self.0.is_multiple_of(*size) => write!(f, "{} {unit}", self.0 / size),
            Some((size, unit)) => write!(f, "{:.1} {unit}", self.0 as f64 / *size as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl Metric {
    /// Every metric, in the order of reports.
    pub const ALL: [Metric; 8] = [
        Metric::TtftP50,
        Metric::TtftP99,
        Metric::TpotP50,
        Metric::TpotP99,
        Metric::ItlP50,
        Metric::ItlP99,
        Metric::E2eP50,
        Metric::E2eP99,
    ];

    /// The spelling in specs, ledgers and reports.
    pub fn name(self) -> &'static str {
        match self {
            Metric::TtftP50 => "ttft_p50",
            Metric::TtftP99 => "ttft_p99",
            Metric::TpotP50 => "tpot_p50",
            Metric::TpotP99 => "tpot_p99",
            Metric::ItlP50 => "itl_p50",
            Metric::ItlP99 => "itl_p99",
            Metric::E2eP50 => "e2e_p50",
            Metric::E2eP99 => "e2e_p99",
        }
    }
}

impl Precision {
    /// Every precision, from the finest down.
    pub const ALL: [Precision; 4] = [Precision::F32, Precision::Bf16, Precision::Int8, Precision::Int4];

    /// The spelling in specs and plans.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
            Precision::Int4 => "int4",
        }
    }

    /// Bits of one weight, its share of a scale apart.
    pub fn bits(self) -> u64 {
        match self {
            Precision::F32 => 32,
            Precision::Bf16 => 16,
            Precision::Int8 => 8,
            Precision::Int4 => 4,
        }
    }
}

impl Api {
    /// The spelling in specs.
    pub fn name(self) -> &'static str {
        match self {
            Api::Chat => "chat",
            Api::Completions => "completions",
        }
    }
}

impl Workload {
    /// Positions that the median token of an answer attends to.
    pub fn median_context(&self) -> usize {
        self.traffic.prompt.p50 + self.traffic.output.p50 / 2
    }

    /// Reads a spec and checks that the files it names are there and can be read.
    ///
    /// Errors: everything that is wrong with the file, in its order.
    pub fn read(path: &Path) -> Result<Workload, SpecErrors> {
        let fault = |place: (usize, usize), message: String| {
            let source = SpecSource { path: path.to_owned(), text: Arc::from("") };
            SpecErrors(vec![source.at(place, "", message)])
        };
        let bytes =
            read_bounded(path).map_err(|error| fault((1, 1), format!("cannot read the spec: {error}")))?;
        match String::from_utf8(bytes) {
            Ok(text) => Workload::parse(path, &text),
            Err(error) => {
                let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()])
                    .into_owned();
                Err(fault(
                    locate::position(&valid, valid.len()),
                    "expected UTF-8, found another byte".to_owned(),
                ))
            }
        }
    }

    /// Reads the text of a spec as if it lay at `path`; relative paths in it start from there.
    ///
    /// Errors: as [`Workload::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Workload, SpecErrors> {
        build::build(SpecSource { path: path.to_owned(), text: Arc::from(text) })
    }

    /// The sample requests; empty where the spec names none.
    ///
    /// Errors: the file changed since the spec was read.
    pub fn samples(&self) -> Result<Vec<Sample>, SpecErrors> {
        match &self.traffic.samples {
            Some(path) => requests::samples(path).map_err(|misread| self.misread("traffic.samples", misread)),
            None => Ok(Vec::new()),
        }
    }

    /// The events of the arrival trace; empty where arrivals are not a trace.
    ///
    /// Errors: the file changed since the spec was read.
    pub fn trace(&self) -> Result<Vec<TraceEvent>, SpecErrors> {
        let longest = (self.traffic.prompt.max, self.traffic.output.max);
        match &self.traffic.arrivals {
            Arrivals::Trace(path) => requests::trace(path, Some(longest))
                .map_err(|misread| self.misread("traffic.arrivals.trace", misread)),
            Arrivals::Poisson(_) | Arrivals::Closed(_) => Ok(Vec::new()),
        }
    }

    /// The error that points at `field` (dotted, as `traffic.prompt.max`) of the file this was read from.
    pub fn error(&self, field: &str, message: impl Into<String>) -> SpecError {
        self.source.error(field, message)
    }

    /// The folder of the spec.
    pub fn folder(&self) -> &Path {
        self.source.path.parent().unwrap_or(Path::new(""))
    }

    fn misread(&self, field: &str, misread: requests::Misread) -> SpecErrors {
        match misread {
            requests::Misread::File(message) => SpecErrors(vec![self.error(field, message)]),
            requests::Misread::Lines(errors) => SpecErrors(errors),
        }
    }
}

impl SpecSource {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The error that points at `field`, or at the innermost map around it that the text has.
    pub fn error(&self, field: &str, message: impl Into<String>) -> SpecError {
        self.at(locate::locate(&self.text, &locate::steps(field)), field, message)
    }

    /// The error at a line and column, both from 1.
    fn at(
        &self,
        (line, column): (usize, usize),
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> SpecError {
        SpecError { file: self.path.clone(), line, column, field: field.into(), message: message.into() }
    }
}

/// Reads at most one byte more than a spec may have, so that too long shows and nothing longer is held.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    crate::yaml::open(path)?.take(file::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

//! candle-transformers, behind the small server in `references/candle`. It needs nothing but cargo.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use synth::workload::Precision;

use super::{
    Job, Knob, Prepared, READY_WITHIN, Reference, ReferenceError, Settings, arguments, home, steps,
    thread_counts,
};
use crate::load::Wire;
use crate::process::Launch;

const NAME: &str = "candle";

/// The server's crate, which is no part of the workspace.
const CRATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/references/candle");

/// candle's decoders as a reference runtime.
#[derive(Debug, Clone, Copy)]
pub struct Candle;

/// Builds candle's server under `<target>/references/candle`, and returns the program.
///
/// # Errors
/// When it does not build, or the folder cannot be made.
pub fn build_candle(target_dir: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf, ReferenceError> {
    let home = home(target_dir, NAME);
    std::fs::create_dir_all(&home).map_err(|source| ReferenceError::File { path: home.clone(), source })?;
    let program = program(target_dir);
    if !program.is_file() {
        progress("building candle (once; about five minutes of CPU)");
    }
    steps::build_crate("building candle", Path::new(CRATE), &home, progress)?;
    Ok(program)
}

fn program(target_dir: &Path) -> PathBuf {
    home(target_dir, NAME).join("release/candle-reference")
}

impl Reference for Candle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &'static str {
        "0.11.1"
    }

    fn is_installed(&self, target_dir: &Path) -> bool {
        program(target_dir).is_file()
    }

    fn prepare(&self, job: &Job, progress: &dyn Fn(&str)) -> Result<Prepared, ReferenceError> {
        let program = build_candle(&job.target_dir, progress)?;
        Ok(Prepared { program, model: job.model_dir.clone() })
    }

    fn knobs(&self, job: &Job) -> Vec<Knob> {
        let formats = match job.precision {
            Precision::F32 => vec!["f32"],
            // candle multiplies in f32 much faster than in bf16 on most CPUs, at the price of twice the memory.
            Precision::Bf16 | Precision::Int8 | Precision::Int4 => vec!["f32", "bf16"],
        };
        let formats = Knob { name: "dtype", values: formats.into_iter().map(str::to_owned).collect() };
        vec![formats, thread_counts(job.threads)]
    }

    fn launch(&self, prepared: &Prepared, job: &Job, settings: &Settings, listen: SocketAddr) -> Launch {
        let args = arguments([
            ("--model", prepared.model.clone().into_os_string()),
            ("--listen", listen.to_string().into()),
            ("--dtype", settings.get("dtype").into()),
            ("--threads", settings.get("threads").into()),
            ("--context", job.context.to_string().into()),
            ("--concurrency", job.concurrency.to_string().into()),
        ]);
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
        Wire::OpenAi { model: self.name().to_owned() }
    }
}

//! The command line: what the harness decides before a run.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::DType;

/// Shown on misuse.
pub const USAGE: &str = "usage: candle-reference --model DIR --listen ADDR --dtype f32|bf16 --threads N \
                         --context POSITIONS --concurrency SEQUENCES";

/// Everything is required: a race records each of them, so none may come from a default.
pub struct Args {
    /// Hugging Face model folder.
    pub model: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Number format of weights, activations and cache.
    pub dtype: DType,
    /// Threads that compute.
    pub threads: usize,
    /// Most positions of one sequence.
    pub context: usize,
    /// Most sequences in flight; more wait in order of arrival.
    pub concurrency: usize,
}

impl Args {
    /// Reads `--flag value` pairs.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut model, mut listen, mut dtype) = (None, None, None);
        let (mut threads, mut context, mut concurrency) = (None, None, None);
        while let Some(flag) = words.next() {
            let value = words.next().with_context(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--model" => model = Some(PathBuf::from(value)),
                "--listen" => listen = Some(value.parse().with_context(|| format!("--listen {value}"))?),
                "--dtype" => dtype = Some(number_format(&value)?),
                "--threads" => threads = Some(positive(&flag, &value)?),
                "--context" => context = Some(positive(&flag, &value)?),
                "--concurrency" => concurrency = Some(positive(&flag, &value)?),
                _ => bail!("unknown flag {flag}"),
            }
        }
        let missing = |flag| move || anyhow!("{flag} is missing");
        Ok(Self {
            model: model.ok_or_else(missing("--model"))?,
            listen: listen.ok_or_else(missing("--listen"))?,
            dtype: dtype.ok_or_else(missing("--dtype"))?,
            threads: threads.ok_or_else(missing("--threads"))?,
            context: context.ok_or_else(missing("--context"))?,
            concurrency: concurrency.ok_or_else(missing("--concurrency"))?,
        })
    }
}

fn number_format(value: &str) -> Result<DType> {
    match value {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        _ => bail!("--dtype {value} is neither f32 nor bf16"),
    }
}

fn positive(flag: &str, value: &str) -> Result<usize> {
    match value.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => bail!("{flag} {value} is not a positive number"),
    }
}

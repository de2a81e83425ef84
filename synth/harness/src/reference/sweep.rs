//! Tuning a reference before it is raced: a short probe of each value of each knob, recorded whole.
//!
//! One knob is moved at a time, from the usual settings, and a move is kept when it makes the median time per output
//! token of the probe clearly shorter, or leaves it and makes the time to first token clearly shorter. What was tried,
//! what failed and what was chosen are data; the same job is not swept twice.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use synth::model::Model;

use super::{Job, Knob, Prepared, Reference, ReferenceError, Settings};
use crate::client::Client;
use crate::load::{Outcome, Record, Request, Target, Wire, closed_loop};
use crate::metrics::{Quantity, distribution};
use crate::process::{Launch, Server, free_port};
use crate::random::Random;
use crate::stats::median;

/// Format of the record; another number is another sweep.
const VERSION: u32 = 1;

/// A move must shorten a time by this share to be kept: less is noise in a probe this short.
const CLEAR: f64 = 0.03;

/// Length of a probe's prompts, tokens, where the context has room.
const PROMPT: usize = 96;

/// Length of a probe's answers, tokens, where the context has room.
const OUTPUT: usize = 24;

/// Rounds at the job's concurrency.
const ROUNDS: usize = 2;

/// A probe that takes longer is no candidate.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a sweep tried and chose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Format of this record.
    pub version: u32,
    /// The reference.
    pub reference: String,
    /// Its version.
    pub reference_version: String,
    /// Prompt and output tokens of each probe request, and how many were in flight.
    pub probe: Probe,
    /// Every settings that were tried, in order.
    pub trials: Vec<Trial>,
    /// The settings to race.
    pub chosen: Settings,
}

/// The load of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Tokens of each prompt.
    pub prompt: usize,
    /// Tokens of each answer.
    pub output: usize,
    /// Requests in flight.
    pub concurrency: usize,
}

/// One start of the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// How it was tuned.
    pub settings: Settings,
    /// The command line that made it so, without addresses and paths of this machine.
    pub flags: Vec<String>,
    /// What came of it.
    pub outcome: Tried,
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Tried {
    /// Medians over the probe's requests.
    Measured {
        /// Time per output token after the first, ms.
        tpot_ms: f64,
        /// Time to first token, ms.
        ttft_ms: f64,
    },
    /// It did not start, or did not answer.
    Failed(String),
}

/// The sweep of this job: from its record if there is one, else made now and recorded.
///
/// # Errors
/// When no settings work at all, or the record cannot be kept.
pub async fn tune(
    reference: &dyn Reference,
    prepared: &Prepared,
    job: &Job,
    progress: &dyn Fn(&str),
) -> Result<Sweep, ReferenceError> {
    let model = Model::read(&job.model_dir)?;
    let path = record_path(reference, job, &model)?;
    let file = |source| ReferenceError::File { path: path.clone(), source };
    if let Ok(text) = fs::read_to_string(&path)
        && let Ok(sweep) = serde_json::from_str::<Sweep>(&text)
    {
        return Ok(sweep);
    }
    let sweep = sweep(reference, prepared, job, model.dims.vocab, progress).await?;
    let text = serde_json::to_string_pretty(&sweep).map_err(|error| file(error.into()))?;
    fs::write(&path, text + "\n").map_err(file)?;
    Ok(sweep)
}

/// The record's file, named by all that a sweep depends on.
fn record_path(reference: &dyn Reference, job: &Job, model: &Model) -> Result<PathBuf, ReferenceError> {
    let digests = model.digests()?;
    let depends_on = format!(
        "{VERSION} {} {} {} {} {} {} {} {}",
        reference.name(),
        reference.version(),
        digests.weights,
        digests.config,
        job.threads,
        job.context,
        job.concurrency,
        job.format,
    );
    let digest: String =
        Sha256::digest(depends_on).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(job.home(reference.name()).join(format!("sweep-{digest}.json")))
}

async fn sweep(
    reference: &dyn Reference,
    prepared: &Prepared,
    job: &Job,
    n_vocab: usize,
    progress: &dyn Fn(&str),
) -> Result<Sweep, ReferenceError> {
    let prompt = PROMPT.min(job.context / 2).max(1);
    let output = OUTPUT.min(job.context - prompt).max(1);
    let probe = Probe { prompt, output, concurrency: job.concurrency };
    let mut trials = Vec::new();
    let attempt = async |settings: &Settings| {
        progress(&format!("tuning {}: {settings}", reference.name()));
        let launch = |listen| reference.launch(prepared, job, settings, listen);
        let (flags, outcome) = match measure(launch, reference.wire(), probe, n_vocab).await {
            Ok(measured) => measured,
            Err(reason) => (Vec::new(), Tried::Failed(reason)),
        };
        trials.push(Trial { settings: settings.clone(), flags, outcome: outcome.clone() });
        outcome
    };
    let (chosen, best) = descend(&reference.knobs(job), attempt).await;
    if let Tried::Failed(reason) = best {
        let (name, model) = (reference.name(), job.model_dir.clone());
        return Err(ReferenceError::Unsupported { name, model, reason });
    }
    Ok(Sweep {
        version: VERSION,
        reference: reference.name().to_owned(),
        reference_version: reference.version().to_owned(),
        probe,
        trials,
        chosen,
    })
}

/// Moves one knob after another from the usual settings, and keeps each move that is better.
async fn descend(knobs: &[Knob], mut attempt: impl AsyncFnMut(&Settings) -> Tried) -> (Settings, Tried) {
    let mut chosen = Settings::first(knobs);
    let mut best = attempt(&chosen).await;
    for knob in knobs {
        for value in knob.values.iter().skip(1) {
            let settings = chosen.with(knob.name, value);
            let tried = attempt(&settings).await;
            if is_better(&tried, &best) {
                (best, chosen) = (tried, settings);
            }
        }
    }
    (chosen, best)
}

/// Clearly shorter per token, or about as short per token and clearly shorter to the first.
fn is_better(new: &Tried, old: &Tried) -> bool {
    match (new, old) {
        (Tried::Failed(_), _) => false,
        (Tried::Measured { .. }, Tried::Failed(_)) => true,
        (
            Tried::Measured { tpot_ms, ttft_ms },
            Tried::Measured { tpot_ms: old_tpot_ms, ttft_ms: old_ttft_ms },
        ) => {
            let clearly = |new: f64, old: f64| new < old * (1.0 - CLEAR);
            clearly(*tpot_ms, *old_tpot_ms)
                || (!clearly(*old_tpot_ms, *tpot_ms) && clearly(*ttft_ms, *old_ttft_ms))
        }
    }
}

/// Starts the reference, warms it with one request, and loads it at the probe's concurrency.
async fn measure(
    launch: impl FnOnce(SocketAddr) -> Launch,
    wire: Wire,
    probe: Probe,
    n_vocab: usize,
) -> Result<(Vec<String>, Tried), String> {
    let listen = free_port().map_err(|error| error.to_string())?;
    let launch = launch(listen);
    let flags = flags(&launch);
    let server = Server::start(launch).await.map_err(|error| error.to_string())?;
    let target = Target::new(Client::new(listen), wire);
    // Prompts differ, so that none is answered from another's cache.
    let mut random = Random::new(1);
    let mut request = |max_tokens| Request {
        prompt: (0..probe.prompt).map(|_| random.below(n_vocab) as u32).collect(),
        max_tokens,
    };
    let warm_up = target.ask(&request(2.min(probe.output)), DEADLINE).await;
    let requests: Vec<_> = (0..ROUNDS * probe.concurrency).map(|_| request(probe.output)).collect();
    let records = closed_loop(&target, &requests, probe.concurrency, DEADLINE).await;
    let outcome = outcome(&warm_up, &records);
    server.stop().await.map_err(|error| error.to_string())?;
    Ok((flags, outcome))
}

fn outcome(warm_up: &Record, records: &[Record]) -> Tried {
    let failure = std::iter::once(warm_up).chain(records).find_map(|record| match &record.outcome {
        Outcome::Complete(_) => None,
        other => Some(format!("{other:?}")),
    });
    let typical = |quantity| median(&distribution(records, quantity));
    match (failure, typical(Quantity::Tpot), typical(Quantity::Ttft)) {
        (None, tpot_ms, Some(ttft_ms)) => Tried::Measured { tpot_ms: tpot_ms.unwrap_or(0.0), ttft_ms },
        (Some(failure), ..) => Tried::Failed(failure),
        (None, ..) => Tried::Failed("no token came".to_owned()),
    }
}

/// A command line with its variables, without what belongs to this machine and this run: addresses, ports, folders.
#[must_use]
pub fn flags(launch: &Launch) -> Vec<String> {
    const LOCAL: [&str; 4] = ["--model", "--listen", "--host", "--port"];
    let mut kept: Vec<_> =
        launch.env.iter().map(|(name, value)| format!("{name}={}", file_name(value))).collect();
    let mut words = launch.args.iter().map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        if LOCAL.contains(&word.as_ref()) {
            words.next();
        } else {
            kept.push(file_name(&word).to_owned());
        }
    }
    kept
}

/// The last part of an absolute path; other words as they are.
fn file_name(word: &str) -> &str {
    if word.starts_with('/') { word.rsplit('/').next().unwrap_or(word) } else { word }
}

#[cfg(test)]
mod tests;

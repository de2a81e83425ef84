//! Tuning a reference before it is raced: each value of each knob against the settings chosen so far, recorded whole.
//!
//! One knob is moved at a time, from the usual settings. Before and after a move are loaded in turn, both servers up, so
//! that a machine that becomes slower meanwhile becomes so for both; a move is kept when it makes the time per output
//! token clearly shorter in every round, or leaves it and makes the time to first token clearly shorter in every round.
//! A near-tie thus leaves the usual settings, and not what luck favoured. What was tried, what failed and what was chosen
//! are data; the same job is not swept twice on the same processor.

mod duel;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use synth::hex;
use synth::model::Model;

use super::{Job, Knob, Prepared, Reference, ReferenceError, Settings};
use crate::bench::Host;
use crate::process::Launch;

use duel::Arena;

/// Format of the record; another number is another sweep.
const VERSION: u32 = 3;

/// Length of a probe's prompts, tokens, where the context has room.
const PROMPT: usize = 96;

/// Length of a probe's answers, tokens, where the context has room.
const OUTPUT: usize = 24;

/// What a sweep tried and chose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Format of this record.
    pub version: u32,
    /// Digest of all that the outcome may depend on: the runtime's version, the model, the job, the processor.
    pub depends_on: String,
    /// The processor.
    pub cpu: String,
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

/// One start of the reference, against the settings chosen before it.
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
    /// Medians over the rounds.
    Measured {
        /// Time per output token after the first, ms.
        tpot_ms: f64,
        /// Time to first token, ms.
        ttft_ms: f64,
        /// The same ÷ that of the settings chosen before, round by round; empty for the first settings.
        tpot_ratios: Vec<f64>,
        /// The same of the time to first token.
        ttft_ratios: Vec<f64>,
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
    let path = record_path(reference, job);
    let file = |source| ReferenceError::File { path: path.clone(), source };
    let depends_on = depends_on(reference, job, &model)?;
    if let Some(sweep) = kept(&path, &depends_on) {
        return Ok(sweep);
    }
    let sweep = sweep(reference, prepared, (job, depends_on), model.dims.vocab, progress).await?;
    let text = serde_json::to_string_pretty(&sweep).map_err(|error| file(error.into()))?;
    // What a reference says of a failure names its files; the record may be committed.
    let text = text.replace(&*job.target_dir.to_string_lossy(), "target");
    fs::write(&path, text + "\n").map_err(file)?;
    Ok(sweep)
}

/// The sweep of a record, if it was made for this.
fn kept(path: &Path, depends_on: &str) -> Option<Sweep> {
    let text = fs::read_to_string(path).ok()?;
    serde_json::from_str::<Sweep>(&text).ok().filter(|sweep| sweep.depends_on == depends_on)
}

/// The record's file. A later sweep of the same job takes the place of one that was made for another version or processor.
fn record_path(reference: &dyn Reference, job: &Job) -> PathBuf {
    let folder = job.tuning_dir.clone().unwrap_or_else(|| job.home(reference.name()));
    let model = job.model_dir.file_name().unwrap_or(job.model_dir.as_os_str()).to_string_lossy();
    let Job { format, context, concurrency, .. } = job;
    folder.join(format!("{model}-{format}-{concurrency}x{context}-{}.json", reference.name()))
}

fn depends_on(reference: &dyn Reference, job: &Job, model: &Model) -> Result<String, ReferenceError> {
    let digests = model.digests()?;
    let depends_on = format!(
        "{VERSION} {} {} {} {} {} {} {} {} {}",
        reference.name(),
        reference.version(),
        digests.weights,
        digests.config,
        job.threads,
        job.context,
        job.concurrency,
        job.format,
        Host::read().cpu,
    );
    Ok(hex(&Sha256::digest(depends_on)[..8]))
}

async fn sweep(
    reference: &dyn Reference,
    prepared: &Prepared,
    (job, depends_on): (&Job, String),
    n_vocab: usize,
    progress: &dyn Fn(&str),
) -> Result<Sweep, ReferenceError> {
    let prompt = PROMPT.min(job.context / 2).max(1);
    let output = OUTPUT.min(job.context - prompt).max(1);
    let probe = Probe { prompt, output, concurrency: job.concurrency };
    let knobs = reference.knobs(job);
    let first = Settings::first(&knobs);
    progress(&format!("tuning {}: {first}", reference.name()));
    let launch = |settings: &Settings, listen| reference.launch(prepared, job, settings, listen);
    let mut arena = Arena::open(&launch, reference.wire(), probe, n_vocab, &first).await;
    let chosen = descend(&knobs, async |settings: &Settings| {
        progress(&format!("tuning {}: {settings}", reference.name()));
        arena.challenge(settings).await
    })
    .await;
    let (trials, failure) = arena.close().await;
    if let Some(reason) = failure {
        let (name, model) = (reference.name(), job.model_dir.clone());
        return Err(ReferenceError::Unsupported { name, model, reason });
    }
    Ok(Sweep {
        version: VERSION,
        depends_on,
        cpu: Host::read().cpu,
        reference: reference.name().to_owned(),
        reference_version: reference.version().to_owned(),
        probe,
        trials,
        chosen,
    })
}

/// Moves one knob after another from the usual settings, and keeps each move that wins against those before it.
async fn descend(knobs: &[Knob], mut wins: impl AsyncFnMut(&Settings) -> bool) -> Settings {
    let mut chosen = Settings::first(knobs);
    for knob in knobs {
        for value in knob.values.iter().skip(1) {
            let settings = chosen.with(knob.name, value);
            if wins(&settings).await {
                chosen = settings;
            }
        }
    }
    chosen
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

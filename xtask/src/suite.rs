//! `cargo xtask bench --suite cpu`: every model in every format, own against all engines there are, a cell at a time.

use std::{
    collections::BTreeMap,
    fs, iter,
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use harness::{
    bench::Contender,
    build::Artifact,
    ledger::{self, Provenance, SuiteEntry, SuiteRace},
    probe::dot_rates,
    process::free_port,
    prove::Proof,
    reference::{self, Format},
    suite::{self, Bound, Ceilings, Effort, Field, Job, Profile, Raced, Reads, Row, SlowMemory, Standing},
};
use serde_json::json;
use synth::feasibility::{self, MemoryPlan};
use tokio::runtime::Runtime;

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    pipeline::{self, Asked, Decided},
    race::{self, Length, Rules},
    repo::{self, Files},
    ui::Ui,
};

/// The suites there are, each with its models: shapes that `cargo xtask model` makes.
const SUITES: [(&str, [&str; 2]); 1] = [("cpu", ["llama-100m", "qwen3-0.6b"])];

/// Formats of a suite, widest first.
const FORMATS: [Format; 3] = [Format::Bf16, Format::Int8, Format::Int4];

/// Which part of a suite is run; what is not named is run whole.
#[derive(Debug, Clone, Args)]
pub struct Part {
    /// Run this suite, and not one workload: `cpu`.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["workload", "out"])]
    pub suite: Option<String>,
    /// This model of the suite; may be given more than once.
    #[arg(long = "model", value_name = "MODEL", requires = "suite")]
    models: Vec<String>,
    /// This format of weights: `bf16`, `int8` or `int4`; may be given more than once.
    #[arg(long = "precision", value_name = "FORMAT", requires = "suite")]
    precisions: Vec<String>,
    /// This row; may be given more than once.
    #[arg(long = "row", value_name = "ROW", requires = "suite")]
    rows: Vec<String>,
}

/// The models, formats and rows of a run.
struct Chosen {
    suite: &'static str,
    models: Vec<&'static str>,
    formats: Vec<Format>,
    rows: Vec<Row>,
}

/// Runs a part of a suite. Each cell is recorded as soon as it is done, so a run that is broken off loses one.
pub fn run(name: &str, part: &Part, rules: &Rules, ui: &Ui) -> Outcome {
    let chosen = chosen(name, part)?;
    let runtime = pipeline::runtime()?;
    let from = Provenance::of(&repo::root());
    let mut progress = Progress { started: Instant::now(), n_done: 0, n_cells: n_cells(&chosen) };
    let mut entries: Vec<SuiteEntry> = Vec::new();
    for model in &chosen.models {
        for format in &chosen.formats {
            let run =
                Run { chosen: &chosen, model, format: *format, rules, runtime: &runtime, from: &from, ui };
            entries.extend(run.profiles(&mut progress)?);
        }
    }
    let all = ledger::read_suite(&ledger_of(name)).or_exit(Exit::Internal)?;
    ui.print(suite::terminal(&all));
    ui.print_json(&json!({"version": 1, "suite": name, "ledger": ledger_of(name), "cells": entries}));
    Ok(())
}

/// Shows the table of a suite from its ledger.
pub fn report(name: &str, ui: &Ui) -> Outcome {
    suite(name)?;
    let entries = ledger::read_suite(&ledger_of(name)).or_exit(Exit::Internal)?;
    ui.print(suite::terminal(&entries));
    ui.print_json(&json!({"version": 1, "suite": name, "ledger": ledger_of(name), "cells": entries}));
    Ok(())
}

/// The table of every suite, as a document holds it.
pub fn markdown() -> Outcome<String> {
    let tables = SUITES.iter().map(|(name, _)| {
        ledger::read_suite(&ledger_of(name)).map(|it| suite::markdown(&it)).or_exit(Exit::Internal)
    });
    tables.collect()
}

/// Where the cells of a suite are kept.
pub fn ledger_of(name: &str) -> PathBuf {
    repo::root().join(format!("workloads/ledger/suite-{name}.jsonl"))
}

fn suite(name: &str) -> Outcome<(&'static str, &'static [&'static str])> {
    let known = SUITES.iter().find(|(it, _)| *it == name);
    known.map(|(name, models)| (*name, models.as_slice())).ok_or_else(|| {
        let names: Vec<_> = SUITES.iter().map(|(name, _)| *name).collect();
        Failure::new(Exit::Usage, format!("there is no suite {name}; there are {}", names.join(", ")))
    })
}

fn chosen(name: &str, part: &Part) -> Outcome<Chosen> {
    let (suite, models) = suite(name)?;
    let rows: Vec<_> = Row::ALL.into_iter().map(|row| (row.name(), row)).collect();
    let formats: Vec<_> = FORMATS.into_iter().map(|format| (format.name(), format)).collect();
    let models: Vec<_> = models.iter().map(|model| (*model, *model)).collect();
    Ok(Chosen {
        suite,
        models: some("model", &part.models, &models)?,
        formats: some("precision", &part.precisions, &formats)?,
        rows: some("row", &part.rows, &rows)?,
    })
}

/// Those of `all` that are asked for, all of them where none is.
fn some<T: Copy>(what: &str, asked: &[String], all: &[(&str, T)]) -> Outcome<Vec<T>> {
    if let Some(unknown) = asked.iter().find(|name| !all.iter().any(|(it, _)| it == name)) {
        let known: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        let message = format!("the suite has no {what} {unknown}; it has {}", known.join(", "));
        return Err(Failure::new(Exit::Usage, message));
    }
    let is_asked = |name: &str| asked.is_empty() || asked.iter().any(|it| it == name);
    Ok(all.iter().filter(|(name, _)| is_asked(name)).map(|(_, it)| *it).collect())
}

fn n_cells(chosen: &Chosen) -> usize {
    chosen.models.len() * chosen.formats.len() * chosen.rows.len()
}

/// How far a run is, in cells.
struct Progress {
    started: Instant,
    n_done: usize,
    n_cells: usize,
}

impl Progress {
    /// What remains, as far as the cells that are done can tell.
    fn words(&self) -> String {
        let (done, all) = (self.n_done, self.n_cells);
        let left =
            (done > 0).then(|| self.started.elapsed().as_secs_f64() / done as f64 * (all - done) as f64);
        let left = left.map_or(String::new(), |seconds| format!(", about {:.0} min left", seconds / 60.0));
        format!("cell {} of {all}{left}", (done + 1).min(all))
    }
}

/// One model in one format.
struct Run<'a> {
    chosen: &'a Chosen,
    model: &'a str,
    format: Format,
    rules: &'a Rules,
    runtime: &'a Runtime,
    from: &'a Provenance,
    ui: &'a Ui,
}

/// An own binary that is proven, and what it holds.
struct Own {
    asked: Asked,
    decided: Decided,
    artifact: Artifact,
    proof: Proof,
}

impl Run<'_> {
    /// Runs the chosen rows of both profiles.
    fn profiles(&self, progress: &mut Progress) -> Outcome<Vec<SuiteEntry>> {
        let mut entries = Vec::new();
        for profile in Profile::ALL {
            let rows: Vec<Row> =
                self.chosen.rows.iter().copied().filter(|row| row.profile() == profile).collect();
            if rows.is_empty() {
                continue;
            }
            match self.own(profile) {
                Ok(own) => entries.extend(self.race(&own, &rows, progress)?),
                // What a rule refuses is a fact of the table; everything else has to be mended first.
                Err(failure) if failure.exit == Exit::Spec => {
                    let why = reason(&failure.message);
                    self.ui.say("Without", format_args!("{} in {}: {why}", self.model, self.format));
                    let cell = (self.model, self.format);
                    let refused =
                        ledger::append_refusal(&self.ledger(), self.chosen.suite, cell, &why, self.from);
                    entries.extend(refused.or_exit(Exit::Internal)?);
                    progress.n_done += rows.len();
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(entries)
    }

    fn ledger(&self) -> PathBuf {
        ledger_of(self.chosen.suite)
    }

    /// Where what tuning tried and chose is kept, beside the specs.
    fn tuning_dir(&self) -> Outcome<PathBuf> {
        let folder = repo::root().join(format!("workloads/suite/{}/tuning", self.chosen.suite));
        fs::create_dir_all(&folder).or_exit(Exit::Internal)?;
        Ok(folder)
    }

    /// From the spec to a proven binary, in the build folder. A proof that stands is not made again.
    fn own(&self, profile: Profile) -> Outcome<Own> {
        let name = format!("{}-{}{}", self.model.replace('.', "-"), self.format, profile.suffix());
        let files = Files::of_suite(self.chosen.suite, &name)?;
        let asked = Asked::read(files, self.ui)?;
        let machine = pipeline::probe(&asked, self.ui)?;
        let decided = Decided::here(&asked, &machine, self.ui)?;
        let write = |file: &PathBuf, text: String| fs::write(file, text).or_exit(Exit::Internal);
        if let Some(calibration) = &decided.calibration {
            write(&asked.files.calibration, calibration.to_json())?;
        }
        write(&asked.files.plan, decided.plan.to_yaml())?;
        decided.emit(&asked)?.write_to(&asked.files.crate_dir).or_exit(Exit::Internal)?;
        let artifact = decided.build(&asked, self.ui)?;
        let proof = match pipeline::standing_proof(&artifact) {
            Some(proof) => proof,
            None => pipeline::prove(&asked, &artifact, self.runtime, self.ui)?,
        };
        self.ui.say("Proven", format_args!("{name}: {}", pipeline::proven(&proof)));
        Ok(Own { asked, decided, artifact, proof })
    }

    /// Races the rows of one profile and records each.
    fn race(&self, own: &Own, rows: &[Row], progress: &mut Progress) -> Outcome<Vec<SuiteEntry>> {
        let workload = &own.asked.workload;
        let memory = &own.decided.memory;
        let job = reference::Job {
            model_dir: own.artifact.model_dir.clone(),
            threads: workload.target.threads,
            context: feasibility::max_positions(workload),
            concurrency: workload.traffic.concurrency,
            format: self.format,
            target_dir: repo::target(),
            tuning_dir: Some(self.tuning_dir()?),
        };
        let ready = race::field(&own.asked, &job, self.rules, self.runtime, self.ui)?;
        let listen = free_port().or_exit(Exit::Environment)?;
        let log = repo::target().join(format!("{}.log", own.artifact.name));
        let contender = Contender::own(&own.artifact, listen, log);
        let peers: Vec<Contender> = ready.iter().filter_map(|it| it.contender.clone().ok()).collect();
        let field = Field { own: (&contender, &own.artifact, &own.proof), peers: &peers };
        let slow = self.place(iter::once(&contender).chain(&peers));
        let machine = pipeline::probe(&own.asked, self.ui)?;
        let ceilings = Ceilings::of(&machine, dot_rates(workload.target.threads));
        if let Some(disturbed) = machine.noise.disturbance() {
            self.ui.say("Noise", format_args!("while the ceilings were measured {disturbed}"));
        }
        let seed = self.rules.seed.unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
        });
        let reads = reads(&own.asked, memory);
        let bound = |row| Bound::of((row, self.format), &own.asked.model, reads, &ceilings);
        let bounds = rows.iter().filter_map(|row| Some((*row, bound(*row)?))).collect();
        let suite_job = suite_job(&own.asked, memory, bounds, seed);
        let effort = match self.rules.length {
            Length::Quick => Effort::quick(),
            Length::Full => Effort::full(),
        };
        let step = self.ui.step("Suite", format!("{} in {}", self.model, self.format));
        let mut entries = Vec::new();
        let mut failed = None;
        let state = std::cell::RefCell::new(progress);
        let mut note = |what: &str| step.note(&format!("{}; {what}", state.borrow().words()));
        let mut on_row = |mut raced: Raced| {
            for peer in &mut raced.peers {
                peer.agreement = ready.iter().find(|it| it.name == peer.name).and_then(|it| it.agreement);
            }
            raced.peers.extend(ready.iter().filter_map(race::Ready::absent));
            state.borrow_mut().n_done += 1;
            match self.record(own, &raced, (&ceilings, reads), (&effort, seed)) {
                Ok(entry) => {
                    let words = state.borrow().words();
                    self.ui.say("Recorded", format_args!("{}; {words}", told(&raced, &entry)));
                    entries.push(entry);
                }
                Err(failure) => failed = Some(failure),
            }
        };
        let racing = suite::run(&suite_job, &field, rows, &effort, &mut note, &mut on_row);
        self.runtime.block_on(racing).or_exit(Exit::Internal)?;
        drop(slow);
        step.done();
        failed.map_or(Ok(entries), Err)
    }

    /// Nobody's files in slow memory, nor what anybody takes from now on; held as long as it is kept.
    fn place<'c>(&self, field: impl Iterator<Item = &'c Contender>) -> Option<SlowMemory> {
        let slow = suite::place_anew(field.map(|contender| &contender.launch)).ok()?;
        let ([usual, reached], mib) = (slow.rates, slow.bytes() >> 20);
        if mib > 0 {
            self.ui.say(
                "Held",
                format_args!(
                    "{mib} MiB of memory that reads at {reached:.1} GB/s, where most does at {usual:.1}"
                ),
            );
        }
        Some(slow)
    }

    fn record(
        &self,
        own: &Own,
        raced: &Raced,
        (ceilings, reads): (&Ceilings, Reads),
        (effort, seed): (&Effort, u64),
    ) -> Outcome<SuiteEntry> {
        let plan = own.decided.plan.decisions.iter();
        let race = SuiteRace {
            suite: self.chosen.suite,
            model: self.model,
            format: self.format,
            plan: plan
                .map(|(axis, decision)| (axis.name().to_owned(), decision.mechanism.clone()))
                .collect::<BTreeMap<_, _>>(),
            raced,
            proof: &own.proof,
            ceilings,
            reads,
            depth: effort.depth,
            seed,
        };
        ledger::append_race(&self.ledger(), &race, self.from).or_exit(Exit::Internal)
    }
}

/// What the rows of a workload ask.
pub fn suite_job<'a>(
    asked: &'a Asked,
    memory: &MemoryPlan,
    bounds: BTreeMap<Row, Bound>,
    seed: u64,
) -> Job<'a> {
    Job {
        workload: &asked.workload,
        context: feasibility::max_positions(&asked.workload),
        vocab: asked.model.dims.vocab as u32,
        avoid: asked.model.eos.iter().copied().chain(asked.model.bos).collect(),
        bounds,
        held_bytes: (memory.weights, memory.kv_bytes),
        seed,
    }
}

/// Bytes that the emitted binary reads, by its plan.
pub fn reads(asked: &Asked, memory: &MemoryPlan) -> Reads {
    let positions = memory.kv_blocks * memory.block as u64;
    Reads::of(&asked.model, memory.held, memory.kv_bytes / positions.max(1))
}

/// A refusal without the place of its file, for a table.
fn reason(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    first.split_once(".yaml: ").map_or(first, |(_, reason)| reason).to_owned()
}

/// A cell in a line.
fn told(raced: &Raced, entry: &SuiteEntry) -> String {
    let best = raced.best.and_then(|idx| {
        let peer = &raced.peers[idx];
        Some(format!("{:.2} × {}", 1.0 / peer.figures.first()?.ratio[1], peer.name))
    });
    let standing = match (&raced.void, entry.standing()) {
        (Some(why), Standing::Void) => format!("void: {why}"),
        (_, standing) if entry.misses().is_empty() => standing.word().to_owned(),
        (_, standing) => format!("{}: {}", standing.word(), entry.misses().join("; ")),
    };
    format!("{}: {}, {standing}", raced.row.name(), best.unwrap_or_else(|| "nobody to race".to_owned()))
}

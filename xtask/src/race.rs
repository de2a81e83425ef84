//! From a proven binary to a comparison: which references there are, how they are tuned, what is kept of the race.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};
use harness::{
    bench::{self, BenchError, Budget, Comparison, Contender, Roofline, decode_bytes},
    build::Artifact,
    ledger::{self, Entry, Provenance},
    probe::Machine,
    process::free_port,
    prove::Proof,
    reference::{self, Reference, ReferenceError, agreement, sweep},
    report,
    suite::Entrant,
};
use oracle::Oracle;
use synth::{feasibility, feasibility::MemoryPlan, model::Model};
use tokio::runtime::Runtime;

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    pipeline::Asked,
    repo,
    ui::Ui,
};

/// How a race is run.
#[derive(Debug, Clone, Args)]
pub struct Rules {
    /// Race this reference, and not every one that is installed; may be given more than once.
    #[arg(long = "reference", value_name = "NAME")]
    pub references: Vec<String>,
    /// How long to measure: `quick` is a look, `full` is worth an entry in a table.
    #[arg(long, value_enum, default_value_t = Length::Quick)]
    pub length: Length,
    /// Seed of traffic and order; drawn from the clock unless given, and recorded either way.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// How long to measure.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Length {
    /// Seconds.
    Quick,
    /// Minutes per reference: also prefill, full concurrency and the throughput–latency curve.
    Full,
}

/// A race that was run and recorded.
pub struct Raced {
    /// What it showed.
    pub comparison: Comparison,
    /// Its line of the ledger.
    pub entry: Entry,
}

/// Races a proven binary, appends the ledger and writes the reports.
pub fn race(
    asked: &Asked,
    memory: &MemoryPlan,
    (artifact, proof): (&Artifact, &Proof),
    machine: &Machine,
    rules: &Rules,
    runtime: &Runtime,
    ui: &Ui,
) -> Outcome<Raced> {
    let workload = &asked.workload;
    let context = feasibility::max_positions(workload);
    let job = reference::Job {
        model_dir: artifact.model_dir.clone(),
        threads: workload.target.threads,
        context,
        concurrency: workload.traffic.concurrency,
        format: memory.held.layers.precision().into(),
        target_dir: repo::target(),
        tuning_dir: None,
    };
    let contenders = contenders(asked, &job, rules, runtime, ui)?;

    let n_positions = workload.traffic.prompt.p50 + workload.traffic.output.p50 / 2;
    let bytes_per_token = decode_bytes(&asked.model, memory.held, memory.kv, n_positions);
    let race = bench::Job {
        workload,
        context,
        vocab: asked.model.dims.vocab as u32,
        avoid: asked.model.eos.iter().copied().chain(asked.model.bos).collect(),
        roofline: Some(Roofline { bytes_per_token, read_gb_s: machine.read_gb_s }),
        seed: rules.seed.unwrap_or_else(clock_seed),
    };
    let listen = free_port().or_exit(Exit::Environment)?;
    let own = Contender::own(artifact, listen, repo::target().join(format!("{}.log", artifact.name)));
    let budget = match rules.length {
        Length::Quick => Budget::quick(),
        Length::Full => Budget::full(),
    };
    let step = ui.step("Race", artifact.name.clone());
    let mut note = |what: &str| step.note(what);
    let racing = bench::bench(&race, &own, (artifact, proof), &contenders, &budget, &mut note);
    let comparison = runtime.block_on(racing).map_err(|error| {
        let exit = match &error {
            BenchError::ProofFailed { .. } | BenchError::OtherBinary { .. } => Exit::Proof,
            BenchError::NoReference => Exit::Environment,
            _ => Exit::Internal,
        };
        Failure::new(exit, error)
    })?;
    step.done();
    let entry = ledger::append(&asked.files.ledger, &comparison, proof, &Provenance::of(&repo::root()))
        .or_exit(Exit::Internal)?;
    write_reports(&asked.files.reports, &comparison, memory).or_exit(Exit::Internal)?;
    ui.say("Recorded", format_args!("entry {} of {}", entry.id(), repo::shown(&asked.files.ledger)));
    Ok(Raced { comparison, entry })
}

/// The references to race, ready and tuned. One that is not installed, or cannot run the model, is named and left out,
/// unless it was asked for.
fn contenders(
    asked: &Asked,
    job: &reference::Job,
    rules: &Rules,
    runtime: &Runtime,
    ui: &Ui,
) -> Outcome<Vec<Contender>> {
    let field = field(asked, job, rules, runtime, ui)?;
    Ok(field.into_iter().filter_map(|ready| ready.contender.ok()).collect())
}

/// A reference that can be raced, or why not.
pub struct Ready {
    /// Its name.
    pub name: &'static str,
    version: &'static str,
    /// How it is started, or why it is absent.
    pub contender: Result<Contender, String>,
    /// Answers that agreed with the oracle's, and all that were asked for.
    pub agreement: Option<[usize; 2]>,
}

impl Ready {
    /// A line of a table for one that is absent.
    pub fn absent(&self) -> Option<Entrant> {
        let absent = Some(self.contender.as_ref().err()?.clone());
        let (name, version) = (self.name.to_owned(), self.version.to_owned());
        Some(Entrant { name, version, flags: vec![], agreement: None, figures: vec![], heat: None, absent })
    }
}

/// Every reference there is, ready and tuned, or with the reason why it is absent.
pub fn field(
    asked: &Asked,
    job: &reference::Job,
    rules: &Rules,
    runtime: &Runtime,
    ui: &Ui,
) -> Outcome<Vec<Ready>> {
    let chosen: Vec<&dyn Reference> =
        rules.references.iter().map(|name| by_name(name)).collect::<Outcome<_>>()?;
    let is_chosen = |reference: &dyn Reference| {
        chosen.is_empty() || chosen.iter().any(|it| it.name() == reference.name())
    };
    let expected = expected(&asked.model).or_exit(Exit::Internal)?;
    let mut field = Vec::new();
    for reference in reference::ALL {
        let made = match is_chosen(reference) {
            true => contender(reference, job, &expected, runtime, ui),
            false => {
                let contender = Err("not asked for in this run".to_owned());
                let (name, version) = (reference.name(), reference.version());
                field.push(Ready { name, version, contender, agreement: None });
                continue;
            }
        };
        let (contender, agreement) = match made {
            Ok((contender, agreement)) => (Ok(contender), Some([agreement.n_agreeing, agreement.n_asked])),
            Err(error) if chosen.is_empty() || matches!(error, ReferenceError::Lacks { .. }) => {
                ui.say("Without", &error);
                (Err(error.to_string()), None)
            }
            Err(error) => {
                let exit = if error.is_environment() { Exit::Environment } else { Exit::Internal };
                return Err(Failure::new(exit, error));
            }
        };
        let (name, version) = (reference.name(), reference.version());
        field.push(Ready { name, version, contender, agreement });
    }
    Ok(field)
}

/// The reference of that name.
pub fn by_name(name: &str) -> Outcome<&'static dyn Reference> {
    reference::by_name(name).ok_or_else(|| {
        let known: Vec<_> = reference::ALL.iter().map(|it| it.name()).collect();
        Failure::new(Exit::Usage, format!("there is no reference {name}; there are {}", known.join(", ")))
    })
}

/// Program and model, unless the reference has no weights of the format.
pub fn prepare(
    reference: &dyn Reference,
    job: &reference::Job,
    note: &dyn Fn(&str),
) -> Result<reference::Prepared, ReferenceError> {
    match reference.lacks(job.format) {
        Some(reason) => Err(ReferenceError::Lacks { name: reference.name(), format: job.format, reason }),
        None => reference.prepare(job, note),
    }
}

/// Prepares, tunes and checks one reference.
fn contender(
    reference: &dyn Reference,
    job: &reference::Job,
    expected: &[agreement::Expected],
    runtime: &Runtime,
    ui: &Ui,
) -> Result<(Contender, agreement::Agreement), ReferenceError> {
    let step = ui.step("Prepare", reference.name());
    let note = |what: &str| step.note(what);
    let prepared = prepare(reference, job, &note)?;
    let sweep = runtime.block_on(sweep::tune(reference, &prepared, job, &note))?;
    note("asking it what the oracle was asked");
    let agreement = runtime
        .block_on(agreement::check(reference, &prepared, job, &sweep.chosen, expected))
        .map_err(|reason| ReferenceError::Unsupported {
            name: reference.name(),
            model: job.model_dir.clone(),
            reason,
        })?;
    step.done();
    let (agreeing, all) = (agreement.n_agreeing, agreement.n_asked);
    if !agreement.is_same_model() {
        let first = agreement.first.clone().unwrap_or_default();
        let reason =
            format!("it computes another model: {agreeing} of {all} answers as the oracle's ({first})");
        return Err(ReferenceError::Unsupported {
            name: reference.name(),
            model: job.model_dir.clone(),
            reason,
        });
    }
    let differs = agreement.first.as_ref().map_or(String::new(), |first| format!(" ({first})"));
    ui.say(
        "Tuned",
        format_args!(
            "{} {}: {}; {agreeing} of {all} answers as the oracle's{differs}",
            reference.name(),
            reference.version(),
            sweep.chosen
        ),
    );
    let listen = free_port().map_err(|source| ReferenceError::File { path: "127.0.0.1".into(), source })?;
    let launch = reference.launch(&prepared, job, &sweep.chosen, listen);
    let contender = Contender {
        name: reference.name().to_owned(),
        version: reference.version().to_owned(),
        flags: sweep::flags(&launch),
        wire: reference.wire(),
        launch,
    };
    Ok((contender, agreement))
}

/// Prompts and answers that a reference is asked for: enough to see another model, too few to take long.
const N_PROMPTS: usize = 4;
/// Tokens of each prompt, and of each answer.
const N_TOKENS: usize = 8;

/// What the oracle answers to a few prompts, drawn from the model's whole vocabulary.
pub fn expected(model: &Model) -> Result<Vec<agreement::Expected>, oracle::OracleError> {
    let oracle = Oracle::open(&model.folder)?;
    (0..N_PROMPTS)
        .map(|prompt_idx| {
            // Spread over the vocabulary by a stride that shares no factor with most sizes; the values do not matter.
            let token = |idx: usize| ((prompt_idx * N_TOKENS + idx + 1) * 7919 % model.dims.vocab) as u32;
            let prompt: Vec<u32> = (0..N_TOKENS).map(token).collect();
            let ids = oracle.greedy(&prompt, N_TOKENS)?.into_iter().map(|(id, _)| id).collect();
            Ok(agreement::Expected { prompt, ids })
        })
        .collect()
}

/// Writes the comparison in every form it is read in.
pub fn write_reports(folder: &Path, comparison: &Comparison, memory: &MemoryPlan) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let parts = [
        ("weights".to_owned(), memory.weights),
        ("KV blocks".to_owned(), memory.kv_bytes),
        ("scratch".to_owned(), memory.scratch),
    ];
    fs::write(folder.join("comparison.json"), format!("{:#}\n", report::json(comparison)))?;
    fs::write(folder.join("report.txt"), report::terminal(comparison))?;
    fs::write(folder.join("report.md"), report::markdown(comparison))?;
    fs::write(folder.join("report.html"), report::html(comparison, &parts))
}

/// A seed that nobody chose.
fn clock_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

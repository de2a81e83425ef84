//! Proving a binary: against the oracle, against itself on every execution surface, against recorded truths.
//!
//! [`prove`] starts the program as its users do and asks it over HTTP. Reading order: `cases` collects the prompts,
//! `truth` asks the oracle, `compare` holds the answers against it; `laws`, `sampling` and `pressure` hold answers of
//! one binary against each other, bit by bit; `held_out` scores text, and `golden` and `identity` look beyond the
//! numbers.

mod ask;
mod cases;
mod compare;
mod golden;
mod held_out;
mod identity;
mod laws;
mod pressure;
mod proof;
mod sampling;
#[cfg(test)]
mod stand_in;
mod subject;
#[cfg(test)]
mod tests;
mod truth;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oracle::{Oracle, OracleError};
use synth::model::Model;
use synth::workload::{Sample, SpecErrors, Workload};

use crate::build::Artifact;
use crate::process::{Launch, ProcessError, Server, free_port};
use ask::{Answer, Ask, Fault};
use cases::Case;
use golden::Golden;
use held_out::Scored;
use proof::Check;
use subject::Subject;
use truth::Truth;

pub(crate) use truth::{TIE, gap};

pub use proof::{Digests, HeldOut, Measures, Proof, Source, Surface, VERSION, Verdict};

/// How long the binary may take until it answers `/health`: it maps weights and takes its memory.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Why there is no proof, neither passed nor failed.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The oracle cannot compute the model.
    #[error("the oracle cannot say what is true: {0}")]
    Oracle(#[from] OracleError),
    /// The binary did not start, or did not end.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// No port, or no log.
    #[error("cannot prepare to start the binary: {0}")]
    Prepare(#[from] std::io::Error),
    /// The spec's samples changed since they were checked.
    #[error(transparent)]
    Samples(#[from] SpecErrors),
    /// The golden file cannot be read.
    #[error("{}: not a golden file: {reason}", path.display())]
    Golden {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What is known of a model beside its folder, where it was recorded.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// What HF transformers says about it.
    pub golden: Option<PathBuf>,
    /// Text that it was not trained on.
    pub held_out: Option<PathBuf>,
}

/// Proves `artifact`: starts its binary, and holds its answers against `model`'s oracle and against each other.
///
/// `model` is the folder the plan was made for; the binary serves `artifact.weights`, the image made of it. A binary that
/// answers wrongly, or not at all, gets a failed [`Proof`]. `progress` is told what is being checked.
///
/// # Errors
/// When the binary does not start, the oracle cannot read the model, or a file cannot be read.
pub async fn prove(
    artifact: &Artifact,
    workload: &Workload,
    model: &Model,
    recorded: &Recorded,
    progress: &dyn Fn(&str),
) -> Result<Proof, ProveError> {
    let listen = free_port()?;
    let server = Server::start(launch(artifact, listen)).await?;
    let proof = question(server.addr(), artifact, (workload, model, recorded), progress).await;
    server.stop().await?;
    proof
}

/// The proof of the server that listens at `addr`.
async fn question(
    addr: SocketAddr,
    artifact: &Artifact,
    (workload, model, recorded): (&Workload, &Model, &Recorded),
    progress: &dyn Fn(&str),
) -> Result<Proof, ProveError> {
    progress("asking the oracle");
    let oracle = Oracle::open(&model.folder)?;
    let golden = recorded.golden.as_deref().map(Golden::read).transpose()?;
    let text = recorded.held_out.as_ref().map(fs::read_to_string).transpose()?;
    let samples = workload.samples()?;
    let mut proof = Proof::of(artifact);
    let mut routes = Check::new("routes", "the operational routes answer, before and after everything else");
    match Exam::prepare(addr, workload, model, (&samples, text.as_deref()), &oracle).await? {
        Err(fault) => routes.case("before", Some(fault)),
        Ok(exam) => {
            // Its copy of the weights has served its purpose, and the server may want the memory.
            drop(oracle);
            routes.case("before", None);
            proof.n_cases = exam.cases.len();
            proof.n_oracle_tokens = exam.checked().map(|(_, truth, _)| truth.logprobs.len()).sum();
            examine(&exam, (workload, golden.as_ref()), &mut proof, progress).await;
            proof.surfaces.push(identity::identity(&exam.subject, artifact).await);
            routes.case("after", subject::get(&exam.subject.client, "/health").await.err());
        }
    }
    proof.surfaces.push(routes.done());
    Ok(proof.judged())
}

/// The program as its users start it, logging beside itself.
fn launch(artifact: &Artifact, listen: SocketAddr) -> Launch {
    let log = artifact.binary.with_extension(format!("prove-{}.log", listen.port()));
    let args =
        ["--weights".into(), artifact.weights.clone().into(), "--listen".into(), listen.to_string().into()];
    Launch {
        program: artifact.binary.clone(),
        args: args.into(),
        env: Vec::new(),
        listen,
        ready_path: "/health",
        timeout: READY_WITHIN,
        log,
    }
}

/// Every surface, in the order of the report.
async fn examine(
    exam: &Exam,
    (workload, golden): (&Workload, Option<&Golden>),
    proof: &mut Proof,
    progress: &dyn Fn(&str),
) {
    let tolerance = workload.tolerance;
    let surfaces = &mut proof.surfaces;
    progress("against the oracle");
    surfaces.push(compare::greedy(exam, tolerance, &mut proof.measures));
    let forced = compare::force(exam).await;
    surfaces.push(compare::teacher_forced(exam, &forced, tolerance, &mut proof.measures));
    if exam.subject.has_completions {
        surfaces.push(compare::rescored(exam, &forced));
    }
    if let Some(scored) = &exam.held_out {
        let mut check = Check::new("held_out", "text that decided nothing is scored, token by token");
        let compared = scored.compare(&exam.subject).await;
        check.case("all of it", compared.as_ref().err().cloned());
        surfaces.push(check.done());
        proof.held_out = compared.ok();
    }
    progress("in company, in pieces, found in the cache");
    surfaces.extend(laws::company(exam).await);
    surfaces.push(laws::chunked(exam).await);
    surfaces.push(laws::repeated(exam).await);
    surfaces.extend(laws::nearly_shared(exam).await);
    progress("streamed, drawn, counted");
    surfaces.push(laws::streamed(exam).await);
    surfaces.extend(laws::choices(exam).await);
    surfaces.extend(sampling::seeded(exam).await);
    surfaces.push(laws::counted(exam).await);
    progress("under pressure");
    surfaces.push(pressure::overload(exam).await);
    surfaces.extend(pressure::shared_blocks(exam).await);
    if let Some(golden) = golden {
        surfaces.extend(golden.surfaces(exam, tolerance).await);
    }
}

/// What every surface is held against: the cases, what the oracle says of them, and what each is answered alone.
struct Exam {
    subject: Subject,
    cases: Vec<Case>,
    /// The oracle's answers, of the checked cases.
    truths: Vec<Option<Truth>>,
    /// Text for a perplexity, where the server can be asked to score it.
    held_out: Option<Scored>,
    /// Each case asked while nothing else ran, its prompt echoed where the route can.
    alone: Vec<Result<Answer, Fault>>,
    /// Mean time of one of those.
    pace: Duration,
    /// Steps that the longest prompt took alone, by the server's own count.
    long_prompt_steps: Option<usize>,
    has_prefix_cache: bool,
}

impl Exam {
    async fn prepare(
        addr: SocketAddr,
        workload: &Workload,
        model: &Model,
        (samples, text): (&[Sample], Option<&str>),
        oracle: &Oracle,
    ) -> Result<Result<Exam, Fault>, ProveError> {
        let subject = match Subject::meet(addr, workload, model).await {
            Ok(subject) => subject,
            Err(fault) => return Ok(Err(fault)),
        };
        let cases = match cases::collect(&subject, workload, samples, oracle).await {
            Ok(cases) => cases,
            Err(fault) => return Ok(Err(fault)),
        };
        let truth = |case: &Case| case.is_checked.then(|| Truth::of(oracle, case)).transpose();
        let truths = cases.iter().map(truth).collect::<Result<_, _>>()?;
        let held_out = match Scored::prepare(&subject, (samples, text), oracle).await?.transpose() {
            Ok(held_out) => held_out,
            Err(fault) => return Ok(Err(fault)),
        };
        let mut exam = Exam {
            subject,
            cases,
            truths,
            held_out,
            alone: Vec::new(),
            pace: Duration::ZERO,
            long_prompt_steps: None,
            has_prefix_cache: false,
        };
        exam.ask_alone().await;
        Ok(Ok(exam))
    }

    /// Asks each case on its own; the longest comes last, so that its steps are counted apart.
    async fn ask_alone(&mut self) {
        let started = Instant::now();
        let steps = "vllm:iteration_tokens_total_count";
        for case in &self.cases {
            let before = if case.is_long { self.subject.metric(steps).await.ok() } else { None };
            let answer = self.cold(case).send(&self.subject.client).await;
            self.alone.push(answer);
            if let (Some(before), Ok(after)) = (before, self.subject.metric(steps).await) {
                // All but one of the generated tokens took a step of their own.
                self.long_prompt_steps = Some(((after - before) as usize + 1).saturating_sub(case.n_output));
            }
        }
        self.pace = started.elapsed() / self.cases.len().max(1) as u32;
        // A plain request looks the cache up; one that echoes may not.
        let queries = "vllm:prefix_cache_queries_total";
        let before = self.subject.metric(queries).await.unwrap_or(0.0);
        let _ = self.cases[0].ask.send(&self.subject.client).await;
        self.has_prefix_cache = self.subject.metric(queries).await.is_ok_and(|after| after > before);
    }

    /// A case as it is asked where its prompt should be computed and not found.
    fn cold(&self, case: &Case) -> Ask {
        laws::echoed(&case.ask, self.subject.has_completions)
    }

    /// Every case with its answer alone.
    fn each(&self) -> impl Iterator<Item = (&Case, &Result<Answer, Fault>)> + Clone {
        self.cases.iter().zip(&self.alone)
    }

    /// The cases that the oracle computed, with its answer and the server's.
    fn checked(&self) -> impl Iterator<Item = (&Case, &Truth, &Result<Answer, Fault>)> {
        let all = self.cases.iter().zip(&self.truths).zip(&self.alone);
        all.filter_map(|((case, truth), alone)| Some((case, truth.as_ref()?, alone)))
    }

    /// Most tokens that a case asks for.
    fn n_output(&self) -> usize {
        self.cases.iter().map(|case| case.n_output).max().unwrap_or(1)
    }

    /// A seed for the prompts of one surface: the same in every proof, another for each surface.
    fn seed(&self, surface: &str) -> u64 {
        surface.bytes().fold(0x5A71, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)))
    }
}

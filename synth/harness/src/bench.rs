//! The race: a proven binary against reference runtimes, in turns, on the same machine in the same minutes.
//!
//! Ratios are own ÷ reference and less is better. Absolute numbers belong to this machine and this hour; the ratios of
//! interleaved pairs are what can be told elsewhere.

mod cell;
mod host;
mod plan;
mod roofline;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use synth::workload::{Metric, Slo, Workload};

use crate::build::Artifact;
use crate::client::Client;
use crate::load::{Request, Synthesis, Target, TokenSample, TrafficError, Wire, closed_loop, tokenise};
use crate::metrics::Blocks;
use crate::process::{Launch, ProcessError, Server};
use crate::prove::{self, Digests, Proof};

pub use cell::{Cell, Measured};
pub use host::{Host, Noise};
pub use roofline::{Roofline, RooflineFraction, decode_bytes};

use cell::race;
pub(crate) use cell::{BlockRun, Work, fault, run_block, wall_per_token};
pub(crate) use host::Watch;
use plan::Pace;

/// The version of [`Comparison`] as JSON.
pub const VERSION: u32 = 1;

/// How long the own server may take until it answers `/health`.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A server to race: how to start it and how to speak to it.
#[derive(Debug, Clone)]
pub struct Contender {
    /// The runtime's name, as reports show it.
    pub name: String,
    /// Its version; the start of the plan's digest for the own server.
    pub version: String,
    /// The flags that its tuning chose.
    pub flags: Vec<String>,
    /// How it is spoken to.
    pub wire: Wire,
    /// How it is started.
    pub launch: Launch,
}

/// How much time to spend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Pairs of blocks per cell.
    pub pairs: usize,
    /// Aimed-at length of a closed-loop block on the slower side.
    pub block: Duration,
    /// Length of the schedule of an open-loop block.
    pub schedule: Duration,
    /// How long a block may run past its schedule; what is unfinished then makes the cell void.
    pub grace: Duration,
    /// Fresh starts of the own server to time.
    pub n_starts: usize,
    /// Whether prefill, full concurrency and the throughput–latency curve are measured too.
    pub depth: Depth,
}

/// Which cells a bench has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// `decode_c1` and `traffic`.
    Quick,
    /// Also `prefill`, `closed_N` and the curve.
    Full,
}

impl Contender {
    /// The binary of `artifact`, as its users start it, serving on `listen` and logging to `log`.
    #[must_use]
    pub fn own(artifact: &Artifact, listen: SocketAddr, log: PathBuf) -> Self {
        let weights = artifact.weights.clone().into();
        let args = vec!["--weights".into(), weights, "--listen".into(), listen.to_string().into()];
        Self {
            name: artifact.name.clone(),
            version: artifact.plan_digest.chars().take(12).collect(),
            flags: vec![],
            wire: Wire::OpenAi { model: artifact.name.clone() },
            launch: Launch {
                program: artifact.binary.clone(),
                args,
                env: vec![],
                listen,
                ready_path: "/health",
                timeout: READY_WITHIN,
                log,
            },
        }
    }
}

impl Budget {
    /// A look: under nine seconds for a tiny model and one reference.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            pairs: 6,
            block: Duration::from_millis(150),
            schedule: Duration::from_millis(300),
            grace: Duration::from_secs(5),
            n_starts: 3,
            depth: Depth::Quick,
        }
    }

    /// A measurement worth an entry: minutes per reference.
    #[must_use]
    pub fn full() -> Self {
        Self {
            pairs: 8,
            block: Duration::from_millis(1500),
            schedule: Duration::from_secs(6),
            grace: Duration::from_secs(60),
            n_starts: 5,
            depth: Depth::Full,
        }
    }
}

/// What is raced: the workload, and the facts of its model that traffic needs.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// The workload whose traffic is made and whose SLO counts.
    pub workload: &'a Workload,
    /// Most positions of prompt and output together, on every contender.
    pub context: usize,
    /// Prompt ids are drawn from `0..vocab`.
    pub vocab: u32,
    /// Ids never drawn: those that end or mark a text.
    pub avoid: Vec<u32>,
    /// What a decoded token must read, and how fast this machine reads; `None` leaves the roofline out.
    pub roofline: Option<Roofline>,
    /// Seed of traffic, order and intervals.
    pub seed: u64,
}

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum BenchError {
    #[error("{name} is not proven: its proof failed; run `cargo xtask prove {name}`")]
    ProofFailed { name: String },
    #[error("{name} is not proven: the proof is of binary {proven}, this is {built}; prove it again")]
    OtherBinary { name: String, proven: String, built: String },
    #[error("no reference runtime to race against; `cargo xtask reference candle` builds one")]
    NoReference,
    #[error("{name}: {source}")]
    Process { name: String, source: Box<ProcessError> },
    #[error("{name} does not answer a first request: {reason}; its log ends with:\n{log}")]
    Warmup { name: String, reason: String, log: String },
    #[error(transparent)]
    Traffic(#[from] TrafficError),
}

/// What a race showed. Only [`bench()`] makes one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Comparison {
    /// [`VERSION`].
    pub version: u32,
    /// The workload's name.
    pub workload: String,
    /// The metric that the spec minimises.
    pub minimise: Metric,
    /// Bounds that the spec keeps, milliseconds.
    pub keep_ms: BTreeMap<Metric, f64>,
    /// The binary that was raced and what it was made from, as its proof names them.
    pub proven: Digests,
    /// The own server.
    pub own: Side,
    /// Each reference, and the race against it; not empty.
    pub references: Vec<Versus>,
    /// Index in `references` of the strongest: the one that the own server beats by least, or loses to by most, in
    /// the headline metric. It is told by interleaved ratios, so a drift of the machine between races decides nothing.
    pub strongest: usize,
    /// Distance to what memory bandwidth allows, with one sequence.
    pub roofline: Option<RooflineFraction>,
    /// The machine.
    pub host: Host,
    /// How quiet the machine was.
    pub noise: Noise,
    /// Seed of traffic, order and intervals.
    pub seed: u64,
    /// Time spent as.
    pub budget: Budget,
}

/// One server in a race.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Flags that tuning chose.
    pub flags: Vec<String>,
    /// From exec to the first 2xx on the readiness path, one per fresh start, milliseconds.
    pub ready_ms: Vec<f64>,
    /// From exec to the first token of a request sent once ready, one per fresh start, milliseconds.
    pub first_token_ms: Vec<f64>,
    /// Most physical memory held, bytes.
    pub peak_rss_bytes: u64,
}

/// The race against one reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versus {
    /// The reference.
    pub reference: Side,
    /// One cell per kind of load; `decode_c1` is always there.
    pub cells: Vec<Cell>,
    /// Throughput and latency at rising concurrency.
    pub curve: Vec<CurvePoint>,
}

/// Both servers at one concurrency, one block each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// Requests in flight.
    pub concurrency: usize,
    /// The own server.
    pub own: OperatingPoint,
    /// The reference.
    pub reference: OperatingPoint,
}

/// Where a server ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatingPoint {
    /// Output tokens per second over the block.
    pub output_tokens_per_s: f64,
    /// Latencies, milliseconds.
    pub latency_ms: BTreeMap<Metric, f64>,
}

/// The one result that a sentence can be made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Headline<'a> {
    /// The strongest reference measured.
    pub reference: &'a Side,
    /// The cell it was measured in.
    pub cell: &'a Cell,
    /// The metric that the spec minimises, or the nearest one that the cell has.
    pub metric: Metric,
    /// Its result.
    pub measured: &'a Measured,
}

impl Comparison {
    /// The minimised metric against the strongest reference: under the spec's own traffic, or with one sequence where
    /// that cell is void. `None` when both are void.
    #[must_use]
    pub fn headline(&self) -> Option<Headline<'_>> {
        let versus = self.references.get(self.strongest)?;
        versus.headline(self.minimise)
    }

    /// The strongest reference's race.
    #[must_use]
    pub fn versus(&self) -> Option<&Versus> {
        self.references.get(self.strongest)
    }

    /// What a reader must be told next to the headline: weak company, void cells, a noisy machine.
    #[must_use]
    pub fn caveats(&self) -> Vec<String> {
        let mut caveats = Vec::new();
        if self.references.iter().all(|versus| versus.reference.name == "candle") {
            caveats.push("candle is the only reference measured, and a weak one on a CPU".to_owned());
        }
        for versus in &self.references {
            for cell in &versus.cells {
                let against = format!("{} against {}", cell.name, versus.reference.name);
                caveats.extend(cell.void.iter().map(|why| format!("{against} is void: {why}")));
                caveats.extend(cell.late.iter().map(|why| format!("{against}: {why}")));
            }
        }
        caveats.extend(self.noise.caveat());
        caveats
    }
}

impl Versus {
    /// The cell called `name`.
    #[must_use]
    pub fn cell(&self, name: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.name == name)
    }

    fn headline(&self, minimise: Metric) -> Option<Headline<'_>> {
        ["traffic", "decode_c1"].into_iter().find_map(|name| {
            let cell = self.cell(name)?;
            let measured = cell.metrics.get(&minimise)?;
            Some(Headline { reference: &self.reference, cell, metric: minimise, measured })
        })
    }
}

/// Races the binary of `artifact`, which `proof` must be of, against each reference. `own` says how it is started.
/// `progress` hears what happens.
///
/// # Errors
/// When the binary is not the one that passed its proof, there is no reference, or a server does not start or answer.
pub async fn bench(
    job: &Job<'_>,
    own: &Contender,
    (artifact, proof): (&Artifact, &Proof),
    references: &[Contender],
    budget: &Budget,
    progress: &mut dyn FnMut(&str),
) -> Result<Comparison, BenchError> {
    check_proof(artifact, proof)?;
    if references.is_empty() {
        return Err(BenchError::NoReference);
    }
    let watch = Watch::start(0);
    let (own_up, mut own_side) = start(job, own, budget.n_starts, progress).await?;
    let samples = tokenise(&job.workload.samples().map_err(TrafficError::from)?, &own_up.target).await?;
    let mut races = Vec::new();
    for reference in references {
        let (up, mut side) = start(job, reference, 1, progress).await?;
        let sides = Sides { own: &own_up, reference: &up };
        let (cells, curve) = race_all(job, &sides, &samples, budget, progress).await?;
        side.peak_rss_bytes = up.stop(&reference.name).await?;
        races.push(Versus { reference: side, cells, curve });
    }
    own_side.peak_rss_bytes = own_up.stop(&own.name).await?;

    let minimise = job.workload.slo.minimise;
    let strongest = strongest(&races, minimise);
    let roofline = job.roofline.and_then(|roofline| {
        let decode = races.get(strongest)?.cell("decode_c1")?;
        roofline.fraction(*decode.own.latency_ms.get(&Metric::TpotP50)?)
    });
    let keep = job.workload.slo.keep.iter().map(|(metric, bound)| (*metric, bound.as_secs_f64() * 1e3));
    Ok(Comparison {
        version: VERSION,
        workload: job.workload.name.clone(),
        minimise,
        keep_ms: keep.collect(),
        proven: proof.digests.clone(),
        own: own_side,
        noise: watch.of_races(&races),
        references: races,
        strongest,
        roofline,
        host: Host::read(),
        seed: job.seed,
        budget: budget.clone(),
    })
}

pub(crate) fn check_proof(artifact: &Artifact, proof: &Proof) -> Result<(), BenchError> {
    let name = artifact.name.clone();
    if proof.digests.binary != artifact.binary_digest {
        let (proven, built) = (proof.digests.binary.clone(), artifact.binary_digest.clone());
        return Err(BenchError::OtherBinary { name, proven, built });
    }
    match proof.verdict {
        prove::Verdict::Pass => Ok(()),
        prove::Verdict::Fail => Err(BenchError::ProofFailed { name }),
    }
}

/// The index of the reference with the highest own ÷ reference in the cell that all of them have.
fn strongest(races: &[Versus], minimise: Metric) -> usize {
    let ratios = |name: &str| -> Option<Vec<f64>> {
        races.iter().map(|versus| Some(versus.cell(name)?.metrics.get(&minimise)?.ratio.mid)).collect()
    };
    let ratios = ratios("traffic").or_else(|| ratios("decode_c1")).unwrap_or_default();
    let by_ratio = |(_, a): &(usize, &f64), (_, b): &(usize, &f64)| a.total_cmp(b);
    ratios.iter().enumerate().max_by(by_ratio).map_or(0, |(idx, _)| idx)
}

/// A running contender.
struct Up {
    server: Server,
    target: Target,
}

struct Sides<'a> {
    own: &'a Up,
    reference: &'a Up,
}

impl Up {
    async fn stop(self, name: &str) -> Result<u64, BenchError> {
        let fail = |source| BenchError::Process { name: name.to_owned(), source: Box::new(source) };
        let peak = self.server.peak_rss_bytes().map_err(fail)?;
        self.server.stop().await.map_err(fail)?;
        Ok(peak)
    }
}

/// Starts a contender `n_starts` times, each afresh, times it, and leaves the last one running.
async fn start(
    job: &Job<'_>,
    contender: &Contender,
    n_starts: usize,
    progress: &mut dyn FnMut(&str),
) -> Result<(Up, Side), BenchError> {
    progress(&format!("starting {}", contender.name));
    let fail = |source| BenchError::Process { name: contender.name.clone(), source: Box::new(source) };
    let prompt = job.workload.traffic.prompt.p50;
    let mut side = Side {
        name: contender.name.clone(),
        version: contender.version.clone(),
        flags: contender.flags.clone(),
        ready_ms: vec![],
        first_token_ms: vec![],
        peak_rss_bytes: 0,
    };
    loop {
        let server = Server::start(contender.launch.clone()).await.map_err(fail)?;
        let target =
            Target::new(Client::new(server.addr()).timeout(contender.launch.timeout), contender.wire.clone());
        let first = job.synthesis(vec![], side.ready_ms.len() as u64).sized(prompt, 1);
        let record = target.ask(&first, contender.launch.timeout).await;
        side.ready_ms.push(server.ready_after().as_secs_f64() * 1e3);
        side.first_token_ms.push(server.age().as_secs_f64() * 1e3);
        if !record.is_complete() {
            let (reason, log) = (format!("{:?}", record.outcome), server.log_tail());
            return Err(BenchError::Warmup { name: contender.name.clone(), reason, log });
        }
        if side.ready_ms.len() >= n_starts {
            return Ok((Up { server, target }, side));
        }
        server.stop().await.map_err(fail)?;
    }
}

impl Job<'_> {
    /// Traffic of the spec, with a seed of its own for each purpose.
    fn synthesis(&self, samples: Vec<TokenSample>, purpose: u64) -> Synthesis {
        let traffic = &self.workload.traffic;
        let seed = self.seed.wrapping_add(purpose.wrapping_mul(0x9E37_79B9));
        Synthesis::new(
            (traffic.prompt, traffic.output),
            self.context,
            (0..self.vocab, self.avoid.clone()),
            samples,
            seed,
        )
    }
}

async fn race_all(
    job: &Job<'_>,
    sides: &Sides<'_>,
    samples: &[TokenSample],
    budget: &Budget,
    progress: &mut dyn FnMut(&str),
) -> Result<(Vec<Cell>, Vec<CurvePoint>), BenchError> {
    let (own, reference) = (&sides.own.target, &sides.reference.target);
    let mut synthesis = job.synthesis(samples.to_vec(), 100);
    let pace = warm_up(job, sides, &mut synthesis, budget).await?;
    let mut cells = Vec::new();
    for plan in plan::cells(job.workload, &pace, budget, &mut synthesis, job.seed)? {
        progress(&format!("racing {}: {}", plan.name, plan.what));
        cells.push(race(plan, own, reference, &job.workload.slo, budget.grace, job.seed).await);
    }
    let mut curve = Vec::new();
    if budget.depth == Depth::Full {
        for concurrency in plan::levels(job.workload.traffic.concurrency) {
            progress(&format!("racing at concurrency {concurrency}"));
            let requests: Vec<Request> = (0..2 * concurrency)
                .map(|_| synthesis.sized(job.workload.traffic.prompt.p50, pace.n_tokens))
                .collect();
            let own = operate(own, &requests, concurrency, &job.workload.slo, budget.grace).await;
            let reference = operate(reference, &requests, concurrency, &job.workload.slo, budget.grace).await;
            let (Some(own), Some(reference)) = (own, reference) else { break };
            curve.push(CurvePoint { concurrency, own, reference });
        }
    }
    Ok((cells, curve))
}

/// Asks both sides twice, and takes the second answers as the pace by which blocks are sized.
async fn warm_up(
    job: &Job<'_>,
    sides: &Sides<'_>,
    synthesis: &mut Synthesis,
    budget: &Budget,
) -> Result<Pace, BenchError> {
    let traffic = &job.workload.traffic;
    let mut records = Vec::new();
    for _ in 0..2 {
        let request = synthesis.sized(traffic.prompt.p50, traffic.output.p50.min(8));
        for (name, up) in [("the own server", sides.own), ("the reference", sides.reference)] {
            let record = up.target.ask(&request, 4 * budget.grace).await;
            if !record.is_complete() {
                let (reason, log) = (format!("{:?}", record.outcome), up.server.log_tail());
                return Err(BenchError::Warmup { name: name.to_owned(), reason, log });
            }
            records.push(record);
        }
    }
    Ok(Pace::of_slowest(&records[2..], traffic.output.p50, budget.block))
}

/// One closed-loop block at this concurrency; `None` when a request is not answered.
async fn operate(
    target: &Target,
    requests: &[Request],
    concurrency: usize,
    slo: &Slo,
    grace: Duration,
) -> Option<OperatingPoint> {
    let records = closed_loop(target, requests, concurrency, grace).await;
    let is_whole = records.iter().all(crate::load::Record::is_complete);
    let mut block = Blocks::default();
    block.add_closed(records);
    let summary = block.summary(slo);
    is_whole.then_some(OperatingPoint {
        output_tokens_per_s: summary.output_tokens_per_s,
        latency_ms: summary.latency_ms,
    })
}

#[cfg(test)]
pub(crate) mod tests;

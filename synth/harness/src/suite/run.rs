//! One profile of one model in one format: everybody up, each row in rounds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use synth::workload::{Metric, Workload};

use super::{Bound, Limit, NEAR, Quantity, Row, load};
use crate::bench::{self, BenchError, BlockRun, Contender, Depth, Host, Noise, Watch, check_proof};
use crate::build::Artifact;
use crate::client::Client;
use crate::load::{Request, Synthesis, Target};
use crate::metrics::percentiles;
use crate::process::{ProcessError, Server, available_memory_bytes};
use crate::prove::Proof;
use crate::random::Random;
use crate::stats::{Ratio, Verdict, median};

/// A server that starts within this time is started several times; one that takes longer is no rival in starting.
const QUICK_START: Duration = Duration::from_secs(10);

/// CPU time that a server may use in a second of idling; one that uses more is stopped while others are measured.
const IDLE_TICKS: u64 = 3;

/// What is left of memory beside a server that is started, at least.
const SPARE_BYTES: u64 = 1 << 30;

/// How much time to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Rounds of the rows whose blocks are short.
    pub rounds: usize,
    /// Rounds of the served row and of those with long prompts.
    pub long_rounds: usize,
    /// Aimed-at length of a block of single requests.
    pub block: Duration,
    /// Length of the schedule of a served block.
    pub schedule: Duration,
    /// How long a block may take beyond that.
    pub grace: Duration,
    /// Fresh starts of everybody who starts quickly.
    pub starts: usize,
    /// What this is called in the ledger.
    pub depth: Depth,
}

/// What is served, and what its traffic needs to know.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// The spec of the own binary.
    pub workload: &'a Workload,
    /// Most positions of one sequence, on every contender.
    pub context: usize,
    /// Prompt ids are drawn from `0..vocab`.
    pub vocab: u32,
    /// Ids never drawn.
    pub avoid: Vec<u32>,
    /// What bounds each row that is bounded.
    pub bounds: BTreeMap<Row, Bound>,
    /// Bytes of weights, and of KV that own reserves.
    pub held_bytes: (u64, u64),
    /// Seed of traffic, order and intervals.
    pub seed: u64,
}

/// Who races.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    /// The own server, and the proof of its binary.
    pub own: (&'a Contender, &'a Artifact, &'a Proof),
    /// Peers, ready to be started.
    pub peers: &'a [Contender],
}

/// Own ÷ a peer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What is compared.
    pub quantity: Quantity,
    /// Own ÷ peer: `[low, mid, high]`.
    pub ratio: [f64; 3],
    /// Own over all rounds: ms or bytes.
    pub own: f64,
    /// The peer over all rounds.
    pub peer: f64,
    /// What the rounds amount to.
    pub verdict: Verdict,
}

/// A peer in a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entrant {
    /// The runtime.
    pub name: String,
    /// Its pinned version.
    pub version: String,
    /// What tuning chose.
    pub flags: Vec<String>,
    /// Answers that agreed with the oracle's, and all that were asked for; null where none were.
    pub agreement: Option<[usize; 2]>,
    /// Own ÷ this; empty where it was not raced.
    pub figures: Vec<Figure>,
    /// What it took in the heat: ms or bytes; null where it did not answer.
    pub heat: Option<f64>,
    /// Why it was not raced; else null.
    pub absent: Option<String>,
}

/// What a row showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Raced {
    /// The row.
    pub row: Row,
    /// Its load in words.
    pub what: String,
    /// Rounds that were run.
    pub rounds: usize,
    /// What own measured.
    pub own: Vec<(Quantity, f64)>,
    /// Each peer.
    pub peers: Vec<Entrant>,
    /// Index in `peers` of the best engine: the one that own is ahead of by least.
    pub best: Option<usize>,
    /// The machine's limit, by what it reached between the rounds.
    pub limit: Option<Limit>,
    /// Why nothing may be concluded.
    pub void: Option<String>,
    /// The machine.
    pub host: Host,
    /// How quiet it was.
    pub noise: Noise,
}

impl Effort {
    /// A look.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            rounds: 4,
            long_rounds: 4,
            block: Duration::from_millis(400),
            schedule: Duration::from_secs(5),
            grace: Duration::from_secs(60),
            starts: 4,
            depth: Depth::Quick,
        }
    }

    /// Worth a line of a table: some twenty-five minutes for a model of 0.6 B in one format.
    #[must_use]
    pub fn full() -> Self {
        Self {
            rounds: 8,
            long_rounds: 5,
            block: Duration::from_millis(1500),
            schedule: Duration::from_secs(20),
            grace: Duration::from_secs(150),
            starts: 5,
            depth: Depth::Full,
        }
    }

    fn rounds(&self, row: Row) -> usize {
        match row {
            Row::Served | Row::Prefill4096 | Row::DecodeB1At8k => self.long_rounds,
            _ => self.rounds,
        }
    }
}

/// A server in the field: running, or why not.
struct Racer<'a> {
    contender: &'a Contender,
    up: Option<(Server, Target)>,
    gone: Option<String>,
    /// Whether it works while nobody asks it anything.
    burns: bool,
    /// From exec to the first token, ms.
    starts_ms: Vec<f64>,
}

/// Runs the rows of one profile, each told to `on_row` as soon as it is done. `progress` hears what happens.
///
/// # Errors
/// When the binary is not the one that was proven, or the own server does not start or stop.
pub async fn run(
    job: &Job<'_>,
    field: &Field<'_>,
    rows: &[Row],
    effort: &Effort,
    progress: &mut dyn FnMut(&str),
    on_row: &mut dyn FnMut(Raced),
) -> Result<(), BenchError> {
    let (own, artifact, proof) = field.own;
    check_proof(artifact, proof)?;
    let mut racers: Vec<Racer<'_>> = std::iter::once(own).chain(field.peers).map(Racer::new).collect();
    let watch = Watch::start(0);
    let n_starts = if rows.contains(&Row::Start) { effort.starts } else { 1 };
    for round in 0..n_starts {
        for idx in order(racers.len(), round, job.seed) {
            match racers[idx].start_again(job, round, progress).await {
                Err(error) if idx == 0 => return Err(error),
                Err(error) => racers[idx].gone = Some(error.to_string()),
                Ok(()) => {}
            }
        }
    }
    if rows.contains(&Row::Start) {
        on_row(raced_starts(job, effort, &racers, watch));
    }
    for racer in &mut racers {
        racer.look_idle(progress).await;
    }
    let long = job.long();
    for row in Row::ALL.into_iter().filter(|row| rows.contains(row)) {
        match row {
            Row::Start => {}
            Row::Memory => on_row(raced_memory(job, effort, &racers)?),
            _ => on_row(race(job, row, &mut racers, &long, effort, progress).await?),
        }
    }
    for racer in racers {
        racer.stop().await?;
    }
    Ok(())
}

impl<'a> Racer<'a> {
    fn new(contender: &'a Contender) -> Self {
        Self { contender, up: None, gone: None, burns: false, starts_ms: vec![] }
    }

    fn name(&self) -> &str {
        &self.contender.name
    }

    /// Starts it afresh and times that, unless it is gone, or too slow to be started often.
    async fn start_again(
        &mut self,
        job: &Job<'_>,
        round: usize,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), BenchError> {
        let is_slow = self.starts_ms.first().is_some_and(|ms| *ms > QUICK_START.as_secs_f64() * 1e3);
        if self.gone.is_some() || is_slow {
            return Ok(());
        }
        progress(&format!("starting {}", self.name()));
        if let Some((server, _)) = self.up.take() {
            server.stop().await.map_err(|error| self.failed(error))?;
        }
        self.start(job, round).await
    }

    async fn start(&mut self, job: &Job<'_>, round: usize) -> Result<(), BenchError> {
        let (name, timeout) = (self.name().to_owned(), self.contender.launch.timeout);
        let needed = 2 * job.held_bytes.0 + SPARE_BYTES;
        if available_memory_bytes().is_some_and(|free| free < needed) {
            let reason = format!("less than {} MB of memory are free", needed / 1_000_000);
            return Err(BenchError::Warmup { name, reason, log: String::new() });
        }
        let server =
            Server::start(self.contender.launch.clone()).await.map_err(|error| self.failed(error))?;
        let target = Target::new(Client::new(server.addr()).timeout(timeout), self.contender.wire.clone());
        let first = job.synthesis(round as u64).sized(load::prompt(Row::Start), 1);
        let record = target.ask(&first, timeout).await;
        self.starts_ms.push(server.age().as_secs_f64() * 1e3);
        if !record.is_complete() {
            let (reason, log) = (format!("{:?}", record.outcome), server.log_tail());
            return Err(BenchError::Warmup { name, reason, log });
        }
        self.up = Some((server, target));
        Ok(())
    }

    /// Sees whether it idles when nobody asks it anything.
    async fn look_idle(&mut self, progress: &mut dyn FnMut(&str)) {
        let Some((server, _)) = &self.up else { return };
        let before = server.cpu_ticks();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.burns = server.cpu_ticks().saturating_sub(before) > IDLE_TICKS;
        if self.burns {
            progress(&format!("{} does not idle: it is stopped while others are measured", self.name()));
            server.suspend();
        }
    }

    /// Runs one block, awake for as long as that takes.
    async fn run(&self, work: &bench::Work, grace: Duration) -> Option<BlockRun> {
        let (server, target) = self.up.as_ref()?;
        if self.burns {
            server.resume();
        }
        let block = bench::run_block(target, work, grace).await;
        if self.burns {
            server.suspend();
        }
        Some(block)
    }

    fn failed(&self, source: ProcessError) -> BenchError {
        BenchError::Process { name: self.name().to_owned(), source: Box::new(source) }
    }

    async fn stop(mut self) -> Result<(), BenchError> {
        match self.up.take() {
            Some((server, _)) => server.stop().await.map_err(|error| self.failed(error)),
            None => Ok(()),
        }
    }

    fn entrant(&self) -> Entrant {
        let Contender { name, version, flags, .. } = self.contender.clone();
        let absent = self.gone.clone();
        Entrant { name, version, flags, agreement: None, figures: vec![], heat: None, absent }
    }
}

/// Blocks of a row's load, one after the other, for who races nobody.
pub struct Loads<'a> {
    job: &'a Job<'a>,
    row: Row,
    effort: Effort,
    synthesis: Synthesis,
    long: Request,
    n_done: u64,
}

impl Loads<'_> {
    /// The load in words.
    #[must_use]
    pub fn words(&self) -> String {
        load::words(self.row, self.job.workload, &self.effort)
    }

    /// The next block.
    pub(crate) fn next_block(&mut self) -> bench::Work {
        let Self { job, row, effort, synthesis, long, n_done } = self;
        *n_done += 1;
        let seed = job.seed.wrapping_add(*n_done);
        load::work(*row, 1, (job.workload, effort), synthesis, long, seed)
    }
}

impl Job<'_> {
    /// The load of a row.
    #[must_use]
    pub fn loads(&self, row: Row, effort: Effort) -> Loads<'_> {
        let synthesis = self.synthesis(100 + row as u64);
        Loads { job: self, row, effort, synthesis, long: self.long(), n_done: 0 }
    }

    /// The one request of the row that reads a long prompt once.
    fn long(&self) -> Request {
        let row = Row::DecodeB1At8k;
        self.synthesis(7).sized(load::prompt(row), load::output(row))
    }

    fn synthesis(&self, purpose: u64) -> Synthesis {
        let traffic = &self.workload.traffic;
        let seed = self.seed.wrapping_add(purpose.wrapping_mul(0x9E37_79B9));
        let ids = (0..self.vocab, self.avoid.clone());
        Synthesis::new((traffic.prompt, traffic.output), self.context, ids, vec![], seed)
    }
}

/// The order of a round: drawn for every other one, and the one before it backwards for those between.
fn order(n: usize, round: usize, seed: u64) -> Vec<usize> {
    let mut random = Random::new(seed ^ (round / 2) as u64);
    let mut order: Vec<usize> = (0..n).collect();
    for idx in (1..n).rev() {
        order.swap(idx, random.below(idx + 1));
    }
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// CPU time of the servers that are up.
fn ticks(racers: &[Racer<'_>]) -> u64 {
    racers.iter().filter_map(|racer| racer.up.as_ref()).map(|(server, _)| server.cpu_ticks()).sum()
}

async fn race(
    job: &Job<'_>,
    row: Row,
    racers: &mut [Racer<'_>],
    long: &Request,
    effort: &Effort,
    progress: &mut dyn FnMut(&str),
) -> Result<Raced, BenchError> {
    let watch = Watch::start(ticks(racers));
    let mut synthesis = job.synthesis(100 + row as u64);
    let mut peers: Vec<Entrant> = racers[1..].iter().map(Racer::entrant).collect();
    let mut result = Raced {
        row,
        what: load::words(row, job.workload, effort),
        rounds: 0,
        own: vec![],
        peers: vec![],
        best: None,
        limit: None,
        void: None,
        host: Host::read(),
        noise: watch.noise(ticks(racers), None, 0.0),
    };

    let work = load::work(row, 1, (job.workload, effort), &mut synthesis, long, job.seed.wrapping_sub(1));
    let mut heats = Vec::new();
    for racer in racers.iter_mut() {
        progress(&format!("{}: heat, {}", row.name(), racer.name()));
        let heat = match racer.run(&work, effort.grace).await {
            Some(block) => match bench::fault(&block.records) {
                None => Ok(typical(row, &block).unwrap_or(f64::INFINITY)),
                Some(fault) => Err(fault),
            },
            None => Err(racer.gone.clone().unwrap_or_default()),
        };
        // A server that goes on with what nobody waits for any more would disturb the others.
        if heat.is_err()
            && let Some((server, _)) = racer.up.take()
        {
            racer.gone = heat.as_ref().err().cloned();
            server.stop().await.map_err(|error| racer.failed(error))?;
        }
        heats.push(heat);
    }
    if let Err(fault) = &heats[0] {
        result.void = Some(format!("own: {fault}"));
        result.peers = peers;
        return Ok(result);
    }
    let finalists = choose(&heats, &mut peers);

    let n = match row {
        Row::Prefill512 => load::fitting(effort.block, median_of(&heats, &finalists)),
        _ => 1,
    };
    let bound = job.bounds.get(&row);
    let mut peaks = Vec::new();
    let mut blocks: BTreeMap<usize, Vec<BlockRun>> = BTreeMap::new();
    let n_rounds = effort.rounds(row);
    'rounds: for round in 0..n_rounds {
        let seed = job.seed.wrapping_add(round as u64);
        let work = load::work(row, n, (job.workload, effort), &mut synthesis, long, seed);
        progress(&format!("{}: round {} of {n_rounds}", row.name(), round + 1));
        peaks.extend(bound.map(|bound| bound.by.reached(job.workload.target.threads)));
        for place in order(finalists.len(), round, job.seed) {
            let idx = finalists[place];
            let Some(block) = racers[idx].run(&work, effort.grace).await else { continue };
            if let Some(fault) = bench::fault(&block.records) {
                if idx == 0 {
                    result.void = Some(format!("own: {fault}"));
                    break 'rounds;
                }
                peers[idx - 1].absent.get_or_insert(fault);
            }
            blocks.entry(idx).or_default().push(block);
        }
        result.rounds = round + 1;
    }
    let own_blocks = blocks.remove(&0).unwrap_or_default();
    let (mut spread, mut lateness) = (None, 0.0f64);
    for (idx, peer_blocks) in blocks {
        if result.void.is_some() || peers[idx - 1].absent.is_some() {
            continue;
        }
        let pairs: Vec<_> = own_blocks.iter().cloned().zip(peer_blocks).collect();
        let slo = &job.workload.slo;
        let cell = bench::Cell::of_pairs(row.name().to_owned(), String::new(), &pairs, slo, job.seed);
        spread = cell.spread();
        lateness = lateness.max(cell.own.lateness_p99_ms).max(cell.reference.lateness_p99_ms);
        peers[idx - 1].figures = figures(row, &cell);
    }
    result.own = own_values(row, &own_blocks);
    let in_round = |(peak, block): (f64, &BlockRun)| Some((peak, typical(row, block)?));
    let rounds: Vec<(f64, f64)> = peaks.into_iter().zip(&own_blocks).filter_map(in_round).collect();
    result.limit = bound.and_then(|bound| bound.limit(&rounds));
    result.best = best(&peers);
    result.noise = watch.noise(ticks(racers), spread, lateness);
    result.peers = peers;
    Ok(result)
}

/// Own and the peers that can be the best engine, by their places in the field; the others are told why they cannot.
fn choose(heats: &[Result<f64, String>], peers: &mut [Entrant]) -> Vec<usize> {
    let best = heats[1..].iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let mut finalists = vec![0];
    for (idx, heat) in heats.iter().enumerate().skip(1) {
        let peer = &mut peers[idx - 1];
        match heat {
            Ok(took) if *took <= NEAR * best => finalists.push(idx),
            Ok(took) => {
                peer.absent = Some(format!("{:.1} × the best peer's time in the heat", took / best));
            }
            Err(fault) => peer.absent = peer.absent.take().or(Some(fault.clone())),
        }
        peer.heat = heat.as_ref().ok().copied().filter(|took| took.is_finite());
    }
    finalists
}

fn median_of(heats: &[Result<f64, String>], finalists: &[usize]) -> f64 {
    let took: Vec<f64> = finalists.iter().filter_map(|idx| heats[*idx].as_ref().ok().copied()).collect();
    median(&took).unwrap_or(f64::INFINITY)
}

/// What a row is told by, of one block.
fn typical(row: Row, block: &BlockRun) -> Option<f64> {
    value(row.quantities()[0], std::slice::from_ref(block))
}

/// A quantity over some blocks: the median of the blocks' own.
fn value(quantity: Quantity, blocks: &[BlockRun]) -> Option<f64> {
    let of = |block: &BlockRun| match quantity {
        Quantity::MsPerToken => Some(bench::wall_per_token(&block.records)),
        _ => percentiles(&block.records).get(&metric(quantity)?).copied(),
    };
    median(&blocks.iter().filter_map(of).collect::<Vec<_>>())
}

fn own_values(row: Row, blocks: &[BlockRun]) -> Vec<(Quantity, f64)> {
    row.quantities().iter().filter_map(|quantity| Some((*quantity, value(*quantity, blocks)?))).collect()
}

fn metric(quantity: Quantity) -> Option<Metric> {
    match quantity {
        Quantity::TtftP50 => Some(Metric::TtftP50),
        Quantity::TtftP99 => Some(Metric::TtftP99),
        Quantity::TpotP50 => Some(Metric::TpotP50),
        Quantity::MsPerToken | Quantity::FirstTokenMs | Quantity::BesideBytes => None,
    }
}

fn figures(row: Row, cell: &bench::Cell) -> Vec<Figure> {
    let figure = |quantity: &Quantity| {
        let measured = match metric(*quantity) {
            Some(metric) => cell.metrics.get(&metric).copied(),
            None => cell.ms_per_token,
        }?;
        Some(Figure {
            quantity: *quantity,
            ratio: measured.ratio.interval(),
            own: measured.own_ms,
            peer: measured.reference_ms,
            verdict: measured.ratio.verdict,
        })
    };
    row.quantities().iter().filter_map(figure).collect()
}

/// The peer that own is ahead of by least, or behind by most, in what the row is told by first.
fn best(peers: &[Entrant]) -> Option<usize> {
    let ratio = |peer: &Entrant| peer.figures.first().map(|figure| figure.ratio[1]);
    let raced = peers.iter().enumerate().filter_map(|(idx, peer)| Some((idx, ratio(peer)?)));
    raced.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(idx, _)| idx)
}

/// Starts, own against each peer that starts as quickly; who does not was started once.
fn raced_starts(job: &Job<'_>, effort: &Effort, racers: &[Racer<'_>], watch: Watch) -> Raced {
    let own = &racers[0].starts_ms;
    let peers: Vec<Entrant> = racers[1..]
        .iter()
        .map(|racer| {
            let pairs: Vec<_> = own.iter().copied().zip(racer.starts_ms.iter().copied()).collect();
            let figure = Ratio::of_pairs(&pairs, job.seed).and_then(|ratio| {
                Some(Figure {
                    quantity: Quantity::FirstTokenMs,
                    ratio: ratio.interval(),
                    own: median(own)?,
                    peer: median(&racer.starts_ms)?,
                    verdict: ratio.verdict,
                })
            });
            let heat = racer.starts_ms.first().copied();
            Entrant { figures: figure.into_iter().collect(), heat, ..racer.entrant() }
        })
        .collect();
    Raced {
        row: Row::Start,
        what: load::words(Row::Start, job.workload, effort),
        rounds: own.len(),
        own: median(own).map(|ms| (Quantity::FirstTokenMs, ms)).into_iter().collect(),
        best: best(&peers),
        limit: None,
        peers,
        void: None,
        host: Host::read(),
        noise: watch.noise(ticks(racers), None, 0.0),
    }
}

/// Memory of everybody now: own beside its weights and the KV that it reserves, peers beside their weights alone, for what
/// they hold of KV cannot be told from outside.
fn raced_memory(job: &Job<'_>, effort: &Effort, racers: &[Racer<'_>]) -> Result<Raced, BenchError> {
    let (weights, kv) = job.held_bytes;
    let mut beside = Vec::new();
    for (idx, racer) in racers.iter().enumerate() {
        let held = if idx == 0 { weights + kv } else { weights };
        let peak = match &racer.up {
            Some((server, _)) => Some(server.peak_rss_bytes().map_err(|error| racer.failed(error))?),
            None => None,
        };
        beside.push(peak.map(|peak| peak.saturating_sub(held) as f64));
    }
    let mut peers: Vec<Entrant> = racers[1..].iter().map(Racer::entrant).collect();
    for (peer, bytes) in peers.iter_mut().zip(&beside[1..]) {
        peer.heat = *bytes;
        if let (Some(own), Some(bytes)) = (beside[0], *bytes) {
            let ratio = own / bytes.max(1.0);
            let verdict = if ratio < 1.0 { Verdict::Faster } else { Verdict::Slower };
            peer.figures.push(Figure {
                quantity: Quantity::BesideBytes,
                ratio: [ratio; 3],
                own,
                peer: bytes,
                verdict,
            });
        }
    }
    Ok(Raced {
        row: Row::Memory,
        what: load::words(Row::Memory, job.workload, effort),
        rounds: 1,
        own: beside[0].map(|bytes| (Quantity::BesideBytes, bytes)).into_iter().collect(),
        best: best(&peers),
        limit: None,
        peers,
        void: None,
        host: Host::read(),
        noise: Watch::start(0).noise(0, None, 0.0),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn entrant(name: &str, mid: f64) -> Entrant {
        Entrant {
            name: name.into(),
            version: "1".into(),
            flags: vec![],
            agreement: Some([30, 32]),
            figures: vec![Figure {
                quantity: Quantity::TpotP50,
                ratio: [mid * 0.98, mid, mid * 1.02],
                own: 10.0 * mid,
                peer: 10.0,
                verdict: if mid * 1.02 < 1.0 { Verdict::Faster } else { Verdict::Slower },
            }],
            heat: Some(10.0),
            absent: None,
        }
    }

    #[test]
    fn rounds_are_run_forwards_and_backwards_by_everybody() {
        for round in 0..10 {
            let drawn = order(5, round, 3);
            let mut all = drawn.clone();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4]);
            if round % 2 == 1 {
                let before: Vec<usize> = order(5, round - 1, 3).into_iter().rev().collect();
                assert_eq!(drawn, before);
            }
        }
        assert!((0..20).any(|round| order(5, round, 3)[0] != order(5, 0, 3)[0]));
    }

    #[test]
    fn who_cannot_be_the_best_is_named_and_not_raced() {
        let mut peers = ["a", "b", "c", "d"].map(|name| Entrant { figures: vec![], ..entrant(name, 1.0) });
        let heats = [Ok(5.0), Ok(10.0), Ok(14.0), Ok(40.0), Err("reference: not answered".to_owned())];
        assert_eq!(choose(&heats, &mut peers), [0, 1, 2]);
        assert!(peers[2].absent.as_deref().is_some_and(|why| why.starts_with("4.0 × the best")));
        assert!(peers[3].absent.as_deref().is_some_and(|why| why.contains("not answered")));
        assert_eq!(peers[3].heat, None);
        // Own does not decide who is near: it may be ahead of all.
        let heats = [Ok(1.0), Ok(10.0), Ok(14.0)];
        assert_eq!(choose(&heats, &mut peers[..2]), [0, 1, 2]);
    }

    #[test]
    fn the_best_is_the_one_that_own_is_ahead_of_by_least() {
        let mut peers = vec![entrant("a", 0.5), entrant("b", 0.8), entrant("c", 0.7)];
        assert_eq!(best(&peers), Some(1));
        peers[1].figures.clear();
        assert_eq!(best(&peers), Some(2));
        assert_eq!(best(&[]), None);
    }
}

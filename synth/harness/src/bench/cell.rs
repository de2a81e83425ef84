//! One kind of load on both servers, in interleaved pairs of blocks.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use synth::workload::{Metric, Slo};

use crate::load::{Record, Request, Target, closed_loop, open_loop};
use crate::metrics::{Blocks, Quantity, Summary, distribution, percentiles};
use crate::random::Random;
use crate::stats::{Ratio, ascending, median, percentile};

/// Points of a stored distribution.
const CDF_POINTS: usize = 101;

/// How late the generator may be at a percentile: this share of the smaller latency there, or this many milliseconds.
const LATE_SHARE: f64 = 0.2;
const LATE_MS: f64 = 1.0;

/// The work of one block: the same for both sides.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work {
    Open { requests: Vec<Request>, at: Vec<Duration> },
    Closed { concurrency: usize, requests: Vec<Request> },
}

/// A cell to be raced, with one piece of work per pair.
#[derive(Debug)]
pub(super) struct CellPlan {
    pub(super) name: String,
    pub(super) what: String,
    pub(super) works: Vec<Work>,
}

/// What one kind of load showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// `decode_c1`, `traffic`, `prefill` or `closed_N`.
    pub name: String,
    /// The load in words.
    pub what: String,
    /// Why nothing may be concluded, when the sides did not do the same work.
    pub void: Option<String>,
    /// Latencies that are left out, and why: they count from a scheduled send that the generator did not keep.
    pub late: Option<String>,
    /// Latencies side by side; empty when void.
    pub metrics: BTreeMap<Metric, Measured>,
    /// Wall milliseconds per output token over whole blocks, in a closed loop; less is more throughput.
    pub ms_per_token: Option<Measured>,
    /// The own server over all blocks.
    pub own: Summary,
    /// The reference over all blocks.
    pub reference: Summary,
    /// Distributions of the own server: 101 quantiles, milliseconds.
    pub own_cdf: BTreeMap<Quantity, Vec<f64>>,
    /// Distributions of the reference: 101 quantiles, milliseconds.
    pub reference_cdf: BTreeMap<Quantity, Vec<f64>>,
    /// The first quantity of each own block (median TPOT, or TTFT where there is none), milliseconds: its spread is
    /// the noise that pairing has to cancel.
    pub own_blocks_ms: Vec<f64>,
}

/// One metric of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Own ÷ reference over the pairs.
    pub ratio: Ratio,
    /// The own server over all blocks, milliseconds.
    pub own_ms: f64,
    /// The reference over all blocks, milliseconds.
    pub reference_ms: f64,
}

/// One block of a side.
#[derive(Debug, Clone)]
pub(crate) struct BlockRun {
    pub(crate) records: Vec<Record>,
    pub(crate) is_open: bool,
}

/// Races both sides through the plan: A B B A …, which side is A drawn anew for every two pairs. It stops at the first
/// pair that makes the cell void.
pub(super) async fn race(
    plan: CellPlan,
    own: &Target,
    reference: &Target,
    slo: &Slo,
    grace: Duration,
    seed: u64,
) -> Cell {
    let mut random = Random::new(seed ^ plan.works.len() as u64);
    let mut own_first = false;
    let mut pairs = Vec::new();
    for (pair_idx, work) in plan.works.iter().enumerate() {
        own_first = if pair_idx % 2 == 0 { random.below(2) == 0 } else { !own_first };
        let pair = if own_first {
            let own_run = run_block(own, work, grace).await;
            (own_run, run_block(reference, work, grace).await)
        } else {
            let reference_run = run_block(reference, work, grace).await;
            (run_block(own, work, grace).await, reference_run)
        };
        let is_void = unequal_work(&pair.0.records, &pair.1.records).is_some();
        pairs.push(pair);
        if is_void {
            break;
        }
    }
    Cell::of_pairs(plan.name, plan.what, &pairs, slo, seed)
}

/// Runs one block, after one small request that finds the server idle and its connection open.
pub(crate) async fn run_block(target: &Target, work: &Work, grace: Duration) -> BlockRun {
    let (Work::Open { requests, .. } | Work::Closed { requests, .. }) = work;
    if let Some(first) = requests.first() {
        let settle = Request { prompt: first.prompt[..1].to_vec(), max_tokens: 1 };
        target.ask(&settle, grace).await;
    }
    match work {
        Work::Open { requests, at } => {
            BlockRun { records: open_loop(target, requests, at, grace).await, is_open: true }
        }
        Work::Closed { concurrency, requests } => {
            BlockRun { records: closed_loop(target, requests, *concurrency, grace).await, is_open: false }
        }
    }
}

impl Cell {
    /// What the pairs show. Pure: records in, result out.
    pub(crate) fn of_pairs(
        name: String,
        what: String,
        pairs: &[(BlockRun, BlockRun)],
        slo: &Slo,
        seed: u64,
    ) -> Self {
        let own = Blocks::of(pairs.iter().map(|(own, _)| own));
        let reference = Blocks::of(pairs.iter().map(|(_, reference)| reference));
        let (own_summary, reference_summary) = (own.summary(slo), reference.summary(slo));
        let void = pairs.iter().find_map(|(own, reference)| unequal_work(&own.records, &reference.records));
        let lateness = ascending(
            own.records.iter().chain(&reference.records).map(|record| record.lateness().as_secs_f64() * 1e3),
        );
        let mut late = Vec::new();
        let per_pair: Vec<_> = pairs
            .iter()
            .map(|(own, reference)| (percentiles(&own.records), percentiles(&reference.records)))
            .collect();
        let mut measure = |metric: Metric| {
            let (own_ms, reference_ms) =
                (*own_summary.latency_ms.get(&metric)?, *reference_summary.latency_ms.get(&metric)?);
            if is_late(metric, own_ms.min(reference_ms), &lateness) {
                late.push(metric.name());
                return None;
            }
            let values: Vec<(f64, f64)> = per_pair
                .iter()
                .filter_map(|(own, reference)| Some((*own.get(&metric)?, *reference.get(&metric)?)))
                .collect();
            Some(Measured { ratio: Ratio::of_pairs(&values, seed)?, own_ms, reference_ms })
        };
        let (metrics, ms_per_token) = match &void {
            Some(_) => (BTreeMap::new(), None),
            None => (
                Metric::ALL.into_iter().filter_map(|metric| Some((metric, measure(metric)?))).collect(),
                ms_per_token(pairs, seed),
            ),
        };
        let late = (!late.is_empty()).then(|| {
            let worst = lateness.last().copied().unwrap_or(0.0);
            format!("the generator was up to {worst:.2} ms late, too much for {}", late.join(", "))
        });
        let typical =
            |of: &BTreeMap<Metric, f64>| of.get(&Metric::TpotP50).or(of.get(&Metric::TtftP50)).copied();
        Self {
            name,
            what,
            void,
            late,
            metrics,
            ms_per_token,
            own_cdf: cdfs(&own.records),
            reference_cdf: cdfs(&reference.records),
            own: own_summary,
            reference: reference_summary,
            own_blocks_ms: per_pair.iter().filter_map(|(own, _)| typical(own)).collect(),
        }
    }

    /// The spread of the own blocks: median absolute deviation ÷ median.
    #[must_use]
    pub fn spread(&self) -> Option<f64> {
        Some(crate::stats::mad(&self.own_blocks_ms)? / median(&self.own_blocks_ms)?)
    }
}

impl Blocks {
    fn of<'a>(runs: impl Iterator<Item = &'a BlockRun>) -> Self {
        let mut blocks = Self::default();
        for run in runs {
            match run.is_open {
                true => blocks.add_open(run.records.clone()),
                false => blocks.add_closed(run.records.clone()),
            }
        }
        blocks
    }
}

/// Why two blocks are not the same work done twice, if they are not.
fn unequal_work(own: &[Record], reference: &[Record]) -> Option<String> {
    [("own", own), ("reference", reference)]
        .into_iter()
        .find_map(|(side, records)| Some(format!("{side}: {}", fault(records)?)))
}

/// Why a block is not the work that was asked for, if it is not.
pub(crate) fn fault(records: &[Record]) -> Option<String> {
    let broken: Vec<&Record> = records.iter().filter(|record| !record.is_complete()).collect();
    if let Some(first) = broken.first() {
        return Some(format!(
            "{} of {} requests of a block not answered, first {:?}",
            broken.len(),
            records.len(),
            first.outcome
        ));
    }
    let short = records.iter().find(|record| record.n_tokens() != record.wanted_tokens)?;
    Some(format!(
        "{} tokens came where {} were asked for with end-of-sequence ignored",
        short.n_tokens(),
        short.wanted_tokens
    ))
}

/// Whether a latency counts from the scheduled send, and the generator was later there than the latency bears.
/// `lateness` is ascending, milliseconds.
fn is_late(metric: Metric, smaller_ms: f64, lateness: &[f64]) -> bool {
    let (quantity, q) = Quantity::of(metric);
    let counts_from_schedule = matches!(quantity, Quantity::Ttft | Quantity::E2e);
    let bound = (LATE_SHARE * smaller_ms).max(LATE_MS);
    counts_from_schedule && percentile(lateness, q).is_some_and(|late| late > bound)
}

/// Wall time per output token of each pair of closed-loop blocks.
fn ms_per_token(pairs: &[(BlockRun, BlockRun)], seed: u64) -> Option<Measured> {
    if pairs.iter().any(|(own, reference)| own.is_open || reference.is_open) {
        return None;
    }
    let costs: Vec<_> =
        pairs.iter().map(|(own, reference)| (cost(&own.records), cost(&reference.records))).collect();
    let each = |(ms, n): (f64, usize)| ms / n as f64;
    let all = |side: Vec<(f64, usize)>| {
        side.iter().map(|(ms, _)| ms).sum::<f64>() / side.iter().map(|(_, n)| n).sum::<usize>() as f64
    };
    let values: Vec<(f64, f64)> =
        costs.iter().map(|(own, reference)| (each(*own), each(*reference))).collect();
    Some(Measured {
        ratio: Ratio::of_pairs(&values, seed)?,
        own_ms: all(costs.iter().map(|(own, _)| *own).collect()),
        reference_ms: all(costs.iter().map(|(_, reference)| *reference).collect()),
    })
}

/// Wall milliseconds of a block, and the tokens that came in it.
fn cost(records: &[Record]) -> (f64, usize) {
    let wall = records.iter().map(|record| record.ended).max().unwrap_or_default();
    (wall.as_secs_f64() * 1e3, records.iter().map(Record::n_tokens).sum())
}

/// Wall milliseconds of a block per token that came in it.
pub(crate) fn wall_per_token(records: &[Record]) -> f64 {
    let (ms, n) = cost(records);
    ms / n as f64
}

fn cdfs(records: &[Record]) -> BTreeMap<Quantity, Vec<f64>> {
    let quantiles = |values: &[f64]| {
        (0..CDF_POINTS).filter_map(|idx| percentile(values, idx as f64 / (CDF_POINTS - 1) as f64)).collect()
    };
    Quantity::ALL
        .into_iter()
        .map(|quantity| (quantity, distribution(records, quantity)))
        .filter(|(_, values)| !values.is_empty())
        .map(|(quantity, values)| (quantity, quantiles(&values)))
        .collect()
}

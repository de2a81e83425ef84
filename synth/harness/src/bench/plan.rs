//! What each cell of a bench sends, sized by the pace of the slower side so that a bench keeps to its budget.

use std::time::Duration;

use synth::workload::{Arrivals, TraceEvent, Workload};

use super::cell::CellPlan;
use super::{Budget, Depth, Work};
use crate::load::{Record, Request, Synthesis, TrafficError, poisson};
use crate::metrics::Quantity;

/// Most requests of a closed-loop block with one in flight.
const MOST_PER_BLOCK: usize = 32;

/// Fewest output tokens worth decoding: the time per token is a mean over one less.
const FEWEST_TOKENS: usize = 8;

/// How fast the slower side is, and what fits a block for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    /// Time to first token, seconds.
    first: f64,
    /// Output tokens per request that fit a block.
    pub(super) n_tokens: usize,
    /// Requests that fit a block, one after the other.
    n_requests: usize,
}

impl Pace {
    /// The pace of the slowest of `records`, for requests of up to `wanted` output tokens and blocks of this length.
    pub(super) fn of_slowest(records: &[Record], wanted: usize, block: Duration) -> Self {
        let slowest = |quantity| {
            let values = records.iter().flat_map(|record| record.values(quantity));
            values.fold(0.0, f64::max) / 1e3
        };
        let (first, next) = (slowest(Quantity::Ttft), slowest(Quantity::Tpot).max(1e-6));
        let block = block.as_secs_f64();
        let fits = ((block - first).max(0.0) / next).round() as usize;
        let n_tokens = fits.clamp(FEWEST_TOKENS.min(wanted), wanted);
        let request = first + next * n_tokens as f64;
        let n_requests = ((block / request) as usize).clamp(1, MOST_PER_BLOCK);
        Self { first, n_tokens, n_requests }
    }
}

/// The cells of a bench, each with one piece of work per pair. Prompts of different blocks share nothing.
///
/// # Errors
/// When the spec's trace cannot be read.
pub(super) fn cells(
    workload: &Workload,
    pace: &Pace,
    budget: &Budget,
    synthesis: &mut Synthesis,
    seed: u64,
) -> Result<Vec<CellPlan>, TrafficError> {
    let traffic = &workload.traffic;
    let (n_prompt, n_tokens) = (traffic.prompt.p50, pace.n_tokens);
    let mut closed = |name: &str, concurrency: usize, n_requests: usize, n_prompt: usize, n_tokens: usize| {
        let mut block = || (0..n_requests).map(|_| synthesis.sized(n_prompt, n_tokens)).collect();
        CellPlan {
            name: name.to_owned(),
            what: format!(
                "closed loop, {concurrency} in flight, {n_requests} requests per block, \
                 prompt {n_prompt}, output {n_tokens} tokens"
            ),
            works: (0..budget.pairs).map(|_| Work::Closed { concurrency, requests: block() }).collect(),
        }
    };
    let mut cells = vec![closed("decode_c1", 1, pace.n_requests, n_prompt, n_tokens)];
    if budget.depth == Depth::Full {
        let prompt = traffic.prompt.p99;
        let seconds = pace.first * prompt as f64 / n_prompt as f64;
        let n_requests = ((budget.block.as_secs_f64() / seconds.max(1e-6)) as usize).clamp(1, MOST_PER_BLOCK);
        cells.push(closed("prefill", 1, n_requests, prompt, 1));
        let concurrency = traffic.concurrency;
        cells.push(closed(
            &format!("closed_{concurrency}"),
            concurrency,
            2 * concurrency,
            n_prompt,
            n_tokens,
        ));
    }
    cells.insert(1, spec_traffic(workload, budget, synthesis, seed)?);
    Ok(cells)
}

/// Levels of concurrency from 1 to `most`, doubling.
pub(super) fn levels(most: usize) -> Vec<usize> {
    let mut levels: Vec<usize> =
        std::iter::successors(Some(1), |level| Some(level * 2)).take_while(|level| *level < most).collect();
    levels.push(most.max(1));
    levels
}

/// The spec's own arrivals and lengths. The schedule of a pair is the same for both sides.
fn spec_traffic(
    workload: &Workload,
    budget: &Budget,
    synthesis: &mut Synthesis,
    seed: u64,
) -> Result<CellPlan, TrafficError> {
    let span = budget.schedule.as_secs_f64();
    let (what, works) = match &workload.traffic.arrivals {
        Arrivals::Poisson(rate) => {
            let n_requests = ((rate * span).round() as usize).clamp(2, 512);
            let works = (0..budget.pairs).map(|pair_idx| Work::Open {
                requests: (0..n_requests).map(|_| synthesis.request()).collect(),
                at: poisson(n_requests, *rate, seed.wrapping_add(pair_idx as u64)),
            });
            (format!("open loop, Poisson {rate}/s, {n_requests} requests per block"), works.collect())
        }
        Arrivals::Closed(n_clients) => {
            let n_requests = (2 * n_clients).max(2);
            let works = (0..budget.pairs).map(|_| Work::Closed {
                concurrency: *n_clients,
                requests: (0..n_requests).map(|_| synthesis.request()).collect(),
            });
            (format!("closed loop, {n_clients} in flight, {n_requests} requests per block"), works.collect())
        }
        Arrivals::Trace(_) => {
            let works = trace_windows(&workload.trace()?, budget, synthesis);
            ("open loop, the spec's trace, one window per block".to_owned(), works)
        }
    };
    Ok(CellPlan { name: "traffic".to_owned(), what, works })
}

/// Consecutive windows of a trace, one per pair, from its start again when it ends; each holds what arrives within
/// the schedule, and at least two arrivals where the trace has them.
fn trace_windows(arrivals: &[TraceEvent], budget: &Budget, synthesis: &mut Synthesis) -> Vec<Work> {
    let span = budget.schedule.as_secs_f64();
    let mut works = Vec::new();
    let mut begin = 0;
    while works.len() < budget.pairs && !arrivals.is_empty() {
        let start = arrivals[begin].at;
        let within = arrivals[begin..].iter().take_while(|arrival| arrival.at < start + span).count();
        let end = (begin + within.max(2)).min(arrivals.len());
        let window = &arrivals[begin..end];
        let requests: Vec<Request> = window
            .iter()
            .map(|arrival| synthesis.sized(arrival.prompt_tokens, arrival.output_tokens))
            .collect();
        let at = window.iter().map(|arrival| Duration::from_secs_f64(arrival.at - start)).collect();
        works.push(Work::Open { requests, at });
        begin = if end == arrivals.len() { 0 } else { end };
    }
    works
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Chunk, Finish, Outcome};
    use synth::workload::Lengths;

    fn record(first_ms: u64, tokens: &[u64]) -> Record {
        let at = Duration::from_millis;
        let chunks = tokens.iter().map(|ms| Chunk { at: at(first_ms + ms), n_tokens: 1 }).collect();
        let outcome = Outcome::Complete(Finish::Length);
        let zero = Duration::ZERO;
        Record {
            prompt_tokens: 8,
            wanted_tokens: 3,
            scheduled: zero,
            sent: zero,
            chunks,
            ended: zero,
            outcome,
        }
    }

    #[test]
    fn blocks_are_sized_by_the_slower_side() {
        let fast = record(1, &[0, 1, 2]);
        let slow = record(50, &[0, 10, 20]);
        let pace = Pace::of_slowest(&[fast.clone(), slow], 48, Duration::from_millis(150));
        assert_eq!((pace.n_tokens, pace.n_requests), (10, 1));
        let pace = Pace::of_slowest(&[fast], 48, Duration::from_millis(150));
        assert_eq!((pace.n_tokens, pace.n_requests), (48, 3));
        let pace = Pace::of_slowest(&[record(900, &[0, 400])], 48, Duration::from_millis(150));
        assert_eq!(
            (pace.n_tokens, pace.n_requests),
            (8, 1),
            "a server slower than a block still gets one request"
        );
    }

    #[test]
    fn levels_double_up_to_the_most() {
        assert_eq!(levels(8), [1, 2, 4, 8]);
        assert_eq!(levels(6), [1, 2, 4, 6]);
        assert_eq!(levels(1), [1]);
    }

    #[test]
    fn a_trace_is_cut_into_windows_that_start_at_zero() {
        let lengths = Lengths { p50: 4, p99: 8, max: 16 };
        let mut synthesis = Synthesis::new((lengths, lengths), 64, (0..50, vec![]), vec![], 1);
        let arrivals: Vec<TraceEvent> = (0..7)
            .map(|idx| TraceEvent { at: 0.1 * f64::from(idx), prompt_tokens: 3, output_tokens: 2 })
            .collect();
        let budget = Budget { pairs: 4, schedule: Duration::from_millis(250), ..Budget::quick() };
        let works = trace_windows(&arrivals, &budget, &mut synthesis);
        let sizes: Vec<usize> = works
            .iter()
            .map(|work| match work {
                Work::Open { requests, at } => {
                    assert!(at[0].is_zero() && at.len() == requests.len());
                    at.len()
                }
                Work::Closed { .. } => 0,
            })
            .collect();
        assert_eq!(sizes, [3, 3, 1, 3]);
        assert!(trace_windows(&[], &budget, &mut synthesis).is_empty());
    }
}

//! What each row sends.

use std::time::Duration;

use synth::workload::{Arrivals, Workload};

use super::{Row, run::Effort};
use crate::bench::Work;
use crate::load::{Request, Synthesis, poisson};

/// Sequences of the row in which several decode.
pub const N_TOGETHER: usize = 8;

/// Prompt of the rows that time decoding: few, so that it is decoding that is timed.
const SHORT: usize = 16;

/// Most requests of a block of one row.
const MOST: usize = 16;

/// Tokens of a row's prompts.
#[must_use]
pub fn prompt(row: Row) -> usize {
    match row {
        Row::Prefill512 => 512,
        Row::Prefill4096 => 4096,
        Row::DecodeB1At8k => 8192,
        _ => SHORT,
    }
}

/// Tokens of a row's answers.
#[must_use]
pub fn output(row: Row) -> usize {
    match row {
        Row::Prefill512 | Row::Prefill4096 => 1,
        Row::DecodeB1At8k => 32,
        _ => 64,
    }
}

/// The load of one block in words.
#[must_use]
pub fn words(row: Row, workload: &Workload, effort: &Effort) -> String {
    let (prompt, output) = (prompt(row), output(row));
    match row {
        Row::Served => {
            let (rate, n) = arrivals(workload, effort);
            format!("Poisson {rate}/s, {n} requests per block, lengths of the quickstart")
        }
        Row::Start => {
            "fresh starts in turn, page cache warm, to the first token of a short prompt".to_owned()
        }
        Row::Memory => "most physical memory after the other rows, beside weights and KV".to_owned(),
        Row::DecodeB8 => format!("{N_TOGETHER} in flight, prompt {prompt}, output {output}"),
        Row::DecodeB1At8k => format!("1 in flight, prompt {prompt}, always the same, output {output}"),
        _ => format!("1 in flight, prompt {prompt}, output {output}"),
    }
}

/// One block: the same for all. `n` is how often a row of single requests asks.
pub(super) fn work(
    row: Row,
    n: usize,
    (workload, effort): (&Workload, &Effort),
    synthesis: &mut Synthesis,
    long: &Request,
    seed: u64,
) -> Work {
    let (prompt, output) = (prompt(row), output(row));
    let mut some = |n: usize| (0..n).map(|_| synthesis.sized(prompt, output)).collect();
    match row {
        Row::Served => {
            let (rate, n) = arrivals(workload, effort);
            let requests = (0..n).map(|_| synthesis.request()).collect();
            Work::Open { requests, at: poisson(n, rate, seed) }
        }
        Row::DecodeB8 => Work::Closed { concurrency: N_TOGETHER, requests: some(N_TOGETHER) },
        // What follows the prompt is timed, and not its reading: who keeps it read may.
        Row::DecodeB1At8k => Work::Closed { concurrency: 1, requests: vec![long.clone()] },
        _ => Work::Closed { concurrency: 1, requests: some(n.clamp(1, MOST)) },
    }
}

/// The spec's rate, and the requests of a block.
fn arrivals(workload: &Workload, effort: &Effort) -> (f64, usize) {
    let Arrivals::Poisson(rate) = workload.traffic.arrivals else { return (1.0, 2) };
    (rate, ((rate * effort.schedule.as_secs_f64()).round() as usize).max(2))
}

/// How many requests of this length fit a block.
pub(super) fn fitting(block: Duration, request_ms: f64) -> usize {
    ((block.as_secs_f64() * 1e3 / request_ms.max(1e-3)) as usize).clamp(1, MOST)
}

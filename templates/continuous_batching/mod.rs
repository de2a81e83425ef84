//! Sequences join and leave the batch at every step.

use std::{iter, time::Duration};

use synth::{
    axis::Axis,
    emit::EmitError,
    mechanism::{Cost, Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
    workload::{Metric, Workload},
};

use crate::kernels::cost::layer_weights;

/// Sequences join and leave at every step, and prompts are read in pieces beside decoding.
#[derive(Debug)]
pub struct ContinuousBatching;

impl Mechanism for ContinuousBatching {
    fn name(&self) -> &'static str {
        "continuous_batching"
    }

    fn axis(&self) -> Axis {
        Axis::Schedule
    }

    fn summary(&self) -> &'static str {
        "sequences join and leave at every step, and prompts are read in pieces beside decoding"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Exact
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[KnobSpec {
            name: "rows",
            doc: "positions one step computes at most",
            values: &ROWS,
            is_closed: false,
        }]
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        let Some(speed) = Speed::of(job) else { return Fit::no("it is not known how fast the kernels are") };
        let (rows, reason) = rows(job.workload, &speed);
        Fit::yes(Cost::default(), reason).with("rows", rows as u64)
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        let rows = site.knob("rows")? as usize;
        let concurrency = site.job.workload.traffic.concurrency;
        if rows < concurrency {
            return Err(EmitError::Conflict {
                mechanism: self.name(),
                why: format!(
                    "{rows} rows a step leave some of {concurrency} sequences without one; set `rows` to at least {concurrency}"
                ),
            });
        }
        Ok(vec![
            Part::Source { path: "src/sequence.rs", text: include_str!("sequence.rs") },
            Part::Source { path: "src/scheduler.rs", text: include_str!("scheduler.rs") },
            Part::count("STEP_ROWS", rows, site.decision.reason.clone()),
            Part::count(
                "MAX_SEQUENCES",
                concurrency,
                "Sequences in flight (`traffic.concurrency`); more wait in the queue.",
            ),
        ])
    }
}

/// Rows per step worth trying. Below 32 a step is bound by reading the weights, so a prompt read in smaller pieces takes
/// longer for nothing; beyond 1024 the activations of a step are tens of megabytes.
const ROWS: [u64; 6] = [32, 64, 128, 256, 512, 1024];

/// Bytes a second that one thread reads of weights in memory: what two threads of the machine read on which the rates of
/// the kernels were measured, 32 GB/s.
const READ_RATE: f64 = 16e9;

/// How many times as long as a step that only decodes one may take that reads prompts. It loses a twentieth to reading the
/// weights then, so to let others wait for longer would hardly make prompts faster.
const PATIENCE: f64 = 20.0;

/// How long steps take, by figures measured once and not by the machine that plans.
struct Speed {
    /// Floating-point operations a second of all threads.
    rate: f64,
    /// Seconds of arithmetic for each row.
    row: f64,
    /// Seconds to read the weights, which is a step that only decodes.
    reading: f64,
}

impl Speed {
    /// Nothing while it is not decided what computes.
    fn of(job: &Job<'_>) -> Option<Self> {
        let threads = job.workload.target.threads as f64;
        let rate = job.rate? * threads;
        let reading = job.held?.bytes_per_pass(job.model) as f64 / (READ_RATE * threads);
        Some(Self { rate, row: 2.0 * layer_weights(job.model) / rate, reading })
    }

    /// Seconds of a step.
    fn step(&self, rows: usize) -> f64 {
        self.reading.max(self.row * rows as f64)
    }

    /// Seconds to read a prompt of which each step takes `rows`.
    fn prompt(&self, len: usize, rows: usize) -> f64 {
        let (whole, rest) = (len / rows, len % rows);
        whole as f64 * self.step(rows) + if rest == 0 { 0.0 } else { self.step(rest) }
    }
}

/// The most rows for which those that decode do not wait too long, and no more than hold nearly every prompt whole.
fn rows(workload: &Workload, speed: &Speed) -> (usize, String) {
    let (prompt, threads) = (workload.traffic.prompt.p99, workload.target.threads);
    let gap = bound(workload, |it| {
        matches!(it, Metric::ItlP50 | Metric::ItlP99 | Metric::TpotP50 | Metric::TpotP99)
    });
    let ttft = bound(workload, |it| it == Metric::TtftP99);
    let longest = gap.map_or(PATIENCE * speed.reading, |(_, bound)| bound.as_secs_f64());
    // Each sequence has a row, however long that takes.
    let least = workload.traffic.concurrency.next_power_of_two().max(ROWS[0] as usize);
    let more = ROWS.map(|rows| rows as usize).into_iter().filter(|rows| *rows > least);
    let choices: Vec<usize> = iter::once(least).chain(more).collect();
    let most = choices[choices.len() - 1];
    let first = |is_enough: &dyn Fn(usize) -> bool| choices.iter().copied().find(|rows| is_enough(*rows));
    let whole = first(&|rows| rows >= prompt).unwrap_or(most);
    let patient = choices.iter().copied().rfind(|rows| speed.step(*rows) <= longest).unwrap_or(least);
    let keeps = |rows| ttft.is_none_or(|(_, bound)| speed.prompt(prompt, rows) <= bound.as_secs_f64());
    // A bound on the time between tokens binds; without one, others wait as long as a bound on the first token needs.
    let rows = match gap {
        Some(_) => patient,
        None => first(&|rows| rows >= patient && keeps(rows)).unwrap_or(patient),
    }
    .min(whole);
    let because = match (gap, ttft) {
        _ if rows == whole => format!("which holds the 99th percentile of prompts, {prompt}, whole"),
        (Some((metric, bound)), _) if speed.step(rows) > longest => {
            format!(
                "the fewest that there are, as none keep {} of {}",
                metric.name(),
                shown(bound.as_secs_f64())
            )
        }
        (Some((metric, bound)), _) => {
            format!("the most within {} of {}", metric.name(), shown(bound.as_secs_f64()))
        }
        (None, Some((_, bound))) if rows > patient => {
            format!("the fewest that read a prompt of {prompt} within {}", shown(bound.as_secs_f64()))
        }
        (None, _) => "more would make prompts hardly faster".to_owned(),
    };
    let reason = format!(
        "A step computes {rows} positions at most, {because}: {threads} threads at {:.0} GFLOP/s take {} for them, {:.1} times as long as to read the weights.",
        speed.rate / 1e9,
        shown(speed.step(rows)),
        speed.step(rows) / speed.reading
    );
    (rows, reason)
}

/// The tightest bound that the spec sets on some metrics.
fn bound(workload: &Workload, is_meant: impl Fn(Metric) -> bool) -> Option<(Metric, Duration)> {
    let bounds = workload.slo.keep.iter().map(|(metric, bound)| (*metric, *bound));
    bounds.filter(|(metric, _)| is_meant(*metric)).min_by_key(|(_, bound)| *bound)
}

/// Seconds as a person reads them.
fn shown(seconds: f64) -> String {
    match seconds {
        1.0.. => format!("{seconds:.1} s"),
        0.01.. => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{:.3} ms", seconds * 1e3),
    }
}

//! Sequences join and leave the batch at every step.

use synth::{
    axis::Axis,
    emit::EmitError,
    mechanism::{Cost, Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
};

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
        let traffic = &job.workload.traffic;
        let wanted = traffic.prompt.p50.max(traffic.concurrency) as u64;
        let rows = ROWS.into_iter().find(|rows| *rows >= wanted).unwrap_or(ROWS[ROWS.len() - 1]);
        let rows = rows.max((traffic.concurrency as u64).next_power_of_two());
        Fit::yes(
            Cost::default(),
            format!(
                "A step computes {rows} positions at most: a median prompt of {} in one or a few, and no one waits longer for a long one.",
                traffic.prompt.p50
            ),
        )
        .with("rows", rows)
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

/// Rows per step worth trying. Below 32 a step is bound by reading the weights, so a prompt read in smaller pieces
/// takes longer for nothing; beyond 256 others notice the pause.
const ROWS: [u64; 4] = [32, 64, 128, 256];

//! Keys and values in blocks that sequences hold by table.

use synth::{
    axis::Axis,
    emit::EmitError,
    feasibility::{channels, kv_bytes_per_position, split_rows, strip},
    mechanism::{Cost, Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
    workload::Precision,
};

/// Keys and values in f32, in blocks handed out by table.
#[derive(Debug)]
pub struct PagedKv;

impl Mechanism for PagedKv {
    fn name(&self) -> &'static str {
        "paged_kv"
    }

    fn axis(&self) -> Axis {
        Axis::Kv
    }

    fn summary(&self) -> &'static str {
        "keys and values in f32, in blocks handed out by table"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Exact
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[KnobSpec { name: "block", doc: "positions in a block", values: &[16, 32, 64], is_closed: true }]
    }

    fn caches(&self) -> Option<Precision> {
        Some(Precision::F32)
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if let Some(asked) = job.workload.kv.filter(|kv| *kv != Precision::F32) {
            return Fit::no(format!("the spec asks for {}", asked.name()));
        }
        Fit::yes(
            Cost { bytes: bytes(job, Precision::F32), ..Cost::default() },
            format!(
                "Blocks of {BLOCK} positions: a sequence wastes at most {} of them, and prompts share whole blocks.",
                BLOCK - 1
            ),
        )
        .with("block", BLOCK)
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        parts(site, Precision::F32)
    }
}

/// Small enough that a block's unused end costs little: one tile of keys.
const BLOCK: u64 = 16;

/// Bytes of keys and values that a token reads at the median context.
pub fn bytes(job: &Job<'_>, kv: Precision) -> f64 {
    job.workload.median_context() as f64 * kv_bytes_per_position(job.model, kv) as f64
}

/// The blocks, whatever their format.
pub fn parts(site: &Site<'_>, kv: Precision) -> Result<Vec<Part>, EmitError> {
    let block = site.knob("block")? as usize;
    let (workload, model) = (site.job.workload, site.job.model);
    let traffic = &workload.traffic;
    Ok(vec![
        Part::Source { path: "src/kv.rs", text: include_str!("kv.rs") },
        Part::count("BLOCK", block, site.decision.reason.clone()),
        Part::count(
            "N_BLOCKS",
            site.memory.kv_blocks as usize,
            format!(
                "Holds {} sequences at once, even if each has {} prompt and {} output tokens.",
                traffic.concurrency, traffic.prompt.max, traffic.output.max
            ),
        ),
        Part::count("CHANNELS", channels(model, kv), "Channels of a head in the cache, in whole tiles."),
        Part::count(
            "STRIP",
            strip(model, block),
            "Positions of a sequence that attend together: about 128 query rows of a key head, in whole blocks.",
        ),
        Part::count(
            "SPLIT_ROWS",
            split_rows(workload, model),
            "A step of so few rows is spread over threads by ranges of positions; more are enough work by themselves.",
        ),
    ])
}

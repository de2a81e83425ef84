//! Keys and values in blocks that sequences hold by table.

use synth::{
    axis::Axis,
    emit::EmitError,
    mechanism::{Cost, Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
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
        &[KnobSpec { name: "block", doc: "positions in a block", values: &[8, 16, 32, 64], is_closed: false }]
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        let dims = &job.model.dims;
        let traffic = &job.workload.traffic;
        let context = (traffic.prompt.p50 + traffic.output.p50 / 2) as f64;
        let bytes = context * (dims.layers * 2 * dims.kv_rows() * size_of::<f32>()) as f64;
        Fit::yes(
            Cost { bytes, instructions: 0.0 },
            format!(
                "Blocks of {BLOCK} positions: a sequence wastes at most {} of them, and prompts share whole blocks.",
                BLOCK - 1
            ),
        )
        .with("block", BLOCK)
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        let block = site.knob("block")?;
        let traffic = &site.job.workload.traffic;
        Ok(vec![
            Part::Source { path: "src/kv.rs", text: include_str!("kv.rs") },
            Part::count("BLOCK", block as usize, site.decision.reason.clone()),
            Part::count(
                "N_BLOCKS",
                site.memory.kv_blocks as usize,
                format!(
                    "Holds {} sequences at once, even if each has {} prompt and {} output tokens.",
                    traffic.concurrency, traffic.prompt.max, traffic.output.max
                ),
            ),
        ])
    }
}

/// Small enough that a block's unused end costs little, large enough that a table walk costs nothing beside the
/// positions it finds.
const BLOCK: u64 = 16;

//! Keys and values in blocks that sequences hold by table.

use synth::{
    axis::Axis,
    calibration::Candidate,
    emit::EmitError,
    feasibility::{channels, kv_bytes_per_position, split_rows, strip},
    held::{Format, Held},
    mechanism::{Cost, Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
    target::Isa,
    workload::{Precision, Tolerance},
};
use synth_macros::Template;

use crate::rounded;

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

#[derive(Template)]
#[template("paged_kv/kv.rs.tera")]
struct BlocksFile {
    /// Whether a position's cells have a scale.
    scaled: bool,
}

/// Small enough that a block's unused end costs little: one tile of keys.
const BLOCK: u64 = 16;

/// Bytes of keys and values that a token reads at the median context.
pub fn bytes(job: &Job<'_>, kv: Precision) -> f64 {
    job.workload.median_context() as f64 * kv_bytes_per_position(job.model, kv) as f64
}

/// Keys and values in fewer bits, in blocks of `block` positions, if that was measured to keep the tolerance.
pub fn rounded_fit(job: &Job<'_>, kv: Precision, block: u64) -> Fit {
    if let Some(asked) = job.workload.kv.filter(|asked| *asked != kv) {
        return Fit::no(format!("the spec asks for {}", asked.name()));
    }
    let Some(held) = job.held else { return Fit::no("how weights are held is not decided") };
    let divergence = match rounded::measured(job, &rounding(job, held, kv)) {
        Ok(measured) => measured.divergence,
        Err(why) => return Fit::no(format!("keys and values are rounded to {}: {why}", kv.name())),
    };
    let reason = format!(
        "{:.0} KB a position where f32 takes {:.0}: mean KL divergence {:.1e} and same top {:.1} % with all else that is rounded, as the tolerance allows.",
        kv_bytes_per_position(job.model, kv) as f64 / 1e3,
        kv_bytes_per_position(job.model, Precision::F32) as f64 / 1e3,
        divergence.kl_mean,
        100.0 * divergence.same_top,
    );
    Fit::yes(Cost { bytes: bytes(job, kv), ..Cost::default() }, reason).with("block", block)
}

/// What [`rounded_fit`] must know and does not, where the spec leaves the choice.
pub fn unmeasured(job: &Job<'_>, kv: Precision) -> Option<Candidate> {
    let is_open =
        job.workload.tolerance != Tolerance::Exact && job.workload.kv.is_none_or(|asked| asked == kv);
    let candidate = rounding(job, job.held?, kv);
    (is_open && job.calibration?.of(&candidate).is_none()).then_some(candidate)
}

/// What is rounded beside keys and values: the weights, and the activations where the tolerance lets kernels round them.
fn rounding(job: &Job<'_>, held: Held, kv: Precision) -> Candidate {
    let activations = Candidate { bf16_activations: true, ..Candidate::of(held) };
    let are_rounded = held == Held::all(Format::Bf16)
        && job.isa >= Isa::Avx512
        && rounded::measured(job, &activations).is_ok();
    Candidate { bf16_activations: are_rounded, kv, held }
}

/// The blocks, whatever their format.
pub fn parts(site: &Site<'_>, kv: Precision) -> Result<Vec<Part>, EmitError> {
    let block = site.knob("block")? as usize;
    let (workload, model) = (site.job.workload, site.job.model);
    let traffic = &workload.traffic;
    let blocks = BlocksFile { scaled: kv == Precision::Int8 };
    Ok(vec![
        Part::Rendered { path: "src/kv.rs", text: blocks.render()? },
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

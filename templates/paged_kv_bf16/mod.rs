//! Keys and values rounded to bf16.

use synth::{
    axis::Axis,
    calibration::Candidate,
    emit::EmitError,
    feasibility::kv_bytes_per_position,
    held::{Format, Held},
    mechanism::{Cost, Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
    target::Isa,
    workload::Precision,
};

use crate::{paged_kv, rounded};

/// Keys and values in bf16, in blocks handed out by table.
#[derive(Debug)]
pub struct PagedKvBf16;

impl Mechanism for PagedKvBf16 {
    fn name(&self) -> &'static str {
        "paged_kv_bf16"
    }

    fn axis(&self) -> Axis {
        Axis::Kv
    }

    fn summary(&self) -> &'static str {
        "keys and values rounded to bf16, in blocks handed out by table, which AMX multiplies as they lie"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Bounded
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[KnobSpec { name: "block", doc: "positions in a block", values: &[32, 64], is_closed: true }]
    }

    fn caches(&self) -> Option<Precision> {
        Some(Precision::Bf16)
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if let Some(asked) = job.workload.kv.filter(|kv| *kv != Precision::Bf16) {
            return Fit::no(format!("the spec asks for {}", asked.name()));
        }
        let Some(held) = job.held else { return Fit::no("how weights are held is not decided") };
        let rounding = rounding(job, held);
        let divergence = match rounded::measured(job, &rounding) {
            Ok(measured) => measured.divergence,
            Err(why) => return Fit::no(format!("keys and values are rounded to bf16: {why}")),
        };
        Fit::yes(
            Cost { bytes: paged_kv::bytes(job, Precision::Bf16), ..Cost::default() },
            format!(
                "{:.0} KB a position where f32 takes {:.0}: mean KL divergence {:.1e} and same top {:.1} % with all else that is rounded, as the tolerance allows.",
                kv_bytes_per_position(job.model, Precision::Bf16) as f64 / 1e3,
                kv_bytes_per_position(job.model, Precision::F32) as f64 / 1e3,
                divergence.kl_mean,
                100.0 * divergence.same_top,
            ),
        )
        .with("block", BLOCK)
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        paged_kv::parts(site, Precision::Bf16)
    }
}

/// What is rounded beside keys and values: the weights, and the activations where the tolerance lets kernels round them.
fn rounding(job: &Job<'_>, held: Held) -> Candidate {
    let activations = Candidate { bf16_activations: true, ..Candidate::of(held) };
    let are_rounded = held == Held::all(Format::Bf16)
        && job.isa >= Isa::Avx512
        && rounded::measured(job, &activations).is_ok();
    Candidate { bf16_activations: are_rounded, bf16_kv: true, held }
}

/// The depth of a tile of values: thirty-two positions.
const BLOCK: u64 = 32;

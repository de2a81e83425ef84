//! Kernels for AVX2 with FMA.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held},
    mechanism::{Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
    target::Isa,
};

use crate::kernels::{Kernels, cost, is_codes, kernels, rate, tuning::AHEAD};

/// AVX2 and FMA, eight f32 lanes.
#[derive(Debug)]
pub struct Avx2Kernels;

impl Mechanism for Avx2Kernels {
    fn name(&self) -> &'static str {
        "avx2_kernels"
    }

    fn axis(&self) -> Axis {
        Axis::Kernels
    }

    fn summary(&self) -> &'static str {
        "AVX2 and FMA, eight f32 lanes"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Exact
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[AHEAD.knob]
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if job.isa < Isa::Avx2 {
            return Fit::no(format!("the target is {}", job.isa.name()));
        }
        let fit = if job.held.is_some_and(|held| is_codes(held.layers)) {
            Fit::yes(
                cost(job.model, 32.0 / 3.0),
                "AVX2 multiplies and adds thirty-two codes in three instructions.",
            )
        } else {
            Fit::yes(cost(job.model, 8.0), "AVX2 with FMA multiplies and adds eight f32 at a time.")
        };
        KERNELS.tuned(job, fit)
    }

    fn rate(&self, held: Held) -> Option<f64> {
        match held.layers {
            Format::F32 => Some(rate(191.0)),
            Format::Bf16 => Some(rate(197.0)),
            Format::Int8(_) => Some(rate(178.0)),
            Format::Int4(_) => Some(rate(156.0)),
        }
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        KERNELS.parts(site)
    }
}

const KERNELS: Kernels =
    kernels!("avx2", &["avx2", "fma"], &[(AHEAD, 32)], "operand_int8.rs", &["avx2", "fma"], &[(AHEAD, 32)]);

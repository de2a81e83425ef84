//! Kernels for AVX2 with FMA.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held},
    mechanism::{Fit, Guarantee, Job, Mechanism, Part, Site},
    target::Isa,
};

use crate::kernels::{cost, is_codes, kernels, rate};

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

    fn fit(&self, job: &Job<'_>) -> Fit {
        if job.isa < Isa::Avx2 {
            return Fit::no(format!("the target is {}", job.isa.name()));
        }
        if job.held.is_some_and(|held| is_codes(held.layers)) {
            return Fit::yes(
                cost(job.model, 32.0 / 3.0),
                "AVX2 multiplies and adds thirty-two codes in three instructions.",
            );
        }
        Fit::yes(cost(job.model, 8.0), "AVX2 with FMA multiplies and adds eight f32 at a time.")
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
        kernels!("avx2", &["avx2", "fma"], "operand_int8.rs", &["avx2", "fma"]).parts(site)
    }
}

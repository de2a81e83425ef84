//! Kernels for AVX-512 F.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held},
    mechanism::{Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
    target::Isa,
};

use crate::kernels::{
    AVX512,
    cost::{self, codes_bytes, cost, rate},
    is_codes,
    tuning::PAGES,
};

/// AVX-512 F, sixteen f32 lanes.
#[derive(Debug)]
pub struct Avx512Kernels;

impl Mechanism for Avx512Kernels {
    fn name(&self) -> &'static str {
        "avx512_kernels"
    }

    fn axis(&self) -> Axis {
        Axis::Kernels
    }

    fn summary(&self) -> &'static str {
        "AVX-512 F, sixteen f32 lanes"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Exact
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[PAGES.knob]
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if job.isa < Isa::Avx512 {
            return Fit::no(format!("the target is {}", job.isa.name()));
        }
        let cost = cost(job, job.held.and_then(|held| self.rate(held)), &cost::AVX512);
        let fit = if job.held.is_some_and(|held| is_codes(held.layers)) {
            Fit::yes(cost, "AVX-512 VNNI multiplies and adds sixty-four codes at a time.")
        } else {
            Fit::yes(cost, "AVX-512 multiplies and adds sixteen f32 at a time.")
        };
        AVX512.tuned(job, fit)
    }

    fn rate(&self, held: Held) -> Option<f64> {
        match held.layers {
            Format::F32 => Some(rate(384.0)),
            Format::Bf16 => Some(rate(375.0)),
            Format::Int8(_) => Some(rate(760.0)),
            Format::Int4(_) => Some(rate(681.0)),
        }
    }

    fn operand_bytes(&self, held: Format, rows: usize, k: usize) -> usize {
        match held {
            Format::F32 | Format::Bf16 => rows * k * size_of::<f32>(),
            Format::Int8(group) | Format::Int4(group) => codes_bytes(group, rows, k),
        }
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        AVX512.parts(site)
    }
}

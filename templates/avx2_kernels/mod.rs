//! Kernels for AVX2 with FMA.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held},
    mechanism::{Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
    target::Isa,
};

use crate::kernels::{
    Kernels,
    cost::{Multiplies, cost, plain_codes_bytes, rate},
    is_codes, kernels,
    tuning::PAGES,
};

/// Thirty-two codes are multiplied by one instruction, and their products by another that adds pairs of them.
const MULTIPLIES: Multiplies =
    Multiplies { lanes: 8, weights: |format| if is_codes(format) { 16.0 } else { 8.0 }, tiles: false };

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
        &[PAGES.knob]
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if job.isa < Isa::Avx2 {
            return Fit::no(format!("the target is {}", job.isa.name()));
        }
        let cost = cost(job, job.held.and_then(|held| self.rate(held)), &MULTIPLIES);
        let fit = if job.held.is_some_and(|held| is_codes(held.layers)) {
            Fit::yes(cost, "AVX2 multiplies and adds thirty-two codes in three instructions.")
        } else {
            Fit::yes(cost, "AVX2 with FMA multiplies and adds eight f32 at a time.")
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

    fn operand_bytes(&self, held: Format, rows: usize, k: usize) -> usize {
        match held {
            Format::F32 | Format::Bf16 => rows * k * size_of::<f32>(),
            Format::Int8(group) | Format::Int4(group) => plain_codes_bytes(group, rows, k),
        }
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        KERNELS.parts(site)
    }
}

const KERNELS: Kernels =
    kernels!("avx2", &["avx2", "fma"], &[(PAGES, 8)], "operand_int8.rs", &["avx2", "fma"], &[(PAGES, 8)]);

//! Kernels for AVX-512 with BF16 dot products.

use synth::{
    axis::Axis,
    calibration::Candidate,
    emit::EmitError,
    held::{Format, Held},
    mechanism::{Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
    target::Isa,
};

use crate::{
    kernels::{
        AVX512, Kernels, Product, Terms,
        cost::{self, Multiplies, cost, rate, terms_bytes},
        product,
        tuning::PAGES,
    },
    rounded,
};

/// Dot products of bf16 in AVX-512, thirty-two at a time. Rounds activations to bf16.
#[derive(Debug)]
pub struct Avx512Bf16DotKernels;

impl Mechanism for Avx512Bf16DotKernels {
    fn name(&self) -> &'static str {
        "avx512_bf16_dot_kernels"
    }

    fn axis(&self) -> Axis {
        Axis::Kernels
    }

    fn summary(&self) -> &'static str {
        "AVX-512 BF16 dot products, thirty-two bf16 lanes, activations rounded to bf16"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Bounded
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[PAGES.knob]
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if job.isa < Isa::Avx512 {
            return Fit::no(format!("the target is {}", job.isa.name()));
        }
        let held = Held::all(Format::Bf16);
        if job.held != Some(held) {
            return Fit::no("weights are not held in bf16");
        }
        let rounding = Candidate { bf16_activations: true, ..Candidate::of(held) };
        if let Err(why) = rounded::measured(job, &rounding) {
            return Fit::no(format!("activations are rounded to bf16: {why}"));
        }
        let multiplies = Multiplies { weights: |_| 32.0, ..cost::AVX512 };
        let fit = Fit::yes(
            cost(job, self.rate(held), &multiplies),
            "AVX-512 BF16 multiplies and adds thirty-two bf16 at a time.",
        );
        KERNELS.tuned(job, fit)
    }

    fn rate(&self, held: Held) -> Option<f64> {
        (held.layers == Format::Bf16).then(|| rate(236.0))
    }

    fn operand_bytes(&self, _: Format, rows: usize, k: usize) -> usize {
        terms_bytes(1, rows, k)
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        KERNELS.parts(site)
    }
}

const KERNELS: Kernels = Kernels {
    bf16: Product {
        terms: Some(Terms(1, "Activations are rounded to bf16.")),
        ..product!(
            "avx512/operand_bf16.rs",
            "avx512/matmul_bf16_dot.rs",
            &["avx512f", "avx512bf16"],
            &[(PAGES, 8)]
        )
    },
    ..AVX512
};

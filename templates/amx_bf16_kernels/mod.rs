//! Kernels for AMX that round activations.

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
        AMX_LOOK, AVX512, Kernels, Product, Terms,
        cost::{self, Multiplies, cost, rate, terms_bytes},
        product,
        tuning::{self, PAGES, PANELS, STRIPS},
    },
    rounded,
};

/// Bf16 weights in AMX tiles, sixteen rows at a time, activations rounded to bf16.
#[derive(Debug)]
pub struct AmxBf16Kernels;

impl Mechanism for AmxBf16Kernels {
    fn name(&self) -> &'static str {
        "amx_bf16_kernels"
    }

    fn axis(&self) -> Axis {
        Axis::Kernels
    }

    fn summary(&self) -> &'static str {
        "AMX tiles of bf16, activations rounded to bf16"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Bounded
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[PAGES.knob, PANELS.knob, STRIPS.knob]
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if job.isa < Isa::Amx {
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
        // A tile has sixteen columns by thirty-two k, whether it meets one row or all.
        let multiplies = Multiplies { weights: |_| 512.0, tiles: true, ..cost::AVX512 };
        let fit = Fit::yes(
            cost(job, self.rate(held), &multiplies),
            "AMX multiplies sixteen rows by sixteen columns of bf16 at once.",
        );
        KERNELS.tuned(job, fit)
    }

    fn rate(&self, held: Held) -> Option<f64> {
        (held.layers == Format::Bf16).then(|| rate(2060.0))
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
        tiles: true,
        ..product!(
            "avx512/operand_bf16.rs",
            "amx/matmul_bf16.rs",
            &["avx512f", "avx512bf16"],
            tuning::TILES_OF_BF16
        )
    },
    look_features: AMX_LOOK,
    ..AVX512
};

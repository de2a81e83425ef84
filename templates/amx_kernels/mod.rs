//! Kernels for AMX, exact.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held},
    mechanism::{Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
    target::Isa,
};

use crate::kernels::{
    AMX_LOOK, AVX512, Kernels, Product, Terms,
    cost::{self, Multiplies, codes_bytes, cost, rate, terms_bytes},
    product,
    tuning::{self, FEW_ROWS, PAGES, PANELS, STRIPS},
};

/// bf16 that an f32 is the sum of.
const TERMS: usize = 3;

/// A tile of bf16 has sixteen columns by thirty-two k, whether it meets one row or all. A row of codes that is computed alone
/// is multiplied in vectors.
const MULTIPLIES: Multiplies = Multiplies {
    weights: |format| if format == Format::Bf16 { 512.0 } else { (cost::AVX512.weights)(format) },
    tiles: true,
    ..cost::AVX512
};

/// Weights of bf16 or of codes in AMX tiles, sixteen rows at a time; beside bf16 each activation as the sum of three bf16
/// that it is.
#[derive(Debug)]
pub struct AmxKernels;

impl Mechanism for AmxKernels {
    fn name(&self) -> &'static str {
        "amx_kernels"
    }

    fn axis(&self) -> Axis {
        Axis::Kernels
    }

    fn summary(&self) -> &'static str {
        "AMX tiles of bf16, activations as three bf16 each, which lose nothing; or of codes"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Exact
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[FEW_ROWS.knob, PAGES.knob, PANELS.knob, STRIPS.knob]
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if job.isa < Isa::Amx {
            return Fit::no(format!("the target is {}", job.isa.name()));
        }
        let cost = cost(job, job.held.and_then(|held| self.rate(held)), &MULTIPLIES);
        let fit = match job.held.map(|held| held.layers) {
            Some(Format::Bf16) => Fit::yes(
                cost,
                "AMX multiplies sixteen rows by sixteen columns at once, and three bf16 are an f32.",
            ),
            Some(Format::Int8(_) | Format::Int4(_)) => {
                Fit::yes(cost, "AMX multiplies sixteen rows by sixteen columns of codes at once.")
            }
            Some(Format::F32) | None => Fit::no("weights are held in f32, which tiles do not multiply"),
        };
        KERNELS.tuned(job, fit)
    }

    fn rate(&self, held: Held) -> Option<f64> {
        match held.layers {
            Format::F32 => None,
            Format::Bf16 => Some(rate(857.0)),
            Format::Int8(64) => Some(rate(1500.0)),
            Format::Int8(128) => Some(rate(2100.0)),
            Format::Int8(256) => Some(rate(2500.0)),
            Format::Int8(_) => Some(rate(3200.0)),
            Format::Int4(32) => Some(rate(920.0)),
            Format::Int4(64) => Some(rate(1750.0)),
            Format::Int4(_) => Some(rate(2400.0)),
        }
    }

    fn operand_bytes(&self, held: Format, rows: usize, k: usize) -> usize {
        match held {
            Format::F32 => rows * k * size_of::<f32>(),
            Format::Bf16 => terms_bytes(TERMS, rows, k),
            Format::Int8(group) | Format::Int4(group) => codes_bytes(group, rows, k),
        }
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        KERNELS.parts(site)
    }
}

const KERNELS: Kernels = Kernels {
    bf16: Product {
        terms: Some(Terms(
            TERMS,
            "An f32 is the sum of three bf16, which AMX multiplies: nothing is rounded that f32 would keep.",
        )),
        tiles: true,
        ..product!(
            "avx512/operand_bf16.rs",
            "amx/matmul_bf16.rs",
            &["avx512f", "avx512bf16"],
            tuning::TILES_OF_BF16
        )
    },
    int8: codes(include_str!("../kernels/cpu/amx/matmul_int8.rs"), AVX512.int8.matmul),
    int4: codes(include_str!("../kernels/cpu/amx/matmul_int4.rs"), AVX512.int4.matmul),
    look_features: AMX_LOOK,
    ..AVX512
};

/// The bits of a product of codes are the same, whatever multiplies them.
const fn codes(matmul: &'static str, few_rows: &'static str) -> Product {
    Product {
        matmul,
        few_rows: Some(few_rows),
        tiles: true,
        dots: Some(include_str!("../kernels/cpu/amx/dots.rs")),
        tuning: tuning::TILES_OF_CODES,
        ..AVX512.int8
    }
}

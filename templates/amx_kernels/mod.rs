//! Kernels for AMX, exact.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held},
    mechanism::{Fit, Guarantee, Job, Mechanism, Part, Site},
    target::Isa,
};

use crate::kernels::{Kernels, Terms, cost, kernels, rate};

/// Bf16 weights in AMX tiles, sixteen rows at a time, each activation as the sum of three bf16 that it is.
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
        "AMX tiles of bf16, activations as three bf16 each, which lose nothing"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Exact
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if job.isa < Isa::Amx {
            return Fit::no(format!("the target is {}", job.isa.name()));
        }
        if job.held != Some(Held::all(Format::Bf16)) {
            return Fit::no("weights are not held in bf16");
        }
        // A tile instruction takes the time of thirty-two multiply-adds of vectors and serves sixteen rows by sixteen
        // columns by thirty-two k, when prompts are read; decoding is bound by memory whatever computes it.
        Fit::yes(
            cost(job.model, 256.0 / 3.0),
            "AMX multiplies sixteen rows by sixteen columns at once, and three bf16 are an f32.",
        )
    }

    fn rate(&self, held: Held) -> Option<f64> {
        (held.layers == Format::Bf16).then(|| rate(857.0))
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        let features = &["avx512f", "avx512bf16"];
        let terms = Some(Terms(
            3,
            "An f32 is the sum of three bf16, which AMX multiplies: nothing is rounded that f32 would keep.",
        ));
        let kernels = kernels!("avx512", "avx512/operand_bf16.rs", "amx/matmul_bf16.rs", features);
        Kernels { terms, tiles: true, ..kernels }.parts(site)
    }
}

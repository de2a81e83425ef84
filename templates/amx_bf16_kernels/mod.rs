//! Kernels for AMX that round activations.

use synth::{
    axis::Axis,
    emit::EmitError,
    feasibility,
    mechanism::{Fit, Guarantee, Job, Mechanism, Part, Site},
    target::Isa,
    workload::{Precision, Tolerance},
};

use crate::kernels::{Kernels, Terms, cost, kernels};

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

    fn fit(&self, job: &Job<'_>) -> Fit {
        if job.isa < Isa::Amx {
            return Fit::no(format!("the target is {}", job.isa.name()));
        }
        if feasibility::precision(job.workload, job.model) != Precision::Bf16 {
            return Fit::no("weights are held in f32");
        }
        if matches!(job.workload.tolerance, Tolerance::Exact) {
            return Fit::no("activations are rounded to bf16, and the tolerance asks for exact tokens");
        }
        // A tile instruction takes the time of thirty-two multiply-adds of vectors and serves sixteen rows by sixteen
        // columns by thirty-two k, when prompts are read; decoding is bound by memory whatever computes it.
        Fit::yes(cost(job.model, 256.0), "AMX multiplies sixteen rows by sixteen columns of bf16 at once.")
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        let features = &["avx512f", "avx512bf16"];
        let terms = Some(Terms(1, "Activations are rounded to bf16."));
        let kernels = kernels!("avx512", "avx512/operand_bf16.rs", "amx/matmul_bf16.rs", features);
        Kernels { terms, tiles: true, ..kernels }.parts(site)
    }
}

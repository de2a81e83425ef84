//! Weights held in bf16.

use synth::{
    axis::Axis,
    emit::EmitError,
    feasibility,
    mechanism::{Cost, Fit, Guarantee, Job, Mechanism, Part, Site},
    model::Dtype,
    workload::{Precision, Tolerance},
};

use crate::kernels::read_weights;

/// Weights in bf16, widened in registers.
#[derive(Debug)]
pub struct Bf16Weights;

impl Mechanism for Bf16Weights {
    fn name(&self) -> &'static str {
        "bf16_weights"
    }

    fn axis(&self) -> Axis {
        Axis::Weights
    }

    fn summary(&self) -> &'static str {
        "weights in bf16, widened in registers"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Bounded
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if feasibility::precision(job.workload, job.model) != Precision::Bf16 {
            return Fit::no("the weights are served in f32");
        }
        let is_rounded = job.model.stored != Dtype::Bf16;
        if is_rounded && job.workload.tolerance == Tolerance::Exact {
            return Fit::no(format!(
                "the checkpoint holds {}, which bf16 rounds, and the tolerance asks for exact tokens",
                job.model.stored.name()
            ));
        }
        let cost = Cost { bytes: 2.0 * read_weights(job.model), instructions: 0.0 };
        Fit::yes(
            cost,
            if is_rounded {
                "The spec asks for two bytes a weight, which halves what each token reads; the checkpoint is rounded."
            } else {
                "Stored as bf16: two bytes a weight are all a token reads, and widening in registers loses nothing."
            },
        )
    }

    fn parts(&self, _: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        Ok(Vec::new())
    }
}

//! Weights held in f32.

use synth::{
    axis::Axis,
    emit::EmitError,
    feasibility,
    mechanism::{Cost, Fit, Guarantee, Job, Mechanism, Part, Site},
    workload::Precision,
};

use crate::kernels::read_weights;

/// Weights in f32, as stored or widened without loss.
#[derive(Debug)]
pub struct F32Weights;

impl Mechanism for F32Weights {
    fn name(&self) -> &'static str {
        "f32_weights"
    }

    fn axis(&self) -> Axis {
        Axis::Weights
    }

    fn summary(&self) -> &'static str {
        "weights in f32, as stored or widened without loss"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Exact
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if feasibility::precision(job.workload, job.model) != Precision::F32 {
            return Fit::no("the weights are served in bf16");
        }
        let cost = Cost { bytes: 4.0 * read_weights(job.model), instructions: 0.0 };
        Fit::yes(cost, format!("Stored as {}, and f32 holds that without loss.", job.model.stored.name()))
    }

    fn parts(&self, _: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        Ok(Vec::new())
    }
}

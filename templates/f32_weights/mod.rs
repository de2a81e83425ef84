//! Weights held in f32.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held},
    mechanism::{Cost, Fit, Guarantee, Job, Knobs, Mechanism, Part, Site},
    model::Dtype,
    workload::Precision,
};

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

    fn holds(&self, _: &Knobs) -> Option<Held> {
        Some(Held::all(Format::F32))
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        match job.workload.weights {
            Some(asked) if asked.layers != Precision::F32 => {
                return Fit::no(format!("the spec asks for {}", asked.layers.name()));
            }
            None if job.model.stored == Dtype::Bf16 => {
                return Fit::no("bf16 holds the checkpoint without loss in half the bytes");
            }
            _ => {}
        }
        let bytes = Held::all(Format::F32).bytes_per_pass(job.model) as f64;
        let cost = Cost { bytes, ..Cost::default() };
        Fit::yes(cost, format!("Stored as {}, and f32 holds that without loss.", job.model.stored.name()))
    }

    fn parts(&self, _: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        Ok(Vec::new())
    }
}

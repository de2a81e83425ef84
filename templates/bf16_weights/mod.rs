//! Weights held in bf16.

use synth::{
    axis::Axis,
    calibration::Candidate,
    emit::EmitError,
    held::{Format, Held},
    mechanism::{Cost, Fit, Guarantee, Job, Knobs, Mechanism, Part, Site},
    model::Dtype,
    workload::{Precision, Tolerance},
};

use crate::rounded;

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

    fn holds(&self, _: &Knobs) -> Option<Held> {
        Some(Held::all(Format::Bf16))
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if let Some(asked) = job.workload.weights
            && asked.layers != Precision::Bf16
        {
            return Fit::no(format!("the spec asks for {}", asked.layers.name()));
        }
        let held = Held::all(Format::Bf16);
        let cost = Cost { bytes: held.bytes_per_pass(job.model) as f64, ..Cost::default() };
        let stored = job.model.stored.name();
        if job.model.stored == Dtype::Bf16 {
            return Fit::yes(
                cost,
                "Stored as bf16: two bytes a weight are all a token reads, and widening in registers loses nothing.",
            );
        }
        if job.workload.tolerance == Tolerance::Exact {
            return Fit::no(format!(
                "the checkpoint holds {stored}, which bf16 rounds, and the tolerance asks for exact tokens"
            ));
        }
        match rounded::measured(job, &Candidate::of(held)) {
            Err(why) => Fit::no(format!("rounding {stored} to bf16: {why}")),
            Ok(measured) => Fit::yes(
                cost,
                format!(
                    "Rounded from {stored} to two bytes a weight, with a mean KL divergence of {:.1e}, as the tolerance allows.",
                    measured.divergence.kl_mean
                ),
            ),
        }
    }

    fn parts(&self, _: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        Ok(Vec::new())
    }
}

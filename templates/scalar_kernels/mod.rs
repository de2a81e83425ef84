//! Kernels in plain Rust, one multiply-add at a time.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held},
    mechanism::{Fit, Guarantee, Job, Mechanism, Part, Site},
};

use crate::kernels::{cost, kernels, rate};

/// Plain Rust, for any processor.
#[derive(Debug)]
pub struct ScalarKernels;

impl Mechanism for ScalarKernels {
    fn name(&self) -> &'static str {
        "scalar_kernels"
    }

    fn axis(&self) -> Axis {
        Axis::Kernels
    }

    fn summary(&self) -> &'static str {
        "plain Rust, for any processor"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Exact
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        Fit::yes(cost(job.model, 1.0), "Plain Rust runs on any processor.")
    }

    fn rate(&self, held: Held) -> Option<f64> {
        match held.layers {
            Format::F32 => Some(rate(34.0)),
            Format::Bf16 => Some(rate(8.0)),
            Format::Int8(_) => Some(rate(11.0)),
            Format::Int4(_) => Some(rate(8.0)),
        }
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        kernels!("scalar", &[], &[], "operand_int8.rs", &[], &[]).parts(site)
    }
}

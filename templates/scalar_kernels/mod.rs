//! Kernels in plain Rust, one multiply-add at a time.

use synth::{
    axis::Axis,
    emit::EmitError,
    mechanism::{Fit, Guarantee, Job, Mechanism, Part, Site},
};

use crate::kernels::{cost, kernels};

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

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        kernels!("scalar", &[], "operand_int8.rs", &[]).parts(site)
    }
}

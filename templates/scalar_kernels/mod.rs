//! Kernels in plain Rust, one multiply-add at a time.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held},
    mechanism::{Cost, Fit, Guarantee, Job, Mechanism, Part, Site},
};

use crate::kernels::{
    cost::{compute, plain_codes_bytes, rate},
    kernels,
};

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
        // Of instructions that multiply and add in one it has none.
        let compute = compute(job, job.held.and_then(|held| self.rate(held)));
        Fit::yes(Cost { compute, ..Cost::default() }, "Plain Rust runs on any processor.")
    }

    fn rate(&self, held: Held) -> Option<f64> {
        match held.layers {
            Format::F32 => Some(rate(34.0)),
            Format::Bf16 => Some(rate(8.0)),
            Format::Int8(_) => Some(rate(11.0)),
            Format::Int4(_) => Some(rate(8.0)),
        }
    }

    fn operand_bytes(&self, held: Format, rows: usize, k: usize) -> usize {
        match held {
            Format::F32 | Format::Bf16 => rows * k * size_of::<f32>(),
            Format::Int8(group) | Format::Int4(group) => plain_codes_bytes(group, rows, k),
        }
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        kernels!("scalar", &[], &[], "operand_int8.rs", &[], &[]).parts(site)
    }
}

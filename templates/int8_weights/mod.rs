//! Weights held in int8.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held, INT8_GROUPS},
    mechanism::{Fit, Guarantee, Job, KnobSpec, Knobs, Mechanism, Part, Site},
    workload::Precision,
};

use crate::rounded;

/// Weights as codes of 8 bits, with a scale for each group of a row.
#[derive(Debug)]
pub struct Int8Weights;

impl Mechanism for Int8Weights {
    fn name(&self) -> &'static str {
        "int8_weights"
    }

    fn axis(&self) -> Axis {
        Axis::Weights
    }

    fn summary(&self) -> &'static str {
        "weights as codes of 8 bits in groups with a scale, activations rounded to int8"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Bounded
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[
            KnobSpec {
                name: "group",
                doc: "weights of a row that share a scale",
                values: &INT8_GROUPS,
                is_closed: true,
            },
            KnobSpec {
                name: "head_bits",
                doc: "bits of a weight of head and embedding",
                values: &[8, 16, 32],
                is_closed: true,
            },
        ]
    }

    fn holds(&self, knobs: &Knobs) -> Option<Held> {
        let group = *knobs.get("group")?;
        let head = match knobs.get("head_bits")? {
            8 => Format::Int8(group),
            16 => Format::Bf16,
            32 => Format::F32,
            _ => return None,
        };
        Some(Held { layers: Format::Int8(group), head })
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        rounded::fit(job, Precision::Int8)
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        rounded::parts(site)
    }
}

//! Weights held in int4.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, HEAD_GROUP, Held, INT4_GROUPS},
    mechanism::{Fit, Guarantee, Job, KnobSpec, Knobs, Mechanism, Part, Site},
    workload::Precision,
};

use crate::rounded;

/// Weights as codes of 4 bits, with a scale for each group of a row.
#[derive(Debug)]
pub struct Int4Weights;

impl Mechanism for Int4Weights {
    fn name(&self) -> &'static str {
        "int4_weights"
    }

    fn axis(&self) -> Axis {
        Axis::Weights
    }

    fn summary(&self) -> &'static str {
        "weights as codes of 4 bits in groups with a scale, activations rounded to int8"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Bounded
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[
            KnobSpec {
                name: "group",
                doc: "weights of a row that share a scale",
                values: &INT4_GROUPS,
                is_closed: true,
            },
            KnobSpec {
                name: "head_bits",
                doc: "bits of a weight of head and embedding",
                values: &[4, 8, 16, 32],
                is_closed: true,
            },
        ]
    }

    fn holds(&self, knobs: &Knobs) -> Option<Held> {
        let group = *knobs.get("group")?;
        let head = match knobs.get("head_bits")? {
            4 => Format::Int4(group),
            8 => Format::Int8(HEAD_GROUP),
            16 => Format::Bf16,
            32 => Format::F32,
            _ => return None,
        };
        Some(Held { layers: Format::Int4(group), head })
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        rounded::fit(job, Precision::Int4)
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        rounded::parts(site)
    }
}

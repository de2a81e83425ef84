//! Keys and values rounded to bf16.

use synth::{
    axis::Axis,
    calibration::Candidate,
    emit::EmitError,
    mechanism::{Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
    workload::Precision,
};

use crate::paged_kv;

/// Keys and values in bf16, in blocks handed out by table.
#[derive(Debug)]
pub struct PagedKvBf16;

impl Mechanism for PagedKvBf16 {
    fn name(&self) -> &'static str {
        "paged_kv_bf16"
    }

    fn axis(&self) -> Axis {
        Axis::Kv
    }

    fn summary(&self) -> &'static str {
        "keys and values rounded to bf16, in blocks handed out by table, which AMX multiplies as they lie"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Bounded
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[KnobSpec { name: "block", doc: "positions in a block", values: &[32, 64], is_closed: true }]
    }

    fn caches(&self) -> Option<Precision> {
        Some(Precision::Bf16)
    }

    fn unmeasured(&self, job: &Job<'_>) -> Option<Candidate> {
        paged_kv::unmeasured(job, Precision::Bf16)
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        paged_kv::rounded_fit(job, Precision::Bf16, BLOCK)
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        paged_kv::parts(site, Precision::Bf16)
    }
}

/// The depth of a tile of values: thirty-two positions.
const BLOCK: u64 = 32;

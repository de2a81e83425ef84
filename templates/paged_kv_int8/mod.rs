//! Keys and values rounded to int8.

use synth::{
    axis::Axis,
    calibration::Candidate,
    emit::EmitError,
    mechanism::{Fit, Guarantee, Job, KnobSpec, Mechanism, Part, Site},
    workload::Precision,
};

use crate::paged_kv;

/// Keys and values in int8, in blocks handed out by table.
#[derive(Debug)]
pub struct PagedKvInt8;

impl Mechanism for PagedKvInt8 {
    fn name(&self) -> &'static str {
        "paged_kv_int8"
    }

    fn axis(&self) -> Axis {
        Axis::Kv
    }

    fn summary(&self) -> &'static str {
        "keys and values in codes of eight bits, a scale for each position and head, in blocks handed out by table"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Bounded
    }

    fn knobs(&self) -> &'static [KnobSpec] {
        &[KnobSpec { name: "block", doc: "positions in a block", values: &[64, 128], is_closed: true }]
    }

    fn caches(&self) -> Option<Precision> {
        Some(Precision::Int8)
    }

    fn unmeasured(&self, job: &Job<'_>) -> Option<Candidate> {
        (job.model.dims.head_dim <= MAX_HEAD).then(|| paged_kv::unmeasured(job, Precision::Int8))?
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        if job.model.dims.head_dim > MAX_HEAD {
            return Fit::no(format!("sums over a head of {} would not fit 32 bits", job.model.dims.head_dim));
        }
        paged_kv::rounded_fit(job, Precision::Int8, BLOCK)
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        paged_kv::parts(site, Precision::Int8)
    }
}

/// The depth of a tile of codes: sixty-four positions.
const BLOCK: u64 = 64;

/// Channels whose products of sixteen and eight bits are summed in 32: 512 · 32767 · 127 < 2³¹.
const MAX_HEAD: usize = 512;

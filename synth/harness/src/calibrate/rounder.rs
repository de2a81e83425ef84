//! Where one candidate rounds.

use std::sync::{Arc, Mutex, PoisonError};

use oracle::Rounding;
use synth::calibration::Candidate;
use synth::held::Format;
use synth::workload::Precision;

use crate::quantise::{INT4, INT8, round_activations, round_bf16};

/// Rounds as a candidate says, and remembers a tensor that it could not.
///
/// Codes are multiplied as the numbers they stand for, in f32. A kernel multiplies the codes, exactly, and the scales
/// afterwards: that differs by the rounding of f32 sums, far below that of a code.
#[derive(Clone)]
pub(super) struct Rounder {
    candidate: Candidate,
    not_finite: Arc<Mutex<Option<String>>>,
}

impl Rounder {
    pub(super) fn new(candidate: Candidate) -> Rounder {
        Rounder { candidate, not_finite: Arc::default() }
    }

    /// A tensor that holds a weight without a code.
    pub(super) fn not_finite(&self) -> Option<String> {
        self.not_finite.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn input(&self, matrix: Format, rows: &mut [f32], n_in: usize) {
        match matrix {
            Format::F32 => {}
            Format::Bf16 if !self.candidate.bf16_activations => {}
            Format::Bf16 => round_bf16(rows),
            Format::Int8(group) | Format::Int4(group) => round_activations(rows, n_in, group as usize),
        }
    }
}

impl Rounding for Rounder {
    fn weights(&self, name: &str, rows: &mut [f32], n_in: usize) {
        if !rows.iter().all(|weight| weight.is_finite()) {
            *self.not_finite.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
        }
        let is_table = name.starts_with("model.embed_tokens.") || name.starts_with("lm_head.");
        let held = self.candidate.held;
        match if is_table { held.head } else { held.layers } {
            Format::F32 => {}
            Format::Bf16 => round_bf16(rows),
            Format::Int8(group) => INT8.round_weights(rows, n_in, group as usize),
            Format::Int4(group) => INT4.round_weights(rows, n_in, group as usize),
        }
    }

    fn layer_input(&self, rows: &mut [f32], n_in: usize) {
        self.input(self.candidate.held.layers, rows, n_in);
    }

    fn head_input(&self, rows: &mut [f32], n_in: usize) {
        self.input(self.candidate.held.head, rows, n_in);
    }

    fn kept(&self, heads: &mut [f32], head_dim: usize) {
        match self.candidate.kv {
            Precision::F32 => {}
            Precision::Bf16 => round_bf16(heads),
            // No cache holds fewer bits.
            Precision::Int8 | Precision::Int4 => round_activations(heads, head_dim, head_dim),
        }
    }

    /// Beside codes they keep sixteen bits, of which what is lost is far below what a code loses.
    fn attention(&self, x: &mut [f32]) {
        if self.candidate.kv == Precision::Bf16 {
            round_bf16(x);
        }
    }
}

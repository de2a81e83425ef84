//! Rotary position embedding (Su et al. 2021): the angle of each pair of channels at each position.

use crate::shape::{HEAD_DIM, MAX_CONTEXT, ROPE_THETA};

/// Cosines and sines for every position a sequence may reach.
pub struct RopeTable {
    /// (MAX_CONTEXT, HEAD_DIM / 2)
    cos: Vec<f32>,
    /// (MAX_CONTEXT, HEAD_DIM / 2)
    sin: Vec<f32>,
}

impl RopeTable {
    /// Computes the table once, before the server is ready.
    pub fn new() -> Self {
        let angle = |cell: usize| (cell / PAIRS) as f32 * frequency(cell % PAIRS);
        Self {
            cos: (0..MAX_CONTEXT * PAIRS).map(|cell| angle(cell).cos()).collect(),
            sin: (0..MAX_CONTEXT * PAIRS).map(|cell| angle(cell).sin()).collect(),
        }
    }

    /// Cosines and sines of one position, (HEAD_DIM / 2) each.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let cells = position * PAIRS..(position + 1) * PAIRS;
        (&self.cos[cells.clone()], &self.sin[cells])
    }
}

/// Channels are rotated in pairs, one from each half of a head.
const PAIRS: usize = HEAD_DIM / 2;

/// Radians per position of one pair of channels.
fn frequency(pair: usize) -> f32 {
    1.0 / ROPE_THETA.powf((2 * pair) as f32 / HEAD_DIM as f32)
}

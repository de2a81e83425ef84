//! How far decoding is from what memory bandwidth allows.

use serde::{Deserialize, Serialize};
use synth::{feasibility::kv_bytes_per_position, held::Held, model::Model, workload::Precision};

/// What one decoded token must read with one sequence in flight, and how fast the machine reads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roofline {
    /// Bytes of weights and KV that a decode step of one sequence reads.
    pub bytes_per_token: u64,
    /// Measured read bandwidth with the target's threads, GB/s (10⁹).
    pub read_gb_s: f64,
}

/// The roofline next to what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RooflineFraction {
    /// The roofline.
    pub roofline: Roofline,
    /// Least time per token at that bandwidth, milliseconds.
    pub floor_ms: f64,
    /// Measured median TPOT with one sequence, milliseconds.
    pub measured_ms: f64,
    /// `floor_ms / measured_ms`: 1 is the roofline. A model that fits the caches can exceed it.
    pub fraction: f64,
}

impl RooflineFraction {
    /// What to make of more than there is: nothing where the roofline holds.
    pub(crate) fn remark(&self) -> &'static str {
        if self.fraction > 1.0 { ", more than memory gives: the weights stay in a cache" } else { "" }
    }
}

impl Roofline {
    /// The share of the roofline that a median TPOT of `measured_ms` reaches; `None` when either is not positive.
    #[must_use]
    pub fn fraction(self, measured_ms: f64) -> Option<RooflineFraction> {
        let floor_ms = self.bytes_per_token as f64 / (self.read_gb_s * 1e9) * 1e3;
        let fraction = floor_ms / measured_ms;
        (fraction.is_finite() && fraction > 0.0).then_some(RooflineFraction {
            roofline: self,
            floor_ms,
            measured_ms,
            fraction,
        })
    }
}

/// Bytes that a decode step of one sequence at position `n_positions` reads: every matrix once, the output head
/// included, one row of the embedding, and the keys and values of the positions it sees. Norms and biases are left
/// out; they are below a thousandth.
#[must_use]
pub fn decode_bytes(model: &Model, held: Held, kv: Precision, n_positions: usize) -> u64 {
    let dims = &model.dims;
    let weights = held.bytes_per_pass(model) + held.head.bytes(1, dims.hidden);
    let seen = model.sliding_window.map_or(n_positions, |window| n_positions.min(window));
    weights + seen as u64 * kv_bytes_per_position(model, kv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fraction_is_the_floor_over_the_measured_time() {
        let roofline = Roofline { bytes_per_token: 1_190_000_000, read_gb_s: 44.0 };
        let fraction = roofline.fraction(54.1).expect("a fraction");
        assert!((fraction.floor_ms - 27.045).abs() < 0.01);
        assert!((fraction.fraction - 0.5).abs() < 0.001);
        assert_eq!(fraction.remark(), "");
        assert!(roofline.fraction(20.0).is_some_and(|cached| cached.remark().contains("cache")));
        assert!(roofline.fraction(0.0).is_none());
        assert!(Roofline { bytes_per_token: 0, ..roofline }.fraction(1.0).is_none());
    }
}

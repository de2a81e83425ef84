//! Weights between the products of attention over codes, in plain Rust.

use std::ops::Range;

use super::{
    activation::exp,
    attend::{STEPS, TINY},
};

/// scores ← exp(scores - their largest) at the positions seen and 0 at the others, where a score times `unit` and the scale of
/// its key is one; `weights` ← those times the scales of values, as whole numbers of steps. The largest score and the sum of
/// the weights, and the step.
pub fn weigh(
    scores: &mut [f32],
    [keys, values]: [&[f32]; 2],
    unit: f32,
    seen: Range<usize>,
    weights: &mut [i16],
) -> ([f32; 2], f32) {
    let mut largest = f32::MIN;
    for position in seen.clone() {
        scores[position] *= keys[position] * unit;
        largest = largest.max(scores[position]);
    }
    let (mut sum, mut most) = (0.0, 0.0f32);
    for (position, score) in scores.iter_mut().enumerate() {
        let weight = if seen.contains(&position) { exp(*score - largest) } else { 0.0 };
        sum += weight;
        *score = if seen.contains(&position) { weight * values[position] } else { 0.0 };
        most = most.max(*score);
    }
    let inverse = if most < TINY { 0.0 } else { STEPS / most };
    for (weight, scaled) in weights.iter_mut().zip(scores) {
        *weight = (*scaled * inverse).round_ties_even() as i16;
    }
    ([largest, sum], most / STEPS)
}

//! Weights between the products of attention over codes, and rounding to terms of products, in plain Rust.

use std::ops::Range;

use super::activation::exp;

/// scores ← exp(scores - their largest) times the scales of values at the positions seen and 0 at the others, where a score
/// times `unit` and the scale of its key is one. The largest score and the sum of the weights before they are scaled; and the
/// largest that is scaled.
pub fn weigh(
    scores: &mut [f32],
    [keys, values]: [&[f32]; 2],
    unit: f32,
    seen: Range<usize>,
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
    ([largest, sum], most)
}

/// The largest magnitude of a row.
pub fn largest(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

/// Writes a row, times `inverse`, as whole numbers, to the nearest, ties to even.
pub fn round(row: &[f32], inverse: f32, rounded: &mut [i16]) {
    // The low bits of the sum are the whole number.
    rounded.iter_mut().zip(row).for_each(|(to, x)| *to = (x * inverse + NO_FRACTION).to_bits() as i16);
}

/// 1.5 · 2²³: added, it leaves no bits for a fraction.
const NO_FRACTION: f32 = 12_582_912.0;

//! Products of rows of sixteen bits and codes of eight, and the weights between them, in plain Rust.

use std::ops::Range;

use super::{
    activation::exp,
    attend::{STEPS, TINY},
    store::Cell,
    strip::{RANGE, TILE},
};

/// `scores[r · RANGE + p] = queries[r] · key p of the blocks`, in the units of both.
pub fn score<const CHANNELS: usize, const BLOCK: usize>(
    queries: &[i16],
    blocks: &[&[Cell]],
    scores: &mut [f32],
) {
    for (row, query) in queries.chunks_exact(CHANNELS).enumerate() {
        let tiles = blocks.iter().flat_map(|block| block.chunks_exact(TILE * CHANNELS));
        for (tile, scores) in tiles.zip(scores[row * RANGE..].chunks_exact_mut(TILE)) {
            let mut sums = [0; TILE];
            add_products(query, tile, &mut sums);
            scores.iter_mut().zip(sums).for_each(|(score, sum)| *score = sum as f32);
        }
    }
}

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

/// `sums[r · CHANNELS + c] = Σ weights[r · RANGE + p] · channel c of value p of the blocks`.
pub fn sum_values<const CHANNELS: usize, const BLOCK: usize>(
    weights: &[i16],
    blocks: &[&[Cell]],
    sums: &mut [i32],
) {
    for (row, sums) in sums.chunks_exact_mut(CHANNELS).enumerate() {
        sums.fill(0);
        for (block, weights) in blocks.iter().zip(weights[row * RANGE..].chunks(BLOCK)) {
            for (tile, sums) in block.chunks_exact(TILE * BLOCK).zip(sums.as_chunks_mut().0) {
                add_products(weights, tile, sums);
            }
        }
    }
}

/// `sums[lane] += Σ terms · codes of the lane`, four of them in each of its cells.
fn add_products(terms: &[i16], tile: &[Cell], sums: &mut [i32; TILE]) {
    let lines = tile.as_chunks::<{ 4 * TILE }>().0;
    for (terms, line) in terms.as_chunks::<4>().0.iter().zip(lines) {
        for (sum, codes) in sums.iter_mut().zip(line.as_chunks::<4>().0) {
            *sum +=
                terms.iter().zip(codes).map(|(term, code)| i32::from(*term) * i32::from(*code)).sum::<i32>();
        }
    }
}

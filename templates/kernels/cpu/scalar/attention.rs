//! Attention of one position's query heads over a paged cache, in plain Rust.

use std::ops::Range;

use super::activation::exp;

/// out = softmax(query · keysᵀ) · values, for the GROUP query heads that share `kv_head`.
///
/// * `query`: (GROUP, HEAD_DIM), already divided by √HEAD_DIM
/// * `keys`, `values`: one layer's pool (n_blocks, n_kv_heads, BLOCK, HEAD_DIM)
/// * `blocks`: the sequence's blocks, in order; position p lies in `blocks[p / BLOCK]` at p % BLOCK
/// * `positions`: those attended to, at least one
/// * `scores`: scratch, GROUP × positions.len() values at least
/// * `out`: (GROUP, HEAD_DIM)
///
/// The result depends on the keys and values at `positions` alone, not on where their blocks lie.
#[expect(clippy::too_many_arguments, reason = "a kernel takes its operands")]
pub fn attend<const HEAD_DIM: usize, const GROUP: usize, const BLOCK: usize>(
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    blocks: &[u32],
    kv_head: usize,
    n_kv_heads: usize,
    positions: Range<usize>,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let n_positions = positions.len();
    let row = |position: usize| {
        ((blocks[position / BLOCK] as usize * n_kv_heads + kv_head) * BLOCK + position % BLOCK) * HEAD_DIM
    };
    let scores = &mut scores[..GROUP * n_positions];
    for (i, position) in positions.clone().enumerate() {
        let key = &keys[row(position)..][..HEAD_DIM];
        for (g, query) in query.chunks_exact(HEAD_DIM).enumerate() {
            scores[g * n_positions + i] = dot(query, key);
        }
    }
    for scores in scores.chunks_exact_mut(n_positions) {
        softmax(scores);
    }
    out.fill(0.0);
    for (i, position) in positions.enumerate() {
        let value = &values[row(position)..][..HEAD_DIM];
        for (g, out) in out.chunks_exact_mut(HEAD_DIM).enumerate() {
            for (out, value) in out.iter_mut().zip(value) {
                *out += scores[g * n_positions + i] * value;
            }
        }
    }
}

/// scores ← exp(scores - max) / Σ exp(scores - max), summed in order.
fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = exp(*score - max);
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}

/// Eight partial sums, lane l taking d = l, l + 8, … in order, then added in one fixed order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

//! Causal attention of one sequence over its own past, with grouped heads and an optional sliding window.

use crate::config::Config;
use crate::linear::dot;
use crate::rounding::Rounding;
use crate::threads::fill_rows;

/// Keys and values of every position so far, of one layer: row-major (positions, `n_kv_heads` × `head_dim`).
#[derive(Default)]
pub struct Cache {
    /// Rotated keys.
    pub keys: Vec<f32>,
    /// Values.
    pub values: Vec<f32>,
}

/// Attention of `queries` (`n`, `n_heads` × `head_dim`), the first of them at position `first`, over the cache, which
/// already holds their own keys and values. The result has the shape of `queries`.
pub fn attend(
    config: &Config,
    rounding: &dyn Rounding,
    queries: &[f32],
    first: usize,
    cache: &Cache,
) -> Vec<f32> {
    let width = config.n_heads * config.head_dim;
    let mut out = vec![0.0; queries.len()];
    let n_positions = cache.keys.len() / (config.n_kv_heads * config.head_dim);
    fill_rows(&mut out, width, queries.len() * n_positions, |first_row, rows| {
        for (row, out) in (first_row..).zip(rows.chunks_mut(width)) {
            attend_one((config, rounding), &queries[row * width..][..width], first + row, cache, out);
        }
    });
    out
}

/// All heads of the query at `position`: each sees the positions up to its own, the last `sliding_window` of them.
fn attend_one(
    (config, rounding): (&Config, &dyn Rounding),
    query: &[f32],
    position: usize,
    cache: &Cache,
    out: &mut [f32],
) {
    let head_dim = config.head_dim;
    let kv_width = config.n_kv_heads * head_dim;
    let group = config.n_heads / config.n_kv_heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let oldest = config.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window));
    for (head_idx, (query, out)) in query.chunks(head_dim).zip(out.chunks_mut(head_dim)).enumerate() {
        let kv_head = |position: usize| position * kv_width + head_idx / group * head_dim;
        let mut scores: Vec<f32> = (oldest..=position)
            .map(|past| scale * dot(query, &cache.keys[kv_head(past)..][..head_dim]))
            .collect();
        softmax(&mut scores);
        rounding.attention(&mut scores);
        for (past, score) in (oldest..).zip(&scores) {
            let value = &cache.values[kv_head(past)..][..head_dim];
            out.iter_mut().zip(value).for_each(|(out, value)| *out += score * value);
        }
    }
}

/// Scores to weights that sum to one; the largest is taken off first so that no exponential overflows.
fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - max).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

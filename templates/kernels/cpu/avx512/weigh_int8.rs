//! Weights between the products of attention over codes, AVX-512 F, sixteen lanes.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{
    activation::exp,
    attend::{STEPS, TINY},
    merge::{load, store},
    strip::TILE,
};

/// scores ← exp(scores - their largest) at the positions seen and 0 at the others, where a score times `unit` and the scale of
/// its key is one; `weights` ← those times the scales of values, as whole numbers of steps. The largest score and the sum of
/// the weights, of which lane l adds positions l, l + 16, … in order; and the step.
pub fn weigh(
    scores: &mut [f32],
    scales: [&[f32]; 2],
    unit: f32,
    seen: Range<usize>,
    weights: &mut [i16],
) -> ([f32; 2], f32) {
    // SAFETY: the server refuses to start on a processor without AVX-512 F.
    unsafe { weigh_lanes(scores, scales, unit, seen, weights) }
}

#[target_feature(enable = "avx512f")]
fn weigh_lanes(
    scores: &mut [f32],
    [keys, values]: [&[f32]; 2],
    unit: f32,
    seen: Range<usize>,
    weights: &mut [i16],
) -> ([f32; 2], f32) {
    let mask = |first: usize| -> __mmask16 {
        let clip = |at: usize| at.saturating_sub(first).min(TILE);
        ((1u32 << clip(seen.end)) - (1u32 << clip(seen.start).min(clip(seen.end)))) as __mmask16
    };
    let unit = _mm512_set1_ps(unit);
    let mut largest = _mm512_set1_ps(f32::MIN);
    for (tile, (scores, keys)) in scores.chunks_exact_mut(TILE).zip(keys.chunks_exact(TILE)).enumerate() {
        let scaled = _mm512_mul_ps(load(scores), _mm512_mul_ps(load(keys), unit));
        largest = _mm512_mask_max_ps(largest, mask(tile * TILE), largest, scaled);
        store(scaled, scores);
    }
    let largest = _mm512_reduce_max_ps(largest);
    let (mut sum, mut most) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for (tile, (scores, values)) in scores.chunks_exact_mut(TILE).zip(values.chunks_exact(TILE)).enumerate() {
        let weight = exp(_mm512_sub_ps(load(scores), _mm512_set1_ps(largest)));
        sum = _mm512_add_ps(sum, _mm512_maskz_mov_ps(mask(tile * TILE), weight));
        let scaled = _mm512_maskz_mul_ps(mask(tile * TILE), weight, load(values));
        most = _mm512_max_ps(most, scaled);
        store(scaled, scores);
    }
    let most = _mm512_reduce_max_ps(most);
    let inverse = _mm512_set1_ps(if most < TINY { 0.0 } else { STEPS / most });
    for (scores, weights) in scores.chunks_exact(TILE).zip(weights.as_chunks_mut::<TILE>().0) {
        let steps = _mm512_cvtps_epi32(_mm512_mul_ps(load(scores), inverse));
        // SAFETY: sixteen weights.
        unsafe { _mm256_storeu_si256(weights.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(steps)) }
    }
    ([largest, _mm512_reduce_add_ps(sum)], most / STEPS)
}

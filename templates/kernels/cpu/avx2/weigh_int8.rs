//! Weights between the products of attention over codes, AVX2, eight lanes.

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
/// the weights, of which lane l of eight adds positions l, l + 8, … in order; and the step.
pub fn weigh(
    scores: &mut [f32],
    scales: [&[f32]; 2],
    unit: f32,
    seen: Range<usize>,
    weights: &mut [i16],
) -> ([f32; 2], f32) {
    // SAFETY: the server refuses to start on a processor without AVX2 and FMA.
    unsafe { weigh_lanes(scores, scales, unit, seen, weights) }
}

#[target_feature(enable = "avx2,fma")]
fn weigh_lanes(
    scores: &mut [f32],
    [keys, values]: [&[f32]; 2],
    unit: f32,
    seen: Range<usize>,
    weights: &mut [i16],
) -> ([f32; 2], f32) {
    // All bits of the lanes whose positions are seen.
    let mask = |vector: usize| {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let positions = _mm256_add_epi32(_mm256_set1_epi32(8 * vector as i32), lanes);
        let from = _mm256_cmpgt_epi32(positions, _mm256_set1_epi32(seen.start as i32 - 1));
        let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.end as i32), positions);
        _mm256_castsi256_ps(_mm256_and_si256(from, below))
    };
    let mut of_lanes = [0.0; 8];
    let mut largest_of = |lanes| {
        store(lanes, &mut of_lanes);
        of_lanes.into_iter().fold(f32::MIN, f32::max)
    };
    let unit = _mm256_set1_ps(unit);
    let mut largest = _mm256_set1_ps(f32::MIN);
    for (vector, (scores, keys)) in scores.chunks_exact_mut(8).zip(keys.chunks_exact(8)).enumerate() {
        let scaled = _mm256_mul_ps(load(scores), _mm256_mul_ps(load(keys), unit));
        largest = _mm256_blendv_ps(largest, _mm256_max_ps(largest, scaled), mask(vector));
        store(scaled, scores);
    }
    let largest = largest_of(largest);
    let (mut sum, mut most) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for (vector, (scores, values)) in scores.chunks_exact_mut(8).zip(values.chunks_exact(8)).enumerate() {
        let weight = exp(_mm256_sub_ps(load(scores), _mm256_set1_ps(largest)));
        sum = _mm256_add_ps(sum, _mm256_and_ps(weight, mask(vector)));
        let scaled = _mm256_and_ps(_mm256_mul_ps(weight, load(values)), mask(vector));
        most = _mm256_max_ps(most, scaled);
        store(scaled, scores);
    }
    let most = largest_of(most);
    let inverse = _mm256_set1_ps(if most < TINY { 0.0 } else { STEPS / most });
    for (scores, weights) in scores.chunks_exact(TILE).zip(weights.as_chunks_mut::<TILE>().0) {
        let steps = |scores| _mm256_cvtps_epi32(_mm256_mul_ps(load(scores), inverse));
        let packed = _mm256_packs_epi32(steps(scores), steps(&scores[8..]));
        // SAFETY: sixteen weights. Each half of `packed` has four of either eight.
        unsafe {
            _mm256_storeu_si256(
                weights.as_mut_ptr().cast(),
                _mm256_permute4x64_epi64::<0b11_01_10_00>(packed),
            )
        }
    }
    store(sum, &mut of_lanes);
    ([largest, of_lanes.into_iter().sum()], most / STEPS)
}

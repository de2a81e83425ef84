//! Weights between the products of attention over codes, and rounding to terms of products, AVX2, eight lanes.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{
    activation::exp,
    merge::{load, store},
    strip::TILE,
};

/// scores ← exp(scores - their largest) times the scales of values at the positions seen and 0 at the others, where a score
/// times `unit` and the scale of its key is one. The largest score and the sum of the weights before they are scaled, of which
/// lane l of eight adds positions l, l + 8, … in order; and the largest that is scaled.
pub fn weigh(scores: &mut [f32], scales: [&[f32]; 2], unit: f32, seen: Range<usize>) -> ([f32; 2], f32) {
    // SAFETY: the server refuses to start on a processor without AVX2 and FMA.
    unsafe { weigh_lanes(scores, scales, unit, seen) }
}

#[target_feature(enable = "avx2,fma")]
fn weigh_lanes(
    scores: &mut [f32],
    [keys, values]: [&[f32]; 2],
    unit: f32,
    seen: Range<usize>,
) -> ([f32; 2], f32) {
    // All bits of the lanes whose positions are seen.
    let mask = |vector: usize| {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let positions = _mm256_add_epi32(_mm256_set1_epi32(8 * vector as i32), lanes);
        let from = _mm256_cmpgt_epi32(positions, _mm256_set1_epi32(seen.start as i32 - 1));
        let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.end as i32), positions);
        _mm256_castsi256_ps(_mm256_and_si256(from, below))
    };
    let unit = _mm256_set1_ps(unit);
    let mut largest = _mm256_set1_ps(f32::MIN);
    for (vector, (scores, keys)) in scores.chunks_exact_mut(8).zip(keys.chunks_exact(8)).enumerate() {
        let scaled = _mm256_mul_ps(load(scores), _mm256_mul_ps(load(keys), unit));
        largest = _mm256_blendv_ps(largest, _mm256_max_ps(largest, scaled), mask(vector));
        store(scaled, scores);
    }
    let largest = largest_of(largest, f32::MIN);
    let (mut sum, mut most) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for (vector, (scores, values)) in scores.chunks_exact_mut(8).zip(values.chunks_exact(8)).enumerate() {
        let weight = exp(_mm256_sub_ps(load(scores), _mm256_set1_ps(largest)));
        sum = _mm256_add_ps(sum, _mm256_and_ps(weight, mask(vector)));
        let scaled = _mm256_and_ps(_mm256_mul_ps(weight, load(values)), mask(vector));
        most = _mm256_max_ps(most, scaled);
        store(scaled, scores);
    }
    let mut of_lanes = [0.0; 8];
    store(sum, &mut of_lanes);
    ([largest, of_lanes.into_iter().sum()], largest_of(most, 0.0))
}

/// The largest of eight lanes and of one value more.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn largest_of(lanes: __m256, least: f32) -> f32 {
    let mut of_lanes = [0.0; 8];
    store(lanes, &mut of_lanes);
    of_lanes.into_iter().fold(least, f32::max)
}

/// The largest magnitude of a row.
pub fn largest(row: &[f32]) -> f32 {
    // SAFETY: as above.
    unsafe { largest_of_lanes(row) }
}

#[target_feature(enable = "avx2,fma")]
fn largest_of_lanes(row: &[f32]) -> f32 {
    let mut largest = _mm256_setzero_ps();
    for lanes in row.chunks_exact(8) {
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(_mm256_set1_ps(-0.0), load(lanes)));
    }
    largest_of(largest, 0.0)
}

/// Writes a row, times `inverse`, as whole numbers, to the nearest, ties to even.
pub fn round(row: &[f32], inverse: f32, rounded: &mut [i16]) {
    // SAFETY: as above.
    unsafe { round_lanes(row, inverse, rounded) }
}

#[target_feature(enable = "avx2,fma")]
fn round_lanes(row: &[f32], inverse: f32, rounded: &mut [i16]) {
    for (row, rounded) in row.chunks_exact(TILE).zip(rounded.as_chunks_mut::<TILE>().0) {
        let whole = |row| _mm256_cvtps_epi32(_mm256_mul_ps(load(row), _mm256_set1_ps(inverse)));
        let packed = _mm256_packs_epi32(whole(row), whole(&row[8..]));
        // SAFETY: sixteen whole numbers. Each half of `packed` has four of either eight.
        unsafe {
            _mm256_storeu_si256(
                rounded.as_mut_ptr().cast(),
                _mm256_permute4x64_epi64::<0b11_01_10_00>(packed),
            )
        }
    }
}

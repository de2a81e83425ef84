//! Weights between the products of attention over codes, and rounding to terms of products, AVX-512 F and DQ, sixteen lanes.

use std::arch::x86_64::*;
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

use super::{
    merge::{load, store},
    strip::TILE,
};

/// scores ← exp(scores - their largest) times the scales of values at the positions seen and 0 at the others, where a score
/// times `unit` and the scale of its key is one. The largest score and the sum of the weights before they are scaled, of which
/// lane l adds positions l, l + 16, … in order; and the largest that is scaled.
pub fn weigh(scores: &mut [f32], scales: [&[f32]; 2], unit: f32, seen: Range<usize>) -> ([f32; 2], f32) {
    // SAFETY: the server refuses to start on a processor without AVX-512 F and DQ.
    unsafe { weigh_lanes(scores, scales, unit, seen) }
}

#[target_feature(enable = "avx512f,avx512dq")]
fn weigh_lanes(
    scores: &mut [f32],
    [keys, values]: [&[f32]; 2],
    unit: f32,
    seen: Range<usize>,
) -> ([f32; 2], f32) {
    // Tiles with a position that is seen; of those between, all are.
    let cells = seen.start / TILE * TILE..seen.end.next_multiple_of(TILE);
    let seen = seen.start - cells.start..seen.end - cells.start;
    let whole = seen.start.div_ceil(TILE)..seen.end / TILE;
    let mask = |tile: usize| -> __mmask16 {
        let clip = |at: usize| at.saturating_sub(tile * TILE).min(TILE);
        ((1u32 << clip(seen.end)) - (1u32 << clip(seen.start))) as __mmask16
    };
    scores[..cells.start].fill(0.0);
    scores[cells.end..].fill(0.0);
    let scores = scores[cells.clone()].as_chunks_mut::<TILE>().0;
    let keys = keys[cells.clone()].as_chunks::<TILE>().0;
    let values = values[cells].as_chunks::<TILE>().0;
    let mut largest = _mm512_set1_ps(f32::MIN);
    for (tile, (scores, keys)) in scores.iter_mut().zip(keys).enumerate() {
        let scaled = _mm512_mul_ps(load(scores), load(keys));
        largest = if whole.contains(&tile) {
            _mm512_max_ps(largest, scaled)
        } else {
            _mm512_mask_max_ps(largest, mask(tile), largest, scaled)
        };
        store(scaled, scores);
    }
    // Differences are taken as powers of two.
    let unit = unit * LOG2_E;
    let largest = _mm512_reduce_max_ps(largest) * unit;
    let (mut sum, mut most) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for (tile, (scores, values)) in scores.iter_mut().zip(values).enumerate() {
        let below = _mm512_fmsub_ps(load(scores), _mm512_set1_ps(unit), _mm512_set1_ps(largest));
        let (mut weight, mut values) = (power_of_two(below), load(values));
        if !whole.contains(&tile) {
            weight = _mm512_maskz_mov_ps(mask(tile), weight);
            values = _mm512_maskz_mov_ps(mask(tile), values);
        }
        sum = _mm512_add_ps(sum, weight);
        let scaled = _mm512_mul_ps(weight, values);
        most = _mm512_max_ps(most, scaled);
        store(scaled, scores);
    }
    ([largest * LN_2, _mm512_reduce_add_ps(sum)], _mm512_reduce_max_ps(most))
}

/// 2ˣ in each lane, below -126 as there: 2ⁿ · 2ʳ with n the whole number below x and 0 ≤ r ≤ 1, of which a polynomial of degree
/// 5 that is 1 at 0 leaves 9.5e-8 relative.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn power_of_two(x: __m512) -> __m512 {
    let x = _mm512_max_ps(_mm512_set1_ps(-126.0), x);
    let r = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
    let mut p = _mm512_set1_ps(0.001_867_13);
    for coefficient in [0.009_017_03, 0.055_799_913, 0.240_164_45, 0.693_151_3, 1.0] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(coefficient));
    }
    _mm512_scalef_ps(p, x)
}

/// The largest magnitude of a row.
pub fn largest(row: &[f32]) -> f32 {
    // SAFETY: as above.
    unsafe { largest_of_lanes(row) }
}

#[target_feature(enable = "avx512f")]
fn largest_of_lanes(row: &[f32]) -> f32 {
    let mut largest = _mm512_setzero_ps();
    for lanes in row.as_chunks::<TILE>().0 {
        largest = _mm512_max_ps(largest, _mm512_abs_ps(load(lanes)));
    }
    _mm512_reduce_max_ps(largest)
}

/// Writes a row, times `inverse`, as whole numbers, to the nearest, ties to even.
pub fn round(row: &[f32], inverse: f32, rounded: &mut [i16]) {
    // SAFETY: as above.
    unsafe { round_lanes(row, inverse, rounded) }
}

#[target_feature(enable = "avx512f")]
fn round_lanes(row: &[f32], inverse: f32, rounded: &mut [i16]) {
    for (lanes, rounded) in row.as_chunks::<TILE>().0.iter().zip(rounded.as_chunks_mut::<TILE>().0) {
        let steps = _mm512_cvtps_epi32(_mm512_mul_ps(load(lanes), _mm512_set1_ps(inverse)));
        // SAFETY: sixteen whole numbers.
        unsafe { _mm256_storeu_si256(rounded.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(steps)) }
    }
}

//! Puts together what a row has found in one range of positions after the other.

use std::arch::x86_64::*;

use super::{activation::exp, strip::TILE};

/// Adds what a row found in the next range to what it found before. Added to nothing it stays as it is.
pub fn merge(attended: &mut [f32], found: &[f32]) {
    // SAFETY: the server refuses to start on a processor without AVX-512 F.
    unsafe { merge_lanes(attended, found) }
}

#[target_feature(enable = "avx512f")]
fn merge_lanes(attended: &mut [f32], found: &[f32]) {
    let (values, before) = attended.split_at_mut(found.len() - TILE);
    let (found, [their_largest, their_sum, ..]) = found.split_at(values.len()) else { return };
    // A row that saw nothing of this range has found nothing.
    if *their_sum == 0.0 {
        return;
    }
    if before[1] == 0.0 {
        values.copy_from_slice(found);
        [before[0], before[1]] = [*their_largest, *their_sum];
        return;
    }
    let largest = before[0].max(*their_largest);
    let ours = exp(_mm512_set1_ps(before[0] - largest));
    let theirs = exp(_mm512_set1_ps(their_largest - largest));
    for (values, found) in values.chunks_exact_mut(TILE).zip(found.chunks_exact(TILE)) {
        store(_mm512_fmadd_ps(load(found), theirs, _mm512_mul_ps(load(values), ours)), values);
    }
    let sum = before[1] * _mm512_cvtss_f32(ours) + their_sum * _mm512_cvtss_f32(theirs);
    [before[0], before[1]] = [largest, sum];
}

/// out ← what a row has found of all positions, whose weights then add up to one.
pub fn share(attended: &[f32], out: &mut [f32]) {
    // SAFETY: as above.
    unsafe { share_lanes(attended, out) }
}

#[target_feature(enable = "avx512f")]
fn share_lanes(attended: &[f32], out: &mut [f32]) {
    let share = 1.0 / attended[attended.len() - TILE + 1];
    out.iter_mut().zip(attended).for_each(|(out, value)| *out = value * share);
}

/// The first sixteen values.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load(values: &[f32]) -> __m512 {
    // SAFETY: sixteen values.
    unsafe { _mm512_loadu_ps(values[..TILE].as_ptr()) }
}

/// The same, to be written.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn store(lanes: __m512, values: &mut [f32]) {
    // SAFETY: sixteen values.
    unsafe { _mm512_storeu_ps(values[..TILE].as_mut_ptr(), lanes) }
}

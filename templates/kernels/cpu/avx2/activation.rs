//! SiLU and the exponential under it, AVX2 and FMA.
//!
//! Checked against x / (1 + exp(-x)) in f64, within 2⁻²¹ relative; `exp` within 2⁻²² relative.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

use rt::image::PANEL;

/// gated ← silu(gate) · up, where silu(x) = x / (1 + exp(-x)): of a row of a panel, sixteen columns of gates and then of ups.
#[inline(always)]
pub fn silu_mul(cells: &[f32; PANEL], gated: &mut [f32; PANEL / 2]) {
    // SAFETY: the server refuses to start on a processor without AVX2 and FMA.
    unsafe { silu_mul_lanes(cells, gated) }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn silu_mul_lanes(cells: &[f32; PANEL], gated: &mut [f32; PANEL / 2]) {
    for first in [0, 8] {
        // SAFETY: half of a panel's columns are sixteen.
        unsafe {
            let (gate, up) = (cells.as_ptr().add(first), cells.as_ptr().add(16 + first));
            let (gate, up) = (_mm256_loadu_ps(gate), _mm256_loadu_ps(up));
            let below = _mm256_add_ps(_mm256_set1_ps(1.0), exp(_mm256_sub_ps(_mm256_setzero_ps(), gate)));
            let gated = gated.as_mut_ptr().add(first);
            _mm256_storeu_ps(gated, _mm256_mul_ps(_mm256_div_ps(gate, below), up));
        }
    }
}

/// exp(x) in each lane. Below -87 and above 88 it stays at the value there; NaN stays NaN.
///
/// x = n · ln 2 + r with |r| ≤ ln 2 / 2, then 2ⁿ · eʳ: eʳ = 1 + r + r² · p(r), p of degree 4 through the Chebyshev
/// nodes of that interval, which leaves 1e-8.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub fn exp(x: __m256) -> __m256 {
    let x = _mm256_min_ps(_mm256_set1_ps(88.0), _mm256_max_ps(_mm256_set1_ps(-87.0), x));
    let n = _mm256_round_ps::<_MM_FROUND_TO_NEAREST_INT>(_mm256_mul_ps(x, _mm256_set1_ps(LOG2_E)));
    // ln 2 in two parts: n times the first is exact.
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693_359_4), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.121_944_4e-4), r);
    let mut p = _mm256_set1_ps(0.001_392_617_6);
    for coefficient in [0.008_363_173, 0.041_666_556, 0.166_665_78, 0.5] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(coefficient));
    }
    let e_r = _mm256_add_ps(_mm256_set1_ps(1.0), _mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r));
    // Adding n to the exponent bits multiplies by 2ⁿ.
    let power = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(e_r), power))
}

//! SiLU and the exponential under it, AVX-512 F.
//!
//! Checked against x / (1 + exp(-x)) in f64, within 2⁻²¹ relative; `exp` within 2⁻²² relative.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

use rt::image::PANEL;

/// gated ← silu(gate) · up, where silu(x) = x / (1 + exp(-x)): of a row of a panel, sixteen columns of gates and then
/// of ups.
#[inline(always)]
pub fn silu_mul(cells: &[f32; PANEL], gated: &mut [f32; PANEL / 2]) {
    // SAFETY: the server refuses to start on a processor without AVX-512 F.
    unsafe { silu_mul_lanes(cells, gated) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn silu_mul_lanes(cells: &[f32; PANEL], gated: &mut [f32; PANEL / 2]) {
    // SAFETY: half of a panel's columns are sixteen.
    unsafe {
        let (gate, up) = (_mm512_loadu_ps(cells.as_ptr()), _mm512_loadu_ps(cells.as_ptr().add(16)));
        let below = _mm512_add_ps(_mm512_set1_ps(1.0), exp(_mm512_sub_ps(_mm512_setzero_ps(), gate)));
        _mm512_storeu_ps(gated.as_mut_ptr(), _mm512_mul_ps(_mm512_div_ps(gate, below), up));
    }
}

/// exp(x) in each lane. Below -87 and above 88 it stays at the value there; NaN stays NaN.
///
/// x = n · ln 2 + r with |r| ≤ ln 2 / 2, then 2ⁿ · eʳ: eʳ = 1 + r + r² · p(r), p of degree 4 through the Chebyshev
/// nodes of that interval, which leaves 1e-8.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn exp(x: __m512) -> __m512 {
    let x = _mm512_min_ps(_mm512_set1_ps(88.0), _mm512_max_ps(_mm512_set1_ps(-87.0), x));
    let n = _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(_mm512_mul_ps(x, _mm512_set1_ps(LOG2_E)));
    // ln 2 in two parts: n times the first is exact.
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693_359_4), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.121_944_4e-4), r);
    let mut p = _mm512_set1_ps(0.001_392_617_6);
    for coefficient in [0.008_363_173, 0.041_666_556, 0.166_665_78, 0.5] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(coefficient));
    }
    let e_r = _mm512_add_ps(_mm512_set1_ps(1.0), _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r));
    // Adding n to the exponent bits multiplies by 2ⁿ.
    let power = _mm512_slli_epi32::<23>(_mm512_cvtps_epi32(n));
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(e_r), power))
}

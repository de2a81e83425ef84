//! SiLU and the exponential under it, AVX-512 F.
//!
//! Checked against x / (1 + exp(-x)) in f64, within 2⁻²¹ relative; `exp` within 2⁻²² relative.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

/// gate ← silu(gate) · up, where silu(x) = x / (1 + exp(-x)).
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "one value of `up` for each of `gate`");
    // SAFETY: the server refuses to start on a processor without AVX-512 F.
    unsafe { silu_mul_lanes(gate, up) }
}

#[target_feature(enable = "avx512f")]
fn silu_mul_lanes(gate: &mut [f32], up: &[f32]) {
    let (gates, gate_rest) = gate.as_chunks_mut::<16>();
    let (ups, up_rest) = up.as_chunks::<16>();
    for (gate, up) in gates.iter_mut().zip(ups) {
        *gate = silu_mul_16(gate, up);
    }
    let n_rest = gate_rest.len();
    let (mut gate, mut up) = ([0.0; 16], [0.0; 16]);
    gate[..n_rest].copy_from_slice(gate_rest);
    up[..n_rest].copy_from_slice(up_rest);
    gate_rest.copy_from_slice(&silu_mul_16(&gate, &up)[..n_rest]);
}

#[inline]
#[target_feature(enable = "avx512f")]
fn silu_mul_16(gate: &[f32; 16], up: &[f32; 16]) -> [f32; 16] {
    let mut out = [0.0; 16];
    // SAFETY: each array holds 16 values.
    unsafe {
        let (gate, up) = (_mm512_loadu_ps(gate.as_ptr()), _mm512_loadu_ps(up.as_ptr()));
        let below = _mm512_add_ps(_mm512_set1_ps(1.0), exp(_mm512_sub_ps(_mm512_setzero_ps(), gate)));
        _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(_mm512_div_ps(gate, below), up));
    }
    out
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

//! RMS norm.
//!
//! Checked against x · weight / √(mean x² + eps) in f64: off by less than (n / 16 + 8) · 2⁻²⁴ of the value.
//!
//! LADDER

use std::arch::x86_64::*;

/// out = x / √(mean x² + eps) · weight.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "x, weight and out have one length");
    // SAFETY: the server refuses to start on a processor without AVX2 and FMA.
    unsafe { normalise(x, weight, eps, out) }
}

#[target_feature(enable = "avx2,fma")]
fn normalise(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// Lane l of eight adds the squares of i = l, l + 8, … in order.
#[target_feature(enable = "avx2,fma")]
fn sum_of_squares(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<8>();
    let mut last = [0.0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut sum = _mm256_setzero_ps();
    for chunk in chunks.iter().chain([&last]) {
        // SAFETY: a chunk is 8 values.
        let x = unsafe { _mm256_loadu_ps(chunk.as_ptr()) };
        sum = _mm256_fmadd_ps(x, x, sum);
    }
    let quad = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    let pair = _mm_add_ps(quad, _mm_movehl_ps(quad, quad));
    _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
}

//! RMS norm.
//!
//! Checked against x · weight / √(mean x² + eps) in f64: off by less than (n / 16 + 8) · 2⁻²⁴ of the value.
//!
//! One thread of an Intel Xeon, 1024 values in L1, 12 bytes read or written for each: 93 GB/s, against 35 in plain
//! Rust.

use std::arch::x86_64::*;

/// out = x / √(mean x² + eps) · weight.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "x, weight and out have one length");
    // SAFETY: the server refuses to start on a processor without AVX-512 F.
    unsafe { normalise(x, weight, eps, out) }
}

#[target_feature(enable = "avx512f")]
fn normalise(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// Lane l of sixteen adds the squares of i = l, l + 16, … in order.
#[target_feature(enable = "avx512f")]
fn sum_of_squares(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut last = [0.0; 16];
    last[..rest.len()].copy_from_slice(rest);
    let mut sum = _mm512_setzero_ps();
    for chunk in chunks.iter().chain([&last]) {
        // SAFETY: a chunk is 16 values.
        let x = unsafe { _mm512_loadu_ps(chunk.as_ptr()) };
        sum = _mm512_fmadd_ps(x, x, sum);
    }
    _mm512_reduce_add_ps(sum)
}

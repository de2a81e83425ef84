//! RMS norm, in plain Rust.

/// out = x / √(mean x² + eps) · weight.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "x, weight and out have one length");
    let mut sums = [0.0f32; 8];
    for chunk in x.chunks(8) {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    let scale = 1.0 / (sums.iter().sum::<f32>() / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

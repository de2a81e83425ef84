//! Rotary position embedding.

/// Turns the pairs `(x[i], x[i + HEAD_DIM/2])` by their angles: the layout of `rotate_half` in HF transformers.
///
/// `x` is one head, HEAD_DIM values; `cos` and `sin` hold HEAD_DIM/2 values for its position.
pub fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = x.len() / 2;
    assert!(
        x.len() == 2 * half && cos.len() == half && sin.len() == half,
        "an angle for each pair of {}",
        x.len()
    );
    // SAFETY: the server refuses to start on a processor without AVX-512 F.
    unsafe { rotate_lanes(x, cos, sin) }
}

#[target_feature(enable = "avx512f")]
fn rotate_lanes(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

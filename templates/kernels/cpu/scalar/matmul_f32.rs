//! y = x · wᵀ with f32 weights as they are stored, in plain Rust.

use std::ops::Range;

use rt::columns::Columns;

/// `y[r, c] = Σₖ x[r, k] · w[c, k]` for every row r of `x` (n_rows, K) and the columns `cols` of y, which are rows of
/// `w` (n_cols, K). Threads that share `y` pass disjoint `cols`.
///
/// A cell depends on its row, its weights and nothing else: not on the other rows, their number or the split into
/// columns.
pub fn matmul<const K: usize>(x: &[f32], w: &[f32], cols: Range<usize>, y: Columns<'_>) {
    for col in cols {
        let weights = &w[col * K..][..K];
        for (row, x) in x.chunks_exact(K).enumerate() {
            // SAFETY: the caller gave these columns to this thread alone.
            unsafe { y.write(row, col, dot(x, weights)) };
        }
    }
}

/// Eight partial sums, lane l taking k = l, l + 8, … in order, then added in one fixed order.
fn dot(x: &[f32], w: &[f32]) -> f32 {
    let ((x, x_rest), (w, w_rest)) = (x.as_chunks::<8>(), w.as_chunks::<8>());
    let mut sums = [0.0f32; 8];
    for (x, w) in x.iter().zip(w) {
        for lane in 0..8 {
            sums[lane] += x[lane] * w[lane];
        }
    }
    for (sum, (x, w)) in sums.iter_mut().zip(x_rest.iter().zip(w_rest)) {
        *sum += x * w;
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

//! y = x · wᵀ, f32 weights as they are stored, summed in f32.
//!
//! Checked against Σₖ x · w in f64: off by less than (K / 8 + 5) · 2⁻²⁴ · Σₖ |x · w|.
//!
//! One thread of an Intel Xeon, best of sixty runs: GFLOP/s of 64 rows by 1024 columns at K = 1024. Multiply-adds of
//! eight lanes in registers reach 121.
//!
//! * plain Rust (`scalar/`): 17, 14 %
//! * tiles of 4 × 3: 95, 79 %; 71 at K = 3072, where a strip of x no longer fits into L1
//!
//! One row reads its weights from memory as fast as the probe reads, 16 GB/s.

use std::arch::x86_64::*;
use std::ops::Range;

use rt::columns::Columns;

/// Bytes of weights that stay in L2 while every row passes over them.
const PANEL: usize = 256 * 1024;

/// `y[r, c] = Σₖ x[r, k] · w[c, k]`, for every row r of `x` (n_rows, K) and c of `cols`, a row of `w` (n_cols, K).
/// Threads that share `y` pass disjoint `cols`.
///
/// A cell depends on its row and its weights alone: not on the other rows, nor their number, nor `cols`.
pub fn matmul<const K: usize>(x: &[f32], w: &[f32], cols: Range<usize>, y: Columns<'_>) {
    assert!(x.len().is_multiple_of(K), "{} values are no rows of {K}", x.len());
    assert!(cols.end * K <= w.len() && cols.end <= y.stride(), "columns {cols:?} lie outside");
    // SAFETY: the server refuses to start on a processor without AVX2 and FMA; shapes were just checked.
    unsafe { panels::<K>(x, w, cols, y) }
}

/// Panel after panel, so that weights come from memory once however many rows there are.
///
/// # Safety
/// `x` is whole rows of K; `w` and `y` have all of `cols`.
#[target_feature(enable = "avx2,fma")]
unsafe fn panels<const K: usize>(x: &[f32], w: &[f32], cols: Range<usize>, y: Columns<'_>) {
    let n_rows = x.len() / K;
    let width = (PANEL / (K * size_of::<f32>())).next_multiple_of(8);
    for start in cols.clone().step_by(width) {
        let panel = start..cols.end.min(start + width);
        let mut row = 0;
        // SAFETY: the rows of each strip are rows of `x`, its columns are of `cols`.
        unsafe {
            while row + 4 <= n_rows {
                strip::<K, 4, 3>(x, w, row, panel.clone(), y);
                row += 4;
            }
            if row + 2 <= n_rows {
                strip::<K, 2, 4>(x, w, row, panel.clone(), y);
                row += 2;
            }
            if row < n_rows {
                strip::<K, 1, 8>(x, w, row, panel, y);
            }
        }
    }
}

/// R rows against the columns of a panel, C at a time.
///
/// # Safety
/// As for [`panels`], and `x` has the rows `row..row + R`.
#[target_feature(enable = "avx2,fma")]
unsafe fn strip<const K: usize, const R: usize, const C: usize>(
    x: &[f32],
    w: &[f32],
    row: usize,
    cols: Range<usize>,
    y: Columns<'_>,
) {
    let x = &x[row * K..][..R * K];
    let mut col = cols.start;
    // SAFETY: the columns of each tile are of `cols`, which the caller of `matmul` gave to this thread alone.
    unsafe {
        while col + C <= cols.end {
            tile::<K, R, C>(x, w, row, col, y);
            col += C;
        }
        while col < cols.end {
            tile::<K, R, 1>(x, w, row, col, y);
            col += 1;
        }
    }
}

/// R × C cells of y, held in registers until they are done. Each has one accumulator, whose lane l takes
/// k = l, l + 8, … in order: which tile computes a cell does not show in it.
///
/// # Safety
/// `x` is R rows of K; `w` and `y` have the columns `col..col + C`, and no other thread writes these.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const K: usize, const R: usize, const C: usize>(
    x: &[f32],
    w: &[f32],
    row: usize,
    col: usize,
    y: Columns<'_>,
) {
    let w = &w[col * K..][..C * K];
    let (x_start, w_start) = (x.as_ptr(), w.as_ptr());
    let mut sums = [[_mm256_setzero_ps(); C]; R];
    let mut k = 0;
    while k + 8 <= K {
        // SAFETY: 8 values from k on, in rows of K.
        unsafe { add_products(&mut sums, x_start.add(k), K, w_start.add(k), K) };
        k += 8;
    }
    if k < K {
        // Zeros behind the rest of each row add nothing.
        let (mut x_rest, mut w_rest) = ([[0.0; 8]; R], [[0.0; 8]; C]);
        for (rest, x) in x_rest.iter_mut().zip(x.chunks_exact(K)) {
            rest[..K - k].copy_from_slice(&x[k..]);
        }
        for (rest, w) in w_rest.iter_mut().zip(w.chunks_exact(K)) {
            rest[..K - k].copy_from_slice(&w[k..]);
        }
        // SAFETY: rows of 8.
        unsafe { add_products(&mut sums, x_rest.as_ptr().cast(), 8, w_rest.as_ptr().cast(), 8) };
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (c, sum) in sums.into_iter().enumerate() {
            // SAFETY: no other thread writes this column.
            unsafe { y.write(row + r, col + c, sum_of_lanes(sum)) };
        }
    }
}

/// Adds the products of eight k to every accumulator.
///
/// # Safety
/// `x` points to eight values in each of R rows `x_stride` apart, `w` in each of C rows `w_stride` apart.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_products<const R: usize, const C: usize>(
    sums: &mut [[__m256; C]; R],
    x: *const f32,
    x_stride: usize,
    w: *const f32,
    w_stride: usize,
) {
    let mut weights = [_mm256_setzero_ps(); C];
    for (c, weights) in weights.iter_mut().enumerate() {
        // SAFETY: row c of C.
        *weights = unsafe { _mm256_loadu_ps(w.add(c * w_stride)) };
    }
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: row r of R.
        let x = unsafe { _mm256_loadu_ps(x.add(r * x_stride)) };
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = _mm256_fmadd_ps(x, weights, *sum);
        }
    }
}

/// ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)), by lane.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_of_lanes(v: __m256) -> f32 {
    let quad = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    let pair = _mm_add_ps(quad, _mm_movehl_ps(quad, quad));
    _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
}

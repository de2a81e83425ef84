//! y = x · wᵀ, bf16 weights as they are stored, summed in f32.
//!
//! Checked against Σₖ x · w in f64: off by less than (K / 16 + 5) · 2⁻²⁴ · Σₖ |x · w|.
//!
//! One thread of an Intel Xeon, best of sixty runs: GFLOP/s of 64 rows by 1024 columns at K = 1024. Multiply-adds of
//! sixteen lanes in registers reach 242.
//!
//! * tiles of 4 × 5, the lanes of each cell summed alone: 69, 28 %; the compiler kept the sums in memory
//! * tiles of 6 × 4, the lanes of four cells summed at once: 146, 60 %
//! * two weights split by a shift and a mask instead of each widened, and x copied into lines of its own: 165, 68 %;
//!   140 at K = 3072, where a strip of x no longer fits into L1
//!
//! Weights lie where their file has them, so most loads of them still cross a line.
//!
//! One row reads its weights from memory at 14.6 GB/s, 92 % of what the probe reads; at K = 3072 at 99 %.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;
use rt::columns::Columns;

/// Bytes of weights that stay in L2 while every row passes over them.
const PANEL: usize = 512 * 1024;

/// `y[r, c] = Σₖ x[r, k] · w[c, k]`, for every row r of `x` (n_rows, K) and c of `cols`, a row of `w` (n_cols, K).
/// Threads that share `y` pass disjoint `cols`.
///
/// A cell depends on its row and its weights alone: not on the other rows, nor their number, nor `cols`.
pub fn matmul<const K: usize>(x: &[f32], w: &[bf16], cols: Range<usize>, y: Columns<'_>) {
    assert!(x.len().is_multiple_of(K), "{} values are no rows of {K}", x.len());
    assert!(cols.end * K <= w.len() && cols.end <= y.stride(), "columns {cols:?} lie outside");
    // SAFETY: the server refuses to start on a processor without AVX-512 F; shapes were just checked.
    unsafe { panels::<K>(x, w, cols, y) }
}

/// Panel after panel, so that weights come from memory once however many rows there are.
///
/// # Safety
/// `x` is whole rows of K; `w` and `y` have all of `cols`.
#[target_feature(enable = "avx512f")]
unsafe fn panels<const K: usize>(x: &[f32], w: &[bf16], cols: Range<usize>, y: Columns<'_>) {
    let n_rows = x.len() / K;
    let width = (PANEL / (K * size_of::<bf16>())).next_multiple_of(8);
    for start in cols.clone().step_by(width) {
        let panel = start..cols.end.min(start + width);
        let mut row = 0;
        // SAFETY: the rows of each strip are rows of `x`, its columns are of `cols`.
        unsafe {
            while row + 6 <= n_rows {
                strip::<K, 6, 4>(x, w, row, panel.clone(), y);
                row += 6;
            }
            if row + 4 <= n_rows {
                strip::<K, 4, 4>(x, w, row, panel.clone(), y);
                row += 4;
            }
            if row + 2 <= n_rows {
                strip::<K, 2, 8>(x, w, row, panel.clone(), y);
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
#[target_feature(enable = "avx512f")]
unsafe fn strip<const K: usize, const R: usize, const C: usize>(
    x: &[f32],
    w: &[bf16],
    row: usize,
    cols: Range<usize>,
    y: Columns<'_>,
) {
    let mut strip = Strip([[0.0; K]; R]);
    for (split, x) in strip.0.iter_mut().zip(x[row * K..].chunks_exact(K)) {
        split_pairs(x, split);
    }
    let mut col = cols.start;
    // SAFETY: the columns of each tile are of `cols`, which the caller of `matmul` gave to this thread alone.
    unsafe {
        while col + C <= cols.end {
            tile::<K, R, C>(&strip, w, row, col, y);
            col += C;
        }
        while col < cols.end {
            tile::<K, R, 1>(&strip, w, row, col, y);
            col += 1;
        }
    }
}

/// Rows as the tiles read them, each load within one cache line.
#[repr(align(64))]
struct Strip<const K: usize, const R: usize>([[f32; K]; R]);

/// Of each 32 values the even ones, then the odd ones, as [`add_products`] takes weights. A rest of less stays as it
/// is.
#[inline]
#[target_feature(enable = "avx512f")]
fn split_pairs(x: &[f32], split: &mut [f32]) {
    let ((x, x_rest), (split, split_rest)) = (x.as_chunks::<32>(), split.as_chunks_mut::<32>());
    for (split, x) in split.iter_mut().zip(x) {
        for i in 0..16 {
            (split[i], split[16 + i]) = (x[2 * i], x[2 * i + 1]);
        }
    }
    split_rest.copy_from_slice(x_rest);
}

/// R × C cells of y, held in registers until they are done. Each has one accumulator, whose lane l takes
/// k = 2l, 2l + 1, 2l + 32, 2l + 33, … in order: which tile computes a cell does not show in it.
///
/// # Safety
/// `w` and `y` have the columns `col..col + C`, `y` the rows `row..row + R`, and no other thread writes these columns.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tile<const K: usize, const R: usize, const C: usize>(
    x: &Strip<K, R>,
    w: &[bf16],
    row: usize,
    col: usize,
    y: Columns<'_>,
) {
    let w = &w[col * K..][..C * K];
    let (x_start, w_start) = (x.0.as_flattened().as_ptr(), w.as_ptr());
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    let mut k = 0;
    while k + 32 <= K {
        for c in 0..C {
            // The next tile's line, which may lie past the end: rows are too short for the processor to see C streams.
            _mm_prefetch::<_MM_HINT_T0>(w_start.wrapping_add((C + c) * K + k).cast());
        }
        // SAFETY: 32 values from k on, in rows of K.
        unsafe { add_products(&mut sums, x_start.add(k), K, w_start.add(k), K) };
        k += 32;
    }
    if k < K {
        // Zeros behind the rest of each row add nothing.
        let (mut x_rest, mut w_rest) = ([[0.0; 32]; R], [[bf16::ZERO; 32]; C]);
        for (rest, x) in x_rest.iter_mut().zip(&x.0) {
            let mut padded = [0.0; 32];
            padded[..K - k].copy_from_slice(&x[k..]);
            split_pairs(&padded, rest);
        }
        for (rest, w) in w_rest.iter_mut().zip(w.chunks_exact(K)) {
            rest[..K - k].copy_from_slice(&w[k..]);
        }
        // SAFETY: rows of 32.
        unsafe { add_products(&mut sums, x_rest.as_ptr().cast(), 32, w_rest.as_ptr().cast(), 32) };
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: no other thread touches these columns.
        let cells = unsafe { y.row_mut(row + r, col..col + C) };
        let ((cells, cells_rest), (sums, sums_rest)) = (cells.as_chunks_mut::<4>(), sums.as_chunks::<4>());
        for (cells, sums) in cells.iter_mut().zip(sums) {
            *cells = sums_of_lanes(*sums);
        }
        for (cell, sum) in cells_rest.iter_mut().zip(sums_rest) {
            [*cell, ..] = sums_of_lanes([*sum; 4]);
        }
    }
}

/// Adds the products of 32 k to every accumulator, the even ones first.
///
/// # Safety
/// `x` points to 32 values, split into even and odd, in each of R rows `x_stride` apart; `w` to 32 as stored in each of
/// C rows `w_stride` apart.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_products<const R: usize, const C: usize>(
    sums: &mut [[__m512; C]; R],
    x: *const f32,
    x_stride: usize,
    w: *const bf16,
    w_stride: usize,
) {
    let mut pairs = [_mm512_setzero_si512(); C];
    for (c, pairs) in pairs.iter_mut().enumerate() {
        // SAFETY: row c of C.
        *pairs = unsafe { _mm512_loadu_si512(w.add(c * w_stride).cast()) };
    }
    // SAFETY: the rows are given, and sixteen values in each half of 32.
    unsafe {
        add_half(sums, x, x_stride, pairs.map(|pairs| _mm512_slli_epi32::<16>(pairs)));
        let upper = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
        add_half(sums, x.add(16), x_stride, pairs.map(|pairs| _mm512_and_si512(pairs, upper)));
    }
}

/// Adds sixteen products to every accumulator.
///
/// # Safety
/// `x` points to sixteen values in each of R rows `x_stride` apart.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_half<const R: usize, const C: usize>(
    sums: &mut [[__m512; C]; R],
    x: *const f32,
    x_stride: usize,
    weights: [__m512i; C],
) {
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: row r of R.
        let x = unsafe { _mm512_loadu_ps(x.add(r * x_stride)) };
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = _mm512_fmadd_ps(x, _mm512_castsi512_ps(weights), *sum);
        }
    }
}

/// Each vector's lanes, l added to l + 8, then to l + 4, l + 2 and l + 1. Four at once take a third of the shuffles.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums_of_lanes([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    // Halves: the lower half of each result is of the first vector, the upper half of the second.
    let fold = |a, b| {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
        )
    };
    let (ab, cd) = (fold(a, b), fold(c, d));
    // Quarters: a, b, c, d.
    let abcd = _mm512_add_ps(
        _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
        _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
    );
    let pairs = _mm512_add_ps(abcd, _mm512_permute_ps::<0b01_00_11_10>(abcd));
    let sums = _mm512_add_ps(pairs, _mm512_permute_ps::<0b10_11_00_01>(pairs));
    let mut each = [0.0; 4];
    // SAFETY: four lanes are stored, one of each quarter.
    unsafe { _mm512_mask_compressstoreu_ps(each.as_mut_ptr(), 0b0001_0001_0001_0001, sums) };
    each
}

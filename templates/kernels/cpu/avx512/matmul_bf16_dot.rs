//! y = x · wᵀ in AVX-512 BF16 dot products: bf16 weights in panels, activations rounded to bf16, summed in f32.
//!
//! Checked against Σₖ x · w in f64: off by less than (2⁻⁸ + (K + 5) · 2⁻²⁴) · Σₖ |x · w|.
//!
//! Two threads of an Intel Xeon, best of sixty runs of `kernels_speed`, K = 1024; multiply-adds in registers reach
//! 484 GFLOP/s, the probe reads 32 GB/s.
//!
//! * panels, strips of 8 rows: 227 GFLOP/s with 512 rows, 11 GB/s with 8
//! * the next pair of tiles fetched ahead: 236 GFLOP/s, 49 %; 34 GB/s with one row, 22 with 8
//! * 4 KiB fetched ahead, in turns with 2 while others used 80 % of the time, by a program that is not kept, medians of
//!   fifty pairs: 6 to 7 % more with one row, 7 to 9 % with 8
//! * from eight pages in turn (ADR 23), beside 4 KiB ahead while memory gave less: 20.4 to 28.5 GB/s with one row, medians; 8 rows
//!   are bound by their products
//!
//! The arithmetic is no faster here than f32's: this processor issues a dot product in the time of four multiply-adds.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;
use rt::columns::Finish;
use rt::fetch::fetch_ahead;
use rt::image::{PANEL, Panels};

use super::operand::Operand;
use super::tuning::PAGES;

/// Sixteen pairs of k by sixteen columns.
const TILE: usize = 512;

/// `y[r, c] = Σₖ x[r, k] · w[c, k]` for the first `n_rows` rows r of `x`, and every column c of some panels of `w`: given
/// to `finish` as panel, first row, and rows of cells.
///
/// A cell is summed over pairs of k in order, and depends on its row and its weights alone: not on the other rows, nor their
/// number, nor `panels`.
pub fn matmul<const K: usize>(
    x: &Operand<K, 1>,
    n_rows: usize,
    w: &Panels<bf16>,
    panels: Range<usize>,
    finish: impl Finish,
) {
    assert!(n_rows <= x.n_rows(), "{n_rows} rows of {}", x.n_rows());
    for panel in panels {
        let mut row = 0;
        // SAFETY: the server refuses to start on a processor without AVX-512 F and BF16.
        unsafe {
            while row + 8 <= n_rows {
                strip::<K, 8>(x, row, w, panel, finish);
                row += 8;
            }
            if row + 4 <= n_rows {
                strip::<K, 4>(x, row, w, panel, finish);
                row += 4;
            }
            if row + 2 <= n_rows {
                strip::<K, 2>(x, row, w, panel, finish);
                row += 2;
            }
            if row < n_rows {
                strip::<K, 1>(x, row, w, panel, finish);
            }
        }
    }
}

/// R rows by the columns of a panel, held in registers until they are done.
#[target_feature(enable = "avx512f,avx512bf16")]
fn strip<const K: usize, const R: usize>(
    x: &Operand<K, 1>,
    row: usize,
    w: &Panels<bf16>,
    panel: usize,
    finish: impl Finish,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let mut rows = [std::ptr::null::<i32>(); R];
    for (r, values) in rows.iter_mut().enumerate() {
        *values = x.row_ptr(row + r).cast();
    }
    for (pair_idx, pair) in w.tiles(panel..panel + 1).chunks_exact(2 * TILE).enumerate() {
        let (left, right) = pair.split_at(TILE);
        for cell in 0..16 {
            // The first strip finds the panel in memory, the others in a cache.
            if row == 0 {
                fetch_ahead::<PAGES, _>(&pair[64 * cell]);
            }
            // SAFETY: a cell of a tile is sixteen columns of two; a row of x is whole lines of sixteen pairs.
            unsafe {
                let weights = [
                    _mm512_loadu_si512(left.as_ptr().add(32 * cell).cast()),
                    _mm512_loadu_si512(right.as_ptr().add(32 * cell).cast()),
                ];
                for (sums, row) in sums.iter_mut().zip(rows) {
                    let x: __m512bh = std::mem::transmute(_mm512_set1_epi32(*row.add(16 * pair_idx + cell)));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_dpbf16_ps(*sum, x, std::mem::transmute::<__m512i, __m512bh>(weights));
                    }
                }
            }
        }
    }
    finish.take(panel, row, &cells(sums));
}

/// The lanes of each sum, in the order of columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn cells<const R: usize>(sums: [[__m512; 2]; R]) -> [[f32; PANEL]; R] {
    let mut cells = [[0.0; PANEL]; R];
    for (cells, [left, right]) in cells.iter_mut().zip(sums) {
        // SAFETY: a row is two times sixteen cells.
        unsafe {
            _mm512_storeu_ps(cells.as_mut_ptr(), left);
            _mm512_storeu_ps(cells.as_mut_ptr().add(16), right);
        }
    }
    cells
}

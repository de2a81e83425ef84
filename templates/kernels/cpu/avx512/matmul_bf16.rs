//! y = x · wᵀ with bf16 weights in panels, widened in registers, AVX-512.
//!
//! Checked against Σₖ x · w in f64: off by less than (K + 5) · 2⁻²⁴ · Σₖ |x · w|.
//!
//! Two threads of an Intel Xeon, best of sixty runs of `kernels_speed`, K = 1024; multiply-adds in registers reach
//! 484 GFLOP/s, the probe reads 32 GB/s.
//!
//! * rows of weights as they are stored, sums over lanes at the end: 68 % of the arithmetic
//! * panels: a lane a column, strips of 8 rows: 359 GFLOP/s with 512 rows, 13 GB/s with 8
//! * the next pair of tiles fetched ahead: 375 GFLOP/s, 78 %; 34 GB/s with one row, 21 with 8
//! * 4 KiB fetched ahead, in turns with 2 while others used 80 % of the time, by a program that is not kept, medians of
//!   fifty pairs: 6 % more with one row, 12 to 17 % with 8, 6 to 7 % with 16
//! * from eight pages in turn (ADR 23), beside 4 KiB ahead while memory gave less: 19.8 to 27.8 GB/s with one row, 16.6 to 19.1 with
//!   8, medians

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
/// A cell is summed over k in order, and depends on its row and its weights alone: not on the other rows, nor their
/// number, nor `panels`.
pub fn matmul<const K: usize>(
    x: &Operand<K>,
    n_rows: usize,
    w: &Panels<bf16>,
    panels: Range<usize>,
    finish: impl Finish,
) {
    for panel in panels {
        let mut row = 0;
        // SAFETY: the server refuses to start on a processor without AVX-512 F.
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
#[target_feature(enable = "avx512f")]
fn strip<const K: usize, const R: usize>(
    x: &Operand<K>,
    row: usize,
    w: &Panels<bf16>,
    panel: usize,
    finish: impl Finish,
) {
    let mut rows: [&[f32]; R] = [&[]; R];
    for (r, values) in rows.iter_mut().enumerate() {
        *values = x.row(row + r);
    }
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for (pair_idx, pair) in w.tiles(panel..panel + 1).chunks_exact(2 * TILE).enumerate() {
        let (left, right) = pair.split_at(TILE);
        let n_cells = (K - 32 * pair_idx).div_ceil(2).min(16);
        for cell in 0..n_cells {
            // The first strip finds the panel in memory, the others in a cache.
            if row == 0 {
                fetch_ahead::<PAGES, _>(&pair[64 * cell]);
            }
            // SAFETY: a cell of a tile is sixteen columns of two.
            let pairs = unsafe {
                [
                    _mm512_loadu_si512(left.as_ptr().add(32 * cell).cast()),
                    _mm512_loadu_si512(right.as_ptr().add(32 * cell).cast()),
                ]
            };
            // A bf16 is the upper half of an f32.
            let even = pairs.map(|pairs| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)));
            let upper = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
            let odd = pairs.map(|pairs| _mm512_castsi512_ps(_mm512_and_si512(pairs, upper)));
            for (sums, row) in sums.iter_mut().zip(rows) {
                for (k, weights) in [even, odd].into_iter().enumerate() {
                    let x = _mm512_set1_ps(row[32 * pair_idx + 2 * cell + k]);
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_fmadd_ps(x, weights, *sum);
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

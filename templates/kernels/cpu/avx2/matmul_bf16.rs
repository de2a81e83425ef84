//! y = x · wᵀ with bf16 weights in panels, widened in registers, AVX2.
//!
//! Checked against Σₖ x · w in f64: off by less than (K + 5) · 2⁻²⁴ · Σₖ |x · w|.
//!
//! Two threads of an Intel Xeon, best of sixty runs of `kernels_speed`, K = 1024; multiply-adds in registers reach
//! 484 GFLOP/s, the probe reads 32 GB/s.
//!
//! * panels, strips of 2 rows, the next pair of tiles fetched ahead: 197 GFLOP/s with 512 rows, 41 % of AVX-512's
//!   arithmetic; 33 GB/s with one row, 14 with 8
//! * fetched from eight pages in turn: ADR 23 has what that gives AVX-512

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
        // SAFETY: the server refuses to start on a processor without AVX2 and FMA.
        unsafe {
            while row + 2 <= n_rows {
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
#[target_feature(enable = "avx2,fma")]
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
    let mut sums = [[_mm256_setzero_ps(); 4]; R];
    for (pair_idx, pair) in w.tiles(panel..panel + 1).chunks_exact(2 * TILE).enumerate() {
        let (left, right) = pair.split_at(TILE);
        let n_cells = (K - 32 * pair_idx).div_ceil(2).min(16);
        for cell in 0..n_cells {
            // The first strip finds the panel in memory, the others in a cache.
            if row == 0 {
                fetch_ahead::<PAGES, _>(&pair[64 * cell]);
            }
            for (quarter, tile) in [left, left, right, right].into_iter().enumerate() {
                // SAFETY: a cell of a tile is sixteen columns of two.
                let pairs =
                    unsafe { _mm256_loadu_si256(tile.as_ptr().add(32 * cell + quarter % 2 * 16).cast()) };
                // A bf16 is the upper half of an f32.
                let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs));
                let upper = _mm256_set1_epi32(0xFFFF_0000_u32 as i32);
                let odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, upper));
                for (sums, row) in sums.iter_mut().zip(rows) {
                    let k = 32 * pair_idx + 2 * cell;
                    let sum = &mut sums[quarter];
                    *sum = _mm256_fmadd_ps(_mm256_set1_ps(row[k]), even, *sum);
                    *sum = _mm256_fmadd_ps(_mm256_set1_ps(row[k + 1]), odd, *sum);
                }
            }
        }
    }
    finish.take(panel, row, &cells(sums));
}

/// The lanes of each sum, in the order of columns.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn cells<const R: usize>(sums: [[__m256; 4]; R]) -> [[f32; PANEL]; R] {
    let mut cells = [[0.0; PANEL]; R];
    for (cells, sums) in cells.iter_mut().zip(sums) {
        for (cells, sum) in cells.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
            // SAFETY: eight cells.
            unsafe { _mm256_storeu_ps(cells.as_mut_ptr(), sum) }
        }
    }
    cells
}

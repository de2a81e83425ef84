//! y = x · wᵀ with weights and activations in int8, AVX-512 VNNI.
//!
//! Checked against Σₖ x · w in f64, of the numbers that the codes stand for: off by less than
//! (groups + 3) · 2⁻²⁴ · Σₖ |x · w|. Each instruction set gives the same bits.
//!
//! Two threads of an Intel Xeon that others used too, best of sixty runs of `kernels_speed`, groups of 128, K = 1024; the
//! probe read 28 to 33 GB/s:
//!
//! * strips of 8 rows, 2 KiB fetched ahead: 34 GB/s of weights with one row, 24 with 8; 760 GOP/s with 512 rows
//! * 4 KiB fetched ahead: 36 GB/s with one row, 30 with 8; more than the probe reads, which fetches nothing ahead
//! * from eight pages in turn (ADR 23), beside 4 KiB ahead while memory gave less: 22 to 29.8 GB/s with one row, 19.4 to 26.3 with 8,
//!   medians

use std::arch::x86_64::*;
use std::ops::Range;

use rt::columns::Finish;
use rt::fetch::fetch_ahead;
use rt::image::{Int8, PANEL, Panels};

use super::operand::Operand;
use super::tuning::PAGES;

/// `y[r, c] = Σₖ x[r, k] · w[c, k]` for the first `n_rows` rows r of `x`, and every column c of some panels of `w`: given
/// to `finish` as panel, first row, and rows of cells.
///
/// The product of a group is a whole number. A cell is the sum of its groups in order, each rounded once as it is scaled
/// and added: it depends on its row and its weights alone, not on the other rows, nor their number, nor `panels`.
pub fn matmul<const K: usize, const GROUP: usize>(
    x: &Operand<K, GROUP>,
    n_rows: usize,
    w: &Panels<Int8<GROUP>>,
    panels: Range<usize>,
    finish: impl Finish,
) {
    assert!(n_rows <= x.n_rows(), "{n_rows} rows of {}", x.n_rows());
    for panel in panels {
        let mut row = 0;
        // SAFETY: the server refuses to start on a processor without AVX-512 F, BW and VNNI.
        unsafe {
            while row + 8 <= n_rows {
                strip::<K, GROUP, 8>(x, row, w, panel, finish);
                row += 8;
            }
            if row + 4 <= n_rows {
                strip::<K, GROUP, 4>(x, row, w, panel, finish);
                row += 4;
            }
            if row + 2 <= n_rows {
                strip::<K, GROUP, 2>(x, row, w, panel, finish);
                row += 2;
            }
            if row < n_rows {
                strip::<K, GROUP, 1>(x, row, w, panel, finish);
            }
        }
    }
}

/// R rows by the columns of a panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn strip<const K: usize, const GROUP: usize, const R: usize>(
    x: &Operand<K, GROUP>,
    row: usize,
    w: &Panels<Int8<GROUP>>,
    panel: usize,
    finish: impl Finish,
) {
    let rows: [_; R] = std::array::from_fn(|r| x.row_ptr(row + r));
    let mut sums = [[0.0; PANEL]; R];
    for group in 0..Operand::<K, GROUP>::N_GROUPS {
        let (cells, scales) = w.group(panel, group);
        let mut dots: [_; R] = std::array::from_fn(|r| [_mm512_set1_epi32(x.offset(row + r, group)); 2]);
        for (cell, weights) in cells.iter().enumerate() {
            // The first strip finds the panel in memory, the others in a cache.
            if row == 0 {
                fetch_ahead::<PAGES, _>(weights);
            }
            // SAFETY: half of a row of cells is sixteen columns of four codes; a row of x is whole lines of cells.
            unsafe {
                // One factor has no sign: 128 is added here, and taken off by the offset.
                let weights = [0, 64].map(|line| {
                    let codes = _mm512_loadu_si512(weights.as_ptr().add(line).cast());
                    _mm512_xor_si512(codes, _mm512_set1_epi8(-128))
                });
                for (dots, row) in dots.iter_mut().zip(rows) {
                    let x = row.add(group * GROUP + 4 * cell).cast::<i32>().read();
                    for (dot, weights) in dots.iter_mut().zip(weights) {
                        *dot = _mm512_dpbusd_epi32(*dot, weights, _mm512_set1_epi32(x));
                    }
                }
            }
        }
        for (r, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
            let x_scale = _mm512_set1_ps(x.scale(row + r, group));
            for (half, dot) in dots.into_iter().enumerate() {
                // SAFETY: half of the columns are sixteen.
                unsafe {
                    let scale = _mm512_mul_ps(_mm512_loadu_ps(scales.as_ptr().add(16 * half)), x_scale);
                    let sum = sums.as_mut_ptr().add(16 * half);
                    _mm512_storeu_ps(
                        sum,
                        _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, _mm512_loadu_ps(sum)),
                    );
                }
            }
        }
    }
    finish.take(panel, row, &sums);
}

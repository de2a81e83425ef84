//! y = x · wᵀ with int4 weights and activations in int8, AVX2.
//!
//! Checked against Σₖ x · w in f64, of the numbers that the codes stand for: off by less than
//! (groups + 3) · 2⁻²⁴ · Σₖ |x · w|. Each instruction set gives the same bits.
//!
//! Two threads of an Intel Xeon that others used too, best of sixty runs of `kernels_speed`, groups of 64, K = 1024; the
//! probe read 27 GB/s, multiply-adds of f32 in registers reached 356 GFLOP/s:
//!
//! * magnitudes by the other factor with the sign, strips of 2 rows, 2 KiB fetched ahead: 24 GB/s of weights with one row, 5
//!   with 8; 156 GOP/s with 512 rows, 44 % of what f32 could
//! * fetched from eight pages in turn: ADR 23 has what that gives AVX-512

use std::arch::x86_64::*;
use std::ops::Range;

use rt::columns::Finish;
use rt::fetch::fetch_ahead;
use rt::image::{Int4, PANEL, Panels};

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
    w: &Panels<Int4<GROUP>>,
    panels: Range<usize>,
    finish: impl Finish,
) {
    for panel in panels {
        let mut row = 0;
        // SAFETY: the server refuses to start on a processor without AVX2 and FMA.
        unsafe {
            while row + 2 <= n_rows {
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
#[target_feature(enable = "avx2,fma")]
fn strip<const K: usize, const GROUP: usize, const R: usize>(
    x: &Operand<K, GROUP>,
    row: usize,
    w: &Panels<Int4<GROUP>>,
    panel: usize,
    finish: impl Finish,
) {
    let mut sums = [[0.0; PANEL]; R];
    for group in 0..Operand::<K, GROUP>::N_GROUPS {
        let (cells, scales) = w.group(panel, group);
        let rows: [_; R] = std::array::from_fn(|r| x.group(row + r, group));
        let mut dots = [[_mm256_setzero_si256(); 4]; R];
        for (cell, weights) in cells.iter().enumerate() {
            // The first strip finds the panel in memory, the others in a cache.
            if row == 0 {
                fetch_ahead::<PAGES, _>(weights);
            }
            for quarter in 0..4 {
                // SAFETY: a quarter is eight columns of four bytes.
                let w = unsafe { _mm256_loadu_si256(weights.as_ptr().add(32 * quarter).cast()) };
                // In the upper half of a byte a code counts sixteenfold, with its sign.
                for (second, w) in [_mm256_slli_epi16::<4>(w), w].into_iter().enumerate() {
                    let w = _mm256_and_si256(w, _mm256_set1_epi8(0xF0_u8 as i8));
                    let magnitudes = _mm256_abs_epi8(w);
                    for (dots, (x, _)) in dots.iter_mut().zip(rows) {
                        let x = x[2 * cell + second].map(|code| code as u8);
                        let x = _mm256_set1_epi32(i32::from_ne_bytes(x));
                        // |w| · (x with the sign of w): two products of at most 128 · 127 fit into sixteen bits.
                        let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(x, w));
                        let dot = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                        dots[quarter] = _mm256_add_epi32(dots[quarter], dot);
                    }
                }
            }
        }
        for ((sums, dots), (_, x_scale)) in sums.iter_mut().zip(dots).zip(rows) {
            for (quarter, dot) in dots.into_iter().enumerate() {
                // SAFETY: a quarter is eight columns.
                unsafe {
                    // A bf16 is the upper half of an f32.
                    let scale = _mm_loadu_si128(scales.as_ptr().add(8 * quarter).cast());
                    let scale = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(scale)));
                    let sum = sums.as_mut_ptr().add(8 * quarter);
                    let scale = _mm256_mul_ps(scale, _mm256_set1_ps(x_scale));
                    _mm256_storeu_ps(
                        sum,
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, _mm256_loadu_ps(sum)),
                    );
                }
            }
        }
    }
    finish.take(panel, row, &sums);
}

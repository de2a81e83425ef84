//! y = x · wᵀ with int4 weights and activations in int8, in plain Rust.
//!
//! Checked against Σₖ x · w in f64, of the numbers that the codes stand for: off by less than
//! (groups + 3) · 2⁻²⁴ · Σₖ |x · w|. Each instruction set gives the same bits.
//!
//! Two threads of an Intel Xeon, best of sixty runs of `kernels_speed`, groups of 64, K = 1024: 8 GOP/s with 64 rows.

use std::ops::Range;

use rt::columns::Finish;
use rt::image::{Int4, PANEL, Panels};

use super::operand::Operand;

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
        for row in 0..n_rows {
            let mut sums = [0.0f32; PANEL];
            for group in 0..Operand::<K, GROUP>::N_GROUPS {
                let (cells, scales) = w.group(panel, group);
                let (x, x_scale) = x.group(row, group);
                let mut dots = [0; PANEL];
                for ([first, second], cells) in x.as_chunks::<2>().0.iter().zip(cells) {
                    for (dot, w) in dots.iter_mut().zip(cells.as_chunks::<4>().0) {
                        for ((first, second), w) in first.iter().zip(second).zip(w) {
                            // In the upper half of a byte a code counts sixteenfold, with its sign.
                            let [lower, upper] = [w << 4, w & 0xF0].map(|code| i32::from(code as i8));
                            *dot += i32::from(*first) * lower + i32::from(*second) * upper;
                        }
                    }
                }
                for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(scales) {
                    *sum = (dot as f32).mul_add(scale.to_f32() * x_scale, *sum);
                }
            }
            finish.take(panel, row, &[sums]);
        }
    }
}

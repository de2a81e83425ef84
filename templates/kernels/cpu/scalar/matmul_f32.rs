//! y = x · wᵀ with f32 weights in panels, in plain Rust.
//!
//! Checked against Σₖ x · w in f64: off by less than (K + 5) · 2⁻²⁴ · Σₖ |x · w|.
//!
//! Two threads of an Intel Xeon, best of sixty runs of `kernels_speed`, K = 1024: 34 GFLOP/s with 64 rows.

use std::ops::Range;

use rt::columns::Finish;
use rt::image::{PANEL, Panels};

use super::operand::Operand;

/// Columns of a tile.
const COLUMNS: usize = PANEL / 2;

/// `y[r, c] = Σₖ x[r, k] · w[c, k]` for the first `n_rows` rows r of `x`, and every column c of some panels of `w`: given
/// to `finish` as panel, first row, and rows of cells.
///
/// A cell is summed over k in order, and depends on its row and its weights alone: not on the other rows, nor their
/// number, nor `panels`.
pub fn matmul<const K: usize>(
    x: &Operand<K>,
    n_rows: usize,
    w: &Panels<f32>,
    panels: Range<usize>,
    finish: impl Finish,
) {
    for panel in panels {
        let tiles = w.tiles(panel..panel + 1);
        for row in 0..n_rows {
            let mut sums = [0.0; PANEL];
            for (half, sums) in sums.as_chunks_mut::<COLUMNS>().0.iter_mut().enumerate() {
                // Sixteen k to a tile, tiles of the two halves in turn.
                let tiles = tiles.chunks_exact(16 * COLUMNS).skip(half).step_by(2);
                let cells = tiles.flat_map(|tile| tile.as_chunks::<COLUMNS>().0);
                for (x, weights) in x.row(row).iter().zip(cells) {
                    sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += x * weight);
                }
            }
            finish.take(panel, row, &[sums]);
        }
    }
}

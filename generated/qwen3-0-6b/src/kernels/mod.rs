//! The kernels, spread over the threads of the pool.
//!
//! Every output is computed by one thread in one fixed order, so no result depends on how the work was split.

mod activation;
mod attend;
mod attention;
mod matmul;
mod merge;
mod norm;
mod operand;
mod pair;
mod rope;
mod store;
mod strip;
mod tiles;
mod tuning;

use std::ops::Range;

use rt::{
    columns::{Columns, PerRow},
    image::{PANEL, Panels},
    pool::Pool,
};

use self::activation::silu_mul;
pub use self::{attention::Attention, norm::rms_norm, rope::rotate, store::Cell};
use crate::{shape::TERMS, weights::Weight};

/// The left operand of a product.
pub type Operand<const K: usize> = operand::Operand<K, TERMS>;

/// y (n, cols) = x · wᵀ
pub fn linear<const K: usize>(pool: &Pool, n: usize, x: &Operand<K>, w: &Panels<Weight>, y: &mut [f32]) {
    let y = Columns::new(y, w.rows());
    multiply(pool, n, x, w, |row, cols, cells| {
        // SAFETY: a panel is one task's, and nobody else has its columns.
        unsafe { y.row_mut(row, cols) }.copy_from_slice(cells);
    });
}

/// y (n, cols) += x · wᵀ
pub fn linear_add<const K: usize>(pool: &Pool, n: usize, x: &Operand<K>, w: &Panels<Weight>, y: &mut [f32]) {
    let y = Columns::new(y, w.rows());
    multiply(pool, n, x, w, |row, cols, cells| {
        // SAFETY: as above.
        let y = unsafe { y.row_mut(row, cols) };
        y.iter_mut().zip(cells).for_each(|(y, cell)| *y += cell);
    });
}

/// y (n, N) = silu(x · gateᵀ) · (x · upᵀ), where the panels of `w` have sixteen columns of each.
pub fn linear_gated<const K: usize, const N: usize>(
    pool: &Pool,
    n: usize,
    x: &Operand<K>,
    w: &Panels<Weight>,
    y: &mut Operand<N>,
) {
    let y = y.rows();
    multiply(pool, n, x, w, |row, cols, cells| {
        let (gate, up) = cells.split_at(PANEL / 2);
        let (mut gated, first) = ([0.0; PANEL / 2], cols.start / 2);
        gated.copy_from_slice(gate);
        silu_mul(&mut gated, up);
        // SAFETY: as above; the columns of a panel are sixteen of y.
        unsafe { y.set_part(row, first, &gated[..gated.len().min(N - first)]) };
    });
}

/// Multiplies the first `n` rows of `x` by all panels of `w`, and gives every row of each panel to `finish`: the row,
/// its columns and their cells.
fn multiply<const K: usize>(
    pool: &Pool,
    n: usize,
    x: &Operand<K>,
    w: &Panels<Weight>,
    finish: impl Fn(usize, Range<usize>, &[f32]) + Sync,
) {
    let pieces = pool.pieces(w.count(), 1);
    pool.run(pieces.count(), |_, task| {
        let Some(panels) = pieces.get(task) else { return };
        matmul::matmul(x, n, w, panels, |panel, first_row, cells| {
            let cols = panel * PANEL..w.rows().min((panel + 1) * PANEL);
            for (i, cells) in cells.iter().enumerate() {
                finish(first_row + i, cols.clone(), &cells[..cols.len()]);
            }
        });
    });
}

/// Calls `work` for each of `n` rows, with its index and its part of `parts`, spread over the threads.
pub fn each_row<P: PerRow + Sync>(pool: &Pool, n: usize, parts: P, work: impl Fn(usize, P::Row) + Sync) {
    let compute = |rows: Range<usize>| {
        for row_idx in rows {
            // SAFETY: a row is in one piece.
            work(row_idx, unsafe { parts.row(row_idx) });
        }
    };
    // Few rows are done by one thread before the others would wake.
    if n <= 8 {
        return compute(0..n);
    }
    let pieces = pool.pieces(n, 8);
    pool.run(pieces.count(), |_, task| pieces.get(task).into_iter().for_each(compute));
}

/// Refuses a processor that the kernels cannot run on.
pub fn check_processor() -> anyhow::Result<()> {
    anyhow::ensure!(is_x86_feature_detected!("avx512f"), "this binary needs a processor with avx512f");
    anyhow::ensure!(is_x86_feature_detected!("avx512bf16"), "this binary needs a processor with avx512bf16");
    anyhow::ensure!(
        tiles::allowed(),
        "this binary needs a processor with AMX, and a system that lets it be used"
    );
    Ok(())
}

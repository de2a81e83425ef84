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

/// Rows whose gates are applied at a time.
const GATED_ROWS: usize = 8;

/// y (n, cols) = x · wᵀ
pub fn linear<const K: usize>(pool: &Pool, n: usize, x: &Operand<K>, w: &Panels<Weight>, y: &mut [f32]) {
    multiply_into(pool, n, x, w, y, |y, cell| *y = cell);
}

/// y (n, cols) += x · wᵀ
pub fn linear_add<const K: usize>(pool: &Pool, n: usize, x: &Operand<K>, w: &Panels<Weight>, y: &mut [f32]) {
    multiply_into(pool, n, x, w, y, |y, cell| *y += cell);
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
    multiply_gated(pool, n, x, w, |row, first, gated| {
        // SAFETY: the columns of a panel are sixteen of y, and a panel is one task's.
        unsafe { y.set_part(row, first, &gated[..gated.len().min(N - first)]) };
    });
}

/// Multiplies, and gives each row of gated cells to `finish`: the row, the first of sixteen columns of y, and their
/// cells.
fn multiply_gated<const K: usize>(
    pool: &Pool,
    n: usize,
    x: &Operand<K>,
    w: &Panels<Weight>,
    finish: impl Fn(usize, usize, &[f32; PANEL / 2]) + Sync,
) {
    multiply(pool, n, x, w, |panel, first_row, cells| {
        let mut gated = [[0.0; PANEL / 2]; GATED_ROWS];
        for (i, cells) in cells.chunks(GATED_ROWS).enumerate() {
            let gated = &mut gated[..cells.len()];
            silu_mul(cells, gated);
            for (row, gated) in (first_row + GATED_ROWS * i..).zip(gated) {
                finish(row, panel * PANEL / 2, gated);
            }
        }
    });
}

/// Multiplies, and has each cell brought into y (n, cols) by `bring`.
fn multiply_into<const K: usize>(
    pool: &Pool,
    n: usize,
    x: &Operand<K>,
    w: &Panels<Weight>,
    y: &mut [f32],
    bring: impl Fn(&mut f32, f32) + Copy + Sync,
) {
    let y = Columns::new(y, w.rows());
    multiply(pool, n, x, w, |panel, first_row, cells| {
        let cols = panel * PANEL..w.rows().min((panel + 1) * PANEL);
        for (row, cells) in (first_row..).zip(cells) {
            // SAFETY: a panel is one task's, and nobody else has its columns.
            unsafe { put(y.row_mut(row, cols.clone()), cells, bring) };
        }
    });
}

/// Brings cells into y, which is shorter than they are in the last panel alone.
fn put<const N: usize>(y: &mut [f32], cells: &[f32; N], bring: impl Fn(&mut f32, f32)) {
    match y.first_chunk_mut::<N>() {
        // Of a length that is known there is no loop.
        Some(y) => y.iter_mut().zip(cells).for_each(|(y, cell)| bring(y, *cell)),
        None => y.iter_mut().zip(cells).for_each(|(y, cell)| bring(y, *cell)),
    }
}

/// Multiplies the first `n` rows of `x` by all panels of `w`, and gives the cells of each panel to `finish`: the panel,
/// the first row of some, and their cells.
fn multiply<const K: usize>(
    pool: &Pool,
    n: usize,
    x: &Operand<K>,
    w: &Panels<Weight>,
    finish: impl Fn(usize, usize, &[[f32; PANEL]]) + Sync,
) {
    let pieces = pool.pieces(w.count(), 1);
    pool.run(pieces.count(), |_, task| {
        let Some(panels) = pieces.get(task) else { return };
        matmul::matmul(x, n, w, panels, &finish);
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

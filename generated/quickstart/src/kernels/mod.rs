//! The kernels, spread over the threads of the pool.
//!
//! Every output is computed by one thread in one fixed order, so no result depends on how the work was split.

mod activation;
mod attend;
mod attention;
mod cells;
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
    columns::{Columns, Finish, PerRow},
    image::{PANEL, Packed, Panels},
    pool::Pool,
};

use self::{activation::silu_mul, operand::OperandRows};
pub use self::{attention::Attention, norm::rms_norm, rope::rotate, store::Cell};
use crate::{
    shape::{N_THREADS, TERMS},
    weights::Weight,
};

/// Rows that are computed about as fast as their weights come from memory.
const FEW: usize = 16;

/// The left operand of a product.
pub type Operand<const K: usize> = operand::Operand<K, TERMS>;

/// Says what is multiplied by after the next product, so that a thread that waits fetches the beginning of its share.
pub fn announce<W: Packed>(pool: &Pool, w: &Panels<W>) {
    pool.announce(w.count(), |panels| w.bytes(panels));
}

/// y (n, cols) = x · wᵀ
pub fn linear<const K: usize>(pool: &Pool, n: usize, x: &Operand<K>, w: &Panels<Weight>, y: &mut [f32]) {
    multiply(pool, n, x, w, Put(Columns::new(y, w.rows())));
}

/// y (n, cols) += x · wᵀ
pub fn linear_add<const K: usize>(pool: &Pool, n: usize, x: &Operand<K>, w: &Panels<Weight>, y: &mut [f32]) {
    multiply(pool, n, x, w, Add(Columns::new(y, w.rows())));
}

/// y (n, cols) = x · wᵀ, and `peaks` (n, panels): of each panel of y's columns the largest cell.
pub fn linear_peaks<const K: usize>(
    pool: &Pool,
    n: usize,
    x: &Operand<K>,
    w: &Panels<Weight>,
    y: &mut [f32],
    peaks: &mut [f32],
) {
    multiply(pool, n, x, w, PutPeaks::new(w, y, peaks));
}

/// y (n, N) = silu(x · gateᵀ) · (x · upᵀ), where the panels of `w` have sixteen columns of each.
pub fn linear_gated<const K: usize, const N: usize>(
    pool: &Pool,
    n: usize,
    x: &Operand<K>,
    w: &Panels<Weight>,
    y: &mut Operand<N>,
) {
    multiply(pool, n, x, w, Gate(y.rows()));
}

/// Multiplies the first `n` rows of `x` by all panels of `w`, each panel by one thread, and has `finish` take the
/// cells.
fn multiply<const K: usize>(
    pool: &Pool,
    n: usize,
    x: &Operand<K>,
    w: &Panels<Weight>,
    finish: impl Finish + Sync,
) {
    // Few rows wait for their weights, and nobody for the last panel. Many pass over several panels at a time.
    let grain = if n <= FEW { 1 } else { w.count().div_ceil(2 * N_THREADS) };
    pool.spread(w.count(), grain, |panels| matmul::matmul(x, n, w, panels, finish));
}

/// y ← cells
#[derive(Clone, Copy)]
struct Put<'a>(Columns<'a>);

impl Finish for Put<'_> {
    #[inline(always)]
    fn take(self, panel: usize, first_row: usize, cells: &[[f32; PANEL]]) {
        bring(self.0, panel, first_row, cells, cells::put);
    }
}

/// y ← cells, and peaks ← of each panel the largest cell.
#[derive(Clone, Copy)]
struct PutPeaks<'a> {
    put: Put<'a>,
    peaks: Columns<'a>,
}

impl<'a> PutPeaks<'a> {
    fn new<W: Packed>(w: &Panels<W>, y: &'a mut [f32], peaks: &'a mut [f32]) -> Self {
        Self { put: Put(Columns::new(y, w.rows())), peaks: Columns::new(peaks, w.count()) }
    }
}

impl Finish for PutPeaks<'_> {
    #[inline(always)]
    fn take(self, panel: usize, first_row: usize, cells: &[[f32; PANEL]]) {
        self.put.take(panel, first_row, cells);
        for (row, cells) in (first_row..).zip(cells) {
            // SAFETY: a panel is one task's.
            unsafe { self.peaks.write(row, panel, largest(*cells)) };
        }
    }
}

/// The largest cell: one half against the other until one is left, which vectors do at once.
#[inline(always)]
fn largest(mut cells: [f32; PANEL]) -> f32 {
    let mut width = PANEL;
    while width > 1 {
        width /= 2;
        for idx in 0..width {
            cells[idx] = cells[idx].max(cells[idx + width]);
        }
    }
    cells[0]
}

/// y ← y + cells
#[derive(Clone, Copy)]
struct Add<'a>(Columns<'a>);

impl Finish for Add<'_> {
    #[inline(always)]
    fn take(self, panel: usize, first_row: usize, cells: &[[f32; PANEL]]) {
        bring(self.0, panel, first_row, cells, cells::add);
    }
}

/// Brings the cells of a panel into the rows of y, which is as wide as the product.
#[inline(always)]
fn bring(
    y: Columns<'_>,
    panel: usize,
    first_row: usize,
    cells: &[[f32; PANEL]],
    store: impl Fn(&mut [f32; PANEL], &[f32; PANEL]),
) {
    for (row, cells) in (first_row..).zip(cells) {
        // SAFETY: a panel is one task's, and nobody else has its columns.
        store(unsafe { y.cells_mut(row, panel * PANEL) }, cells);
    }
}

/// y ← the cells, gated.
#[derive(Clone, Copy)]
struct Gate<'a, const N: usize>(OperandRows<'a, N, TERMS>);

impl<const N: usize> Finish for Gate<'_, N> {
    #[inline(always)]
    fn take(self, panel: usize, first_row: usize, cells: &[[f32; PANEL]]) {
        let first = panel * PANEL / 2;
        for (row, cells) in (first_row..).zip(cells) {
            let mut gated = [0.0; PANEL / 2];
            silu_mul(cells, &mut gated);
            // SAFETY: the columns of a panel are sixteen of y, and a panel is one task's.
            unsafe { self.0.set_part(row, first, &gated) };
        }
    }
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
    pool.spread(n, 8, compute);
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

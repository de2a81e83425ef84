//! The kernels, spread over the threads of the pool.
//!
//! Every output is computed by one thread in one fixed order, so no result depends on how the work was split.

mod activation;
mod attention;
mod matmul;
mod norm;
mod rope;

use std::ops::Range;

use rt::{checkpoint::Matrix, columns::Columns, pool::Pool};

pub use self::{activation::silu_mul, norm::rms_norm, rope::rotate};
use crate::{
    kv::LayerCache,
    scheduler::Row,
    sequence::Sequence,
    shape::{BLOCK, GROUP, HEAD_DIM, MAX_CONTEXT, N_KV_HEADS, Q_WIDTH},
    weights::Weight,
};

/// Multiplies rows `x` (n, K) by `N` matrices (cols, K) each into its own `y` (n, cols), in one parallel region.
pub fn linear<const K: usize, const N: usize>(
    pool: &Pool,
    x: &[f32],
    products: [(&Matrix<Weight>, &mut [f32]); N],
) {
    let products = products.map(|(w, y)| (w, Columns::new(y, w.rows()), pool.pieces(w.rows())));
    let n_tasks = products.iter().map(|(_, _, pieces)| pieces.count()).sum();
    pool.run(n_tasks, |_, mut task| {
        for (w, y, pieces) in &products {
            if let Some(cols) = pieces.get(task) {
                return matmul::matmul::<K>(x, w, cols, *y);
            }
            task -= pieces.count();
        }
    });
}

/// Calls `work` for each of `n` rows, with its index and its part of every matrix (n, width), spread over the threads.
pub fn each_row<const N: usize>(
    pool: &Pool,
    n: usize,
    matrices: [(&mut [f32], usize); N],
    work: impl Fn(usize, [&mut [f32]; N]) + Sync,
) {
    let matrices = matrices.map(|(matrix, width)| Columns::new(matrix, width));
    let compute = |rows: Range<usize>| {
        for row_idx in rows {
            // SAFETY: a row is in one piece, and the matrices are different ones.
            work(row_idx, matrices.map(|matrix| unsafe { matrix.row_mut(row_idx, 0..matrix.stride()) }));
        }
    };
    // Pieces are whole groups of eight: as few rows are one thread's, and done before the others would wake.
    if n <= 8 {
        return compute(0..n);
    }
    let pieces = pool.pieces(n);
    pool.run(pieces.count(), |_, task| pieces.get(task).into_iter().for_each(compute));
}

/// Attends every row to the positions its sequence has stored so far.
///
/// `query` and `out` are (n, Q_WIDTH), `scores` is scratch of (threads, GROUP * MAX_CONTEXT).
pub fn attention(
    pool: &Pool,
    rows: &[Row],
    running: &[Sequence],
    cache: &LayerCache,
    query: &[f32],
    scores: &mut [f32],
    out: &mut [f32],
) {
    const HEADS_WIDTH: usize = GROUP * HEAD_DIM;
    let scores = Columns::new(scores, GROUP * MAX_CONTEXT);
    let out = Columns::new(out, Q_WIDTH);
    // Head by head, as the rows of a prompt then find its keys and values in cache.
    pool.run(rows.len() * N_KV_HEADS, |thread, task| {
        let (kv_head, row_idx) = (task / rows.len(), task % rows.len());
        // SAFETY: each thread takes its own row of `scores`, and does one task at a time.
        let scores = unsafe { scores.row_mut(thread, 0..GROUP * MAX_CONTEXT) };
        let row = &rows[row_idx];
        let cols = kv_head * HEADS_WIDTH..(kv_head + 1) * HEADS_WIDTH;
        // SAFETY: no two tasks have the same row and heads.
        let out = unsafe { out.row_mut(row_idx, cols.clone()) };
        attention::attend::<HEAD_DIM, GROUP, BLOCK>(
            &query[row_idx * Q_WIDTH..][cols],
            &cache.keys,
            &cache.values,
            &running[row.sequence].table,
            kv_head,
            N_KV_HEADS,
            0..row.position + 1,
            scores,
            out,
        );
    });
}

/// Refuses a processor that the kernels cannot run on.
pub fn check_processor() -> anyhow::Result<()> {
    anyhow::ensure!(is_x86_feature_detected!("avx512f"), "this binary needs a processor with avx512f");
    Ok(())
}

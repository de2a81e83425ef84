//! The kernels, spread over the threads of the pool.
//!
//! Every output is computed by one thread in one fixed order, so no result depends on how the work was split.

mod activation;
mod attention;
mod matmul;
mod norm;
mod rope;

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
    let products = products.map(|(w, y)| (w, Columns::new(y, w.rows())));
    pool.run(|thread| {
        for (w, y) in &products {
            matmul::matmul::<K>(x, w, pool.share(w.rows(), thread), *y);
        }
    });
}

/// Attends every row to the positions its sequence has stored so far: `query` and `out` are (n, Q_WIDTH), `scores`
/// is memory of (threads, GROUP * MAX_CONTEXT).
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
    pool.run(|thread| {
        // SAFETY: each thread takes its own row of `scores`.
        let scores = unsafe { scores.row_mut(thread, 0..GROUP * MAX_CONTEXT) };
        for task in pool.share(rows.len() * N_KV_HEADS, thread) {
            let (row_idx, kv_head) = (task / N_KV_HEADS, task % N_KV_HEADS);
            let row = &rows[row_idx];
            let cols = kv_head * HEADS_WIDTH..(kv_head + 1) * HEADS_WIDTH;
            // SAFETY: a task is done by one thread, and no two tasks have the same row and heads.
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
        }
    });
}

/// Refuses a processor that the kernels cannot run on.
pub fn check_processor() -> anyhow::Result<()> {
    anyhow::ensure!(is_x86_feature_detected!("avx2"), "this binary needs a processor with avx2");
    anyhow::ensure!(is_x86_feature_detected!("fma"), "this binary needs a processor with fma");
    Ok(())
}

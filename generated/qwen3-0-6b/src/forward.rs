//! The model, top to bottom: 28 layers of attention and gated MLP over the rows of one step.

use rt::{
    checkpoint::{Checkpoint, CheckpointError},
    pool::Pool,
};

use crate::{
    kernels::{attention, linear, rms_norm, rotate, silu_mul},
    kv::LayerCache,
    rope::RopeTable,
    scheduler::Row,
    sequence::Sequence,
    shape::{
        GROUP, HEAD_DIM, HIDDEN, INTERMEDIATE, KV_WIDTH, MAX_CONTEXT, MAX_SEQUENCES, N_LAYERS, N_THREADS,
        NORM_EPS, Q_WIDTH, QUERY_SCALE, STEP_ROWS, VOCAB,
    },
    weights::{Weight, Weights},
};

/// The weights, what the running sequences have stored, and all memory that a step needs.
pub struct Model {
    pool: Pool,
    weights: Weights,
    rope: RopeTable,
    caches: Vec<LayerCache>,
    scratch: Scratch,
}

/// Memory for the largest step.
struct Scratch {
    /// (STEP_ROWS, HIDDEN): the residual stream.
    hidden: Vec<f32>,
    /// (STEP_ROWS, HIDDEN): what enters a block, and then what it adds.
    normed: Vec<f32>,
    /// (STEP_ROWS, Q_WIDTH)
    query: Vec<f32>,
    /// (STEP_ROWS, KV_WIDTH)
    key: Vec<f32>,
    /// (STEP_ROWS, KV_WIDTH)
    value: Vec<f32>,
    /// (STEP_ROWS, Q_WIDTH)
    attended: Vec<f32>,
    /// (STEP_ROWS, INTERMEDIATE)
    gate: Vec<f32>,
    /// (STEP_ROWS, INTERMEDIATE)
    up: Vec<f32>,
    /// (N_THREADS, GROUP * MAX_CONTEXT): attention weights before and after softmax.
    scores: Vec<f32>,
    /// (MAX_SEQUENCES, VOCAB)
    logits: Vec<f32>,
}

impl Model {
    /// Maps the weights and takes all memory that serving will need.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        Ok(Self {
            pool: Pool::new(N_THREADS),
            weights: Weights::load(checkpoint)?,
            rope: RopeTable::new(),
            caches: (0..N_LAYERS).map(|_| LayerCache::new()).collect(),
            scratch: Scratch {
                hidden: vec![0.0; STEP_ROWS * HIDDEN],
                normed: vec![0.0; STEP_ROWS * HIDDEN],
                query: vec![0.0; STEP_ROWS * Q_WIDTH],
                key: vec![0.0; STEP_ROWS * KV_WIDTH],
                value: vec![0.0; STEP_ROWS * KV_WIDTH],
                attended: vec![0.0; STEP_ROWS * Q_WIDTH],
                gate: vec![0.0; STEP_ROWS * INTERMEDIATE],
                up: vec![0.0; STEP_ROWS * INTERMEDIATE],
                scores: vec![0.0; N_THREADS * GROUP * MAX_CONTEXT],
                logits: vec![0.0; MAX_SEQUENCES * VOCAB],
            },
        })
    }

    /// Computes the rows of one step and stores their keys and values.
    pub fn forward(&mut self, rows: &[Row], running: &[Sequence]) {
        let Self { pool, weights, rope, caches, scratch } = self;
        let n = rows.len();
        let hidden = &mut scratch.hidden[..n * HIDDEN];
        let normed = &mut scratch.normed[..n * HIDDEN];
        let query = &mut scratch.query[..n * Q_WIDTH];
        let key = &mut scratch.key[..n * KV_WIDTH];
        let value = &mut scratch.value[..n * KV_WIDTH];
        let attended = &mut scratch.attended[..n * Q_WIDTH];
        let gate = &mut scratch.gate[..n * INTERMEDIATE];
        let up = &mut scratch.up[..n * INTERMEDIATE];

        for (row, hidden) in rows.iter().zip(hidden.chunks_exact_mut(HIDDEN)) {
            embed(weights.embed.row(row.token as usize), hidden);
        }
        for (layer, cache) in weights.layers.iter().zip(caches) {
            norm(hidden, &layer.attention_norm, normed);
            linear::<HIDDEN, 3>(pool, normed, [(&layer.q, query), (&layer.k, key), (&layer.v, value)]);
            norm_heads(query, &layer.q_norm);
            norm_heads(key, &layer.k_norm);
            for (idx, row) in rows.iter().enumerate() {
                let (cos, sin) = rope.at(row.position);
                let key = &mut key[idx * KV_WIDTH..][..KV_WIDTH];
                for head in key.chunks_exact_mut(HEAD_DIM) {
                    rotate(head, cos, sin);
                }
                cache.store(
                    &running[row.sequence].table,
                    row.position,
                    key,
                    &value[idx * KV_WIDTH..][..KV_WIDTH],
                );
                for head in query[idx * Q_WIDTH..][..Q_WIDTH].chunks_exact_mut(HEAD_DIM) {
                    rotate(head, cos, sin);
                    head.iter_mut().for_each(|channel| *channel *= QUERY_SCALE);
                }
            }
            attention(pool, rows, running, cache, query, &mut scratch.scores, attended);
            linear::<Q_WIDTH, 1>(pool, attended, [(&layer.o, &mut *normed)]);
            add(hidden, normed);

            norm(hidden, &layer.mlp_norm, normed);
            linear::<HIDDEN, 2>(pool, normed, [(&layer.gate, &mut *gate), (&layer.up, &mut *up)]);
            silu_mul(gate, up);
            linear::<INTERMEDIATE, 1>(pool, gate, [(&layer.down, &mut *normed)]);
            add(hidden, normed);
        }
    }

    /// Logits (heads, VOCAB) of at most MAX_SEQUENCES rows of the step just computed.
    pub fn logits(&mut self, heads: &[usize]) -> &[f32] {
        let Scratch { hidden, normed, logits, .. } = &mut self.scratch;
        let normed = &mut normed[..heads.len() * HIDDEN];
        let logits = &mut logits[..heads.len() * VOCAB];
        for (row_idx, normed) in heads.iter().zip(normed.chunks_exact_mut(HIDDEN)) {
            rms_norm(&hidden[row_idx * HIDDEN..][..HIDDEN], &self.weights.norm, NORM_EPS, normed);
        }
        linear::<HIDDEN, 1>(&self.pool, normed, [(&self.weights.embed, &mut *logits)]);
        logits
    }
}

/// One token's embedding, widened.
fn embed(weights: &[Weight], hidden: &mut [f32]) {
    for (hidden, weight) in hidden.iter_mut().zip(weights) {
        *hidden = weight.to_f32();
    }
}

/// Norms each row of `x` (n, HIDDEN) into `out`.
fn norm(x: &[f32], weight: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks_exact(HIDDEN).zip(out.chunks_exact_mut(HIDDEN)) {
        rms_norm(x, weight, NORM_EPS, out);
    }
}

/// Norms each head of `x` (n, heads, HEAD_DIM) in place.
fn norm_heads(x: &mut [f32], weight: &[f32]) {
    let mut before = [0.0; HEAD_DIM];
    for head in x.chunks_exact_mut(HEAD_DIM) {
        before.copy_from_slice(head);
        rms_norm(&before, weight, NORM_EPS, head);
    }
}

/// Adds `addend` to `x`, element by element.
fn add(x: &mut [f32], addend: &[f32]) {
    for (x, addend) in x.iter_mut().zip(addend) {
        *x += addend;
    }
}

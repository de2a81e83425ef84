//! The model, top to bottom: 12 layers of attention and gated MLP over the rows of one step.

use rt::{
    checkpoint::{Checkpoint, CheckpointError},
    memory::granted,
    pool::Pool,
};

use crate::{
    kernels::{attention, each_row, linear, rms_norm, rotate, silu_mul},
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
                hidden: granted(STEP_ROWS * HIDDEN),
                normed: granted(STEP_ROWS * HIDDEN),
                query: granted(STEP_ROWS * Q_WIDTH),
                key: granted(STEP_ROWS * KV_WIDTH),
                value: granted(STEP_ROWS * KV_WIDTH),
                attended: granted(STEP_ROWS * Q_WIDTH),
                gate: granted(STEP_ROWS * INTERMEDIATE),
                up: granted(STEP_ROWS * INTERMEDIATE),
                scores: granted(N_THREADS * GROUP * MAX_CONTEXT),
                logits: granted(MAX_SEQUENCES * VOCAB),
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

        each_row(pool, n, [(&mut *hidden, HIDDEN)], |idx, [hidden]| {
            embed(weights.embed.row(rows[idx].token as usize), hidden);
        });
        for (layer, cache) in weights.layers.iter().zip(caches) {
            each_row(pool, n, [(&mut *normed, HIDDEN)], |idx, [normed]| {
                rms_norm(&hidden[idx * HIDDEN..][..HIDDEN], &layer.attention_norm, NORM_EPS, normed);
            });
            linear::<HIDDEN, 3>(
                pool,
                normed,
                [(&layer.q, &mut *query), (&layer.k, &mut *key), (&layer.v, &mut *value)],
            );
            each_row(pool, n, [(&mut *query, Q_WIDTH), (&mut *key, KV_WIDTH)], |idx, [query, key]| {
                let (cos, sin) = rope.at(rows[idx].position);
                for head in key.chunks_exact_mut(HEAD_DIM) {
                    rotate(head, cos, sin);
                }
                for head in query.chunks_exact_mut(HEAD_DIM) {
                    rotate(head, cos, sin);
                    head.iter_mut().for_each(|channel| *channel *= QUERY_SCALE);
                }
            });
            for (idx, row) in rows.iter().enumerate() {
                let (key, value) = (&key[idx * KV_WIDTH..][..KV_WIDTH], &value[idx * KV_WIDTH..][..KV_WIDTH]);
                cache.store(&running[row.sequence].table, row.position, key, value);
            }
            attention(pool, rows, running, cache, query, &mut scratch.scores, attended);
            linear::<Q_WIDTH, 1>(pool, attended, [(&layer.o, &mut *normed)]);

            each_row(pool, n, [(&mut *hidden, HIDDEN), (&mut *normed, HIDDEN)], |_, [hidden, normed]| {
                add(hidden, normed);
                rms_norm(hidden, &layer.mlp_norm, NORM_EPS, normed);
            });
            linear::<HIDDEN, 2>(pool, normed, [(&layer.gate, &mut *gate), (&layer.up, &mut *up)]);
            each_row(pool, n, [(&mut *gate, INTERMEDIATE)], |idx, [gate]| {
                silu_mul(gate, &up[idx * INTERMEDIATE..][..INTERMEDIATE]);
            });
            linear::<INTERMEDIATE, 1>(pool, gate, [(&layer.down, &mut *normed)]);
            each_row(pool, n, [(&mut *hidden, HIDDEN)], |idx, [hidden]| {
                add(hidden, &normed[idx * HIDDEN..][..HIDDEN]);
            });
        }
    }

    /// Logits (heads, VOCAB) of at most MAX_SEQUENCES rows of the step just computed.
    pub fn logits(&mut self, heads: &[usize]) -> &[f32] {
        let Scratch { hidden, normed, logits, .. } = &mut self.scratch;
        let normed = &mut normed[..heads.len() * HIDDEN];
        let logits = &mut logits[..heads.len() * VOCAB];
        each_row(&self.pool, heads.len(), [(&mut *normed, HIDDEN)], |idx, [normed]| {
            rms_norm(&hidden[heads[idx] * HIDDEN..][..HIDDEN], &self.weights.norm, NORM_EPS, normed);
        });
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

/// Adds `addend` to `x`, element by element.
fn add(x: &mut [f32], addend: &[f32]) {
    for (x, addend) in x.iter_mut().zip(addend) {
        *x += addend;
    }
}

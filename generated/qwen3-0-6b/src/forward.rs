//! The model, top to bottom: 28 layers of attention and gated MLP over the rows of one step.

use rt::{
    columns::Columns,
    image::{Image, ImageError, PANEL},
    memory::{Lines, grant_later},
    pool::Pool,
};

use crate::{
    kernels::{
        Attention, Operand, announce, each_row, linear, linear_add, linear_gated, linear_peaks, rms_norm,
        rotate,
    },
    kv::LayerCache,
    rope::RopeTable,
    scheduler::Row,
    sequence::Sequence,
    shape::{
        HIDDEN, INTERMEDIATE, MAX_SEQUENCES, N_LAYERS, N_THREADS, NORM_EPS, Q_WIDTH, QKV_WIDTH, QUERY_SCALE,
        STEP_ROWS, VOCAB,
    },
    weights::{Weight, Weights},
};

/// The weights, what the running sequences have stored, and all memory that a step needs.
pub struct Model {
    /// The threads that compute.
    pub pool: Pool,
    weights: Weights,
    rope: RopeTable,
    caches: Vec<LayerCache>,
    attention: Attention,
    scratch: Scratch,
}

/// Panels of the head.
const N_PEAKS: usize = VOCAB.div_ceil(PANEL);

/// What the head makes of a row.
#[derive(Clone, Copy)]
pub struct Logits<'a> {
    /// (VOCAB)
    pub all: &'a [f32],
    /// Of every PANEL of them the largest.
    pub peaks: &'a [f32],
}

/// Memory for the largest step.
struct Scratch {
    /// (STEP_ROWS, HIDDEN): the residual stream.
    hidden: Lines<f32>,
    /// STEP_ROWS of it, normed.
    normed: Operand<HIDDEN>,
    /// (STEP_ROWS, QKV_WIDTH)
    qkv: Lines<f32>,
    /// (STEP_ROWS, Q_WIDTH)
    attended: Lines<f32>,
    /// STEP_ROWS of it.
    mixed: Operand<Q_WIDTH>,
    /// STEP_ROWS of what is inside the MLP.
    gated: Operand<INTERMEDIATE>,
    /// (MAX_SEQUENCES, N_PEAKS)
    peaks: Lines<f32>,
    /// (MAX_SEQUENCES, VOCAB)
    logits: Lines<f32>,
}

impl Model {
    /// Takes the weights and all memory that serving will need.
    pub fn open(image: &Image) -> Result<Self, ImageError> {
        Ok(Self {
            pool: Pool::new(N_THREADS),
            weights: Weights::load(image)?,
            rope: RopeTable::new(),
            caches: (0..N_LAYERS).map(|_| LayerCache::new()).collect(),
            attention: Attention::new(),
            scratch: Scratch {
                hidden: Lines::new(STEP_ROWS * HIDDEN),
                normed: Operand::new(STEP_ROWS),
                qkv: Lines::new(STEP_ROWS * QKV_WIDTH),
                attended: Lines::new(STEP_ROWS * Q_WIDTH),
                mixed: Operand::new(STEP_ROWS),
                gated: Operand::new(STEP_ROWS),
                peaks: Lines::new(MAX_SEQUENCES * N_PEAKS),
                logits: Lines::new(MAX_SEQUENCES * VOCAB),
            },
        })
    }

    /// Has the keys' and values' memory granted beside what else is done.
    pub fn grant_caches(&self) {
        grant_later(self.caches.iter().flat_map(|cache| [&cache.keys[..], &cache.values[..]]));
    }

    /// Computes the rows of one step and stores their keys and values.
    pub fn forward(&mut self, rows: &[Row], running: &[Sequence]) {
        let Self { pool, weights, rope, caches, attention, scratch } = self;
        let Scratch { normed, mixed, gated, .. } = scratch;
        let n = rows.len();
        let hidden = &mut scratch.hidden[..n * HIDDEN];
        let qkv = &mut scratch.qkv[..n * QKV_WIDTH];
        let attended = &mut scratch.attended[..n * Q_WIDTH];
        attention.cut(rows);

        each_row(pool, n, Columns::new(hidden, HIDDEN), |idx, hidden| {
            embed(weights.embed.row(rows[idx].token as usize).flatten(), hidden);
        });
        for (idx, (layer, cache)) in weights.layers.iter().zip(caches).enumerate() {
            norm(pool, n, hidden, &layer.attention_norm, normed);
            announce(pool, &layer.o);
            linear(pool, n, normed, &layer.qkv, qkv);
            attention.store(pool, (rows, running), cache, qkv, |position, key, turned| {
                rms_norm(key, &layer.k_norm, NORM_EPS, turned);
                let (cos, sin) = rope.at(position);
                rotate(turned, cos, sin);
            });
            let query = |position, query: &[f32], turned: &mut [f32]| {
                rms_norm(query, &layer.q_norm, NORM_EPS, turned);
                let (cos, sin) = rope.at(position);
                rotate(turned, cos, sin);
                turned.iter_mut().for_each(|channel| *channel *= QUERY_SCALE);
            };
            attention.attend(pool, (rows, running), cache, qkv, query, attended);
            each_row(pool, n, mixed.rows(), |idx, mut mixed| {
                mixed.set(&attended.as_chunks().0[idx]);
            });
            announce(pool, &layer.gate_up);
            linear_add(pool, n, mixed, &layer.o, hidden);

            norm(pool, n, hidden, &layer.mlp_norm, normed);
            announce(pool, &layer.down);
            linear_gated(pool, n, normed, &layer.gate_up, gated);
            match weights.layers.get(idx + 1) {
                Some(next) => announce(pool, &next.qkv),
                None => announce(pool, &weights.embed),
            }
            linear_add(pool, n, gated, &layer.down, hidden);
        }
    }

    /// The logits of each of at most MAX_SEQUENCES rows of the step just computed.
    pub fn logits(&mut self, heads: &[usize]) -> impl Iterator<Item = Logits<'_>> {
        let Scratch { hidden, normed, peaks, logits, .. } = &mut self.scratch;
        let peaks = &mut peaks[..heads.len() * N_PEAKS];
        let logits = &mut logits[..heads.len() * VOCAB];
        each_row(&self.pool, heads.len(), normed.rows(), |idx, mut normed| {
            let mut row = [0.0; HIDDEN];
            rms_norm(&hidden[heads[idx] * HIDDEN..][..HIDDEN], &self.weights.norm, NORM_EPS, &mut row);
            normed.set(&row);
        });
        announce(&self.pool, &self.weights.layers[0].qkv);
        linear_peaks(&self.pool, heads.len(), normed, &self.weights.embed, logits, peaks);
        let rows = logits.chunks_exact(VOCAB).zip(peaks.chunks_exact(N_PEAKS));
        rows.map(|(all, peaks)| Logits { all, peaks })
    }
}

/// The rows of the residual stream, normed, as the left operand of what comes next.
fn norm(pool: &Pool, n: usize, hidden: &[f32], weight: &[f32], normed: &mut Operand<HIDDEN>) {
    each_row(pool, n, normed.rows(), |idx, mut normed| {
        let mut row = [0.0; HIDDEN];
        rms_norm(&hidden[idx * HIDDEN..][..HIDDEN], weight, NORM_EPS, &mut row);
        normed.set(&row);
    });
}

/// One token's embedding, widened.
fn embed<'a>(weights: impl IntoIterator<Item = &'a Weight>, hidden: &mut [f32]) {
    for (hidden, weight) in hidden.iter_mut().zip(weights) {
        *hidden = weight.to_f32();
    }
}

//! What kernels cost: instructions that multiply, seconds, and bytes of what they multiply. A plan says so before anything is
//! emitted, and `cargo xtask explain` holds it against what `cargo xtask counters` counts.

use synth::{
    feasibility::{channels, least_kv},
    held::Format,
    mechanism::{Cost, Job},
    model::Model,
    workload::Precision,
};

use super::is_codes;

/// What some kernels multiply with, where a row is computed alone.
pub struct Multiplies {
    /// f32 lanes of a vector.
    pub lanes: usize,
    /// Weights that an instruction multiplies, before scales.
    pub weights: fn(Format) -> f64,
    /// Whether keys and values of bf16 are multiplied in tiles.
    pub tiles: bool,
}

/// Those of AVX-512, which AMX shares but for tiles.
pub const AVX512: Multiplies =
    Multiplies { lanes: 16, weights: |format| if is_codes(format) { 64.0 } else { 16.0 }, tiles: false };

/// Positions of a tile of keys.
const TILE: usize = 16;

/// Positions whose weights are taken relative to one largest score.
const RANGE: usize = 512;

/// Multiply-adds of an exponential: two leave its argument's fraction, five are its polynomial.
const EXP: usize = 7;

impl Multiplies {
    /// Weights of the layers and the head, attention at the median context, and what is between them.
    fn per_token(&self, job: &Job<'_>) -> f64 {
        let Some(held) = job.held else { return 0.0 };
        let dims = &job.model.dims;
        let head = (dims.vocab * dims.hidden) as f64;
        self.products(held.layers, layer_weights(job.model))
            + self.products(held.head, head)
            + (dims.layers * (self.attention(job) + self.activation(dims.intermediate))
                + self.norms(job.model)) as f64
    }

    /// Products with weights; of codes, each sum of a group is scaled and added by one more for a vector of columns.
    fn products(&self, format: Format, weights: f64) -> f64 {
        let scales = match format {
            Format::Int8(group) | Format::Int4(group) => 1.0 / (group as usize * self.lanes) as f64,
            Format::F32 | Format::Bf16 => 0.0,
        };
        weights * (1.0 / (self.weights)(format) + scales)
    }

    /// One layer's attention of a row to those before it and itself.
    fn attention(&self, job: &Job<'_>) -> usize {
        let (model, lanes) = (job.model, self.lanes);
        let dims = &model.dims;
        let kv = job.kv.unwrap_or_else(|| least_kv(job.workload));
        let channels = channels(model, kv);
        let seen = job.workload.median_context().min(model.sliding_window.unwrap_or(usize::MAX));
        // Scores and values. In tiles all query heads of a key head are rows of one, and a step is two tiles of keys.
        let (n_tiles, products) = if self.tiles && kv == Precision::Bf16 {
            let n_steps = seen.div_ceil(2 * TILE);
            (2 * n_steps, dims.kv_heads * n_steps * 4 * channels / 32)
        } else {
            let n_tiles = seen.div_ceil(TILE);
            (n_tiles, dims.heads * n_tiles * 2 * channels * TILE / lanes)
        };
        // Ranges that are looked at apart are put together once more.
        let n_merges = match seen.div_ceil(RANGE) {
            1 => 1,
            n_ranges => 2 * n_ranges,
        };
        let weights = n_tiles * TILE / lanes * EXP;
        let merges = n_merges * (2 * EXP + channels / lanes);
        products + dims.heads * (weights + merges)
    }

    /// One layer's SiLU, of sixteen values at a time.
    fn activation(&self, intermediate: usize) -> usize {
        intermediate.div_ceil(TILE) * (TILE / self.lanes) * EXP
    }

    /// Sums of squares; each ends with what is left of a vector.
    fn norms(&self, model: &Model) -> usize {
        let dims = &model.dims;
        let heads = if model.qk_norm { dims.heads + dims.kv_heads } else { 0 };
        (2 * dims.layers + 1) * (dims.hidden / self.lanes + 1)
            + dims.layers * heads * (dims.head_dim / self.lanes + 1)
    }
}

/// What one token costs kernels that do so many operations a second over many rows, a thread.
pub fn cost(job: &Job<'_>, rate: Option<f64>, multiplies: &Multiplies) -> Cost {
    Cost { instructions: multiplies.per_token(job), compute: compute(job, rate), ..Cost::default() }
}

/// Seconds of one thread for a token.
pub fn compute(job: &Job<'_>, rate: Option<f64>) -> f64 {
    rate.map_or(0.0, |rate| 2.0 * read_weights(job.model) / rate)
}

/// Operations a second of one thread, from the 10⁹ that two reach with 512 rows: of the ladder at the head of the kernel's
/// file, where a test looks it up.
pub fn rate(giga_of_two_threads: f64) -> f64 {
    giga_of_two_threads * 1e9 / 2.0
}

/// Weights that a position is multiplied by: all but the head, which most positions of a prompt do without.
pub fn layer_weights(model: &Model) -> f64 {
    read_weights(model) - (model.dims.vocab * model.dims.hidden) as f64
}

/// Weights that one decoded token reads: everything but the rows of the embedding it does not look up.
fn read_weights(model: &Model) -> f64 {
    let dims = &model.dims;
    let attention = 2 * dims.hidden * (dims.query_rows() + dims.kv_rows());
    let mlp = 3 * dims.hidden * dims.intermediate;
    (dims.layers * (attention + mlp) + dims.vocab * dims.hidden) as f64
}

/// Rows behind the last, for what fills its tiles.
const SPARE: usize = 32;

/// Bytes of rows of activations, each the sum of so many bf16: of `kernels/cpu/avx512/operand_bf16.rs`.
pub fn terms_bytes(terms: usize, rows: usize, k: usize) -> usize {
    (rows * terms + SPARE) * (k.next_multiple_of(32) + 32) * 2
}

/// Bytes of rows of codes, with a scale and an offset for each group: of `kernels/cpu/avx512/operand_int8.rs`.
pub fn codes_bytes(group: u64, rows: usize, k: usize) -> usize {
    (rows + SPARE) * (k.next_multiple_of(64) + 64 + k.div_ceil(group as usize) * 8)
}

/// Bytes of rows of codes, with a scale for each group: of `kernels/cpu/operand_int8.rs`.
pub fn plain_codes_bytes(group: u64, rows: usize, k: usize) -> usize {
    rows * (k.next_multiple_of((group as usize).min(64)) + k.div_ceil(group as usize) * 4)
}

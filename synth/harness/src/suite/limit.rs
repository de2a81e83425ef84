//! What the machine allows a row at best, and how much of that was reached.

use serde::{Deserialize, Serialize};
use synth::{held::Held, model::Model};

use super::{Row, load};
use crate::probe::{DotRate, Machine};
use crate::reference::Format;

/// What the machine reached in the run that a cell was raced in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceilings {
    /// Threads that measured together.
    pub threads: usize,
    /// Read bandwidth, GB/s (10⁹).
    pub read_gb_s: f64,
    /// f32 multiply-adds, GFLOP/s.
    pub fma_gflops: f64,
    /// Dot products of small numbers.
    pub dots: Vec<DotRate>,
}

/// Bytes that own must read, by what the plan says of the emitted layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reads {
    /// Weights of one pass over the model, and one row of the embedding.
    pub weights: u64,
    /// Keys and values of one position, all layers.
    pub kv_per_position: u64,
}

/// A row beside its limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// What bounds it: `read`, or the name of an instruction.
    pub by: String,
    /// Bytes of one token, or operations of one prompt.
    pub amount: f64,
    /// 10⁹ of these a second.
    pub peak: f64,
    /// Least time, ms.
    pub floor_ms: f64,
    /// Least time ÷ measured time.
    pub share: f64,
}

impl Ceilings {
    /// As probed.
    #[must_use]
    pub fn of(machine: &Machine, dots: Vec<DotRate>) -> Self {
        let Machine { threads, read_gb_s, fma_gflops, .. } = *machine;
        Self { threads, read_gb_s, fma_gflops, dots }
    }

    /// The fastest way there is to multiply weights of this format, with its rate in 10⁹ operations a second.
    #[must_use]
    pub fn multiply(&self, format: Format) -> (&'static str, f64) {
        let is_fit = |it: &&DotRate| format != Format::F32 && it.dot.is_bf16() == (format == Format::Bf16);
        let dots = self.dots.iter().filter(is_fit).map(|it| (it.dot.name(), it.gops));
        dots.chain([("f32 multiply-add", self.fma_gflops)])
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or(("f32 multiply-add", self.fma_gflops))
    }
}

impl Reads {
    /// Of weights that are held so, with this many bytes of KV for a position.
    #[must_use]
    pub fn of(model: &Model, held: Held, kv_per_position: u64) -> Self {
        Self { weights: held.bytes_per_pass(model) + held.head.bytes(1, model.dims.hidden), kv_per_position }
    }

    /// Bytes of one decoded token where `n_sequences` decode together, each seeing `n_positions`.
    #[must_use]
    pub fn per_token(self, n_sequences: usize, n_positions: usize) -> f64 {
        self.weights as f64 / n_sequences as f64 + (self.kv_per_position * n_positions as u64) as f64
    }
}

/// The limit of a row, and the share of it that `measured_ms` reaches: bytes of a decoded token over the read bandwidth,
/// operations of a prompt over the fastest dot product. Rows without one have none.
#[must_use]
pub fn limit(
    (row, format): (Row, Format),
    model: &Model,
    reads: Reads,
    ceilings: &Ceilings,
    measured_ms: f64,
) -> Option<Limit> {
    let (by, amount, peak) = match row {
        Row::Prefill512 | Row::Prefill4096 => {
            let (by, peak) = ceilings.multiply(format);
            (by, operations(model, load::prompt(row)), peak)
        }
        Row::DecodeB1 | Row::DecodeB8 | Row::DecodeB1At8k => {
            let n_sequences = if row == Row::DecodeB8 { load::N_TOGETHER } else { 1 };
            let n_positions = load::prompt(row) + load::output(row) / 2;
            ("read", reads.per_token(n_sequences, n_positions), ceilings.read_gb_s)
        }
        Row::Served | Row::Start | Row::Memory => return None,
    };
    let floor_ms = amount / (peak * 1e9) * 1e3;
    let share = floor_ms / measured_ms;
    share.is_finite().then(|| Limit { by: by.to_owned(), amount, peak, floor_ms, share })
}

/// Operations of reading a prompt of `n` tokens, a multiply-add being two: every matrix of the layers for each position,
/// the head for the last, and attention of each position to those before it and itself.
#[must_use]
pub fn operations(model: &Model, n: usize) -> f64 {
    let dims = &model.dims;
    let head = (dims.vocab * dims.hidden) as f64;
    let n_tables = if model.tied { 1.0 } else { 2.0 };
    let layers = model.n_matrix_weights() as f64 - n_tables * head;
    let seen = (n * (n + 1) / 2) as f64;
    let attention = (dims.layers * 2 * dims.query_rows()) as f64 * seen;
    2.0 * (layers * n as f64 + head + attention)
}

//! What the machine allows a row at best, and how much of that was reached.

use serde::{Deserialize, Serialize};
use synth::{held::Held, model::Model};

use super::{Row, load};
use crate::probe::{Ceiling, DotRate, Machine};
use crate::reference::Format;
use crate::stats::median;

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

/// What bounds a row, and how much of it the row needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// What the machine does at most so fast.
    pub by: Ceiling,
    /// Bytes of one token, or operations of one prompt.
    pub amount: f64,
}

/// A row beside its limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// What bounds it: `read`, or the name of an instruction.
    pub by: String,
    /// Bytes of one token, or operations of one prompt.
    pub amount: f64,
    /// 10⁹ of these a second: what the machine reached between the rounds, their median.
    pub peak: f64,
    /// Least time by that, ms.
    pub floor_ms: f64,
    /// Least time ÷ measured time, each by its own round: the median of the rounds.
    pub share: f64,
}

impl Ceilings {
    /// As probed.
    #[must_use]
    pub fn of(machine: &Machine, dots: Vec<DotRate>) -> Self {
        let Machine { threads, read_gb_s, fma_gflops, .. } = *machine;
        Self { threads, read_gb_s, fma_gflops, dots }
    }

    /// The fastest way there is to multiply weights of this format.
    #[must_use]
    pub fn multiply(&self, format: Format) -> Ceiling {
        let is_fit = |it: &&DotRate| format != Format::F32 && it.dot.is_bf16() == (format == Format::Bf16);
        let fastest = self.dots.iter().filter(is_fit).max_by(|a, b| a.gops.total_cmp(&b.gops));
        fastest.filter(|it| it.gops > self.fma_gflops).map_or(Ceiling::Fma, |it| Ceiling::Dot(it.dot))
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

impl Bound {
    /// What bounds a row: bytes of a decoded token, or operations of a prompt in the fastest way to multiply. Rows that are
    /// told by neither have none.
    #[must_use]
    pub fn of(
        (row, format): (Row, Format),
        model: &Model,
        reads: Reads,
        ceilings: &Ceilings,
    ) -> Option<Self> {
        match row {
            Row::Prefill512 | Row::Prefill4096 => {
                Some(Self { by: ceilings.multiply(format), amount: operations(model, load::prompt(row)) })
            }
            Row::DecodeB1 | Row::DecodeB8 | Row::DecodeB1At8k => {
                let n_sequences = if row == Row::DecodeB8 { load::N_TOGETHER } else { 1 };
                let n_positions = load::prompt(row) + load::output(row) / 2;
                Some(Self { by: Ceiling::Read, amount: reads.per_token(n_sequences, n_positions) })
            }
            Row::Served | Row::Start | Row::Memory => None,
        }
    }

    /// The limit by rounds, in each of which the machine reached a peak, in 10⁹ a second, and own took some ms.
    #[must_use]
    pub fn limit(self, rounds: &[(f64, f64)]) -> Option<Limit> {
        let floor_ms = |peak: f64| self.amount / (peak * 1e9) * 1e3;
        let peaks: Vec<f64> = rounds.iter().map(|(peak, _)| *peak).collect();
        let shares: Vec<f64> = rounds.iter().map(|(peak, ms)| floor_ms(*peak) / ms).collect();
        let (peak, share) = (median(&peaks)?, median(&shares)?);
        let Self { by, amount } = self;
        share.is_finite().then(|| Limit {
            by: by.name().to_owned(),
            amount,
            peak,
            floor_ms: floor_ms(peak),
            share,
        })
    }
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

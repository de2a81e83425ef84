//! What the weight image holds, by the names it uses.

use half::bf16;
use rt::image::Panels;
use synth_macros::Weights;

use crate::shape::{GATE_UP_WIDTH, HEAD_DIM, HIDDEN, INTERMEDIATE, N_LAYERS, Q_WIDTH, QKV_WIDTH, VOCAB};

/// What a weight is in memory.
///
/// Stored as bf16: two bytes a weight are all a token reads, and widening in registers loses nothing.
pub type Weight = bf16;

/// All weights.
#[derive(Weights)]
pub struct Weights {
    /// (VOCAB, HIDDEN): the embedding, and the head that turns the last layer into logits.
    #[weight("embed", rows = VOCAB, cols = HIDDEN)]
    pub embed: Panels<Weight>,
    /// From the bottom up.
    #[weight(each = N_LAYERS)]
    pub layers: Vec<Layer>,
    /// (HIDDEN)
    #[weight("norm", len = HIDDEN)]
    pub norm: Vec<f32>,
}

/// One layer: attention, then a gated MLP.
#[derive(Weights)]
pub struct Layer {
    /// (HIDDEN)
    #[weight("layers.{}.attention_norm", len = HIDDEN)]
    pub attention_norm: Vec<f32>,
    /// (QKV_WIDTH, HIDDEN): queries, keys and values, one under the other.
    #[weight("layers.{}.qkv", rows = QKV_WIDTH, cols = HIDDEN)]
    pub qkv: Panels<Weight>,
    /// (HEAD_DIM)
    #[weight("layers.{}.q_norm", len = HEAD_DIM)]
    pub q_norm: Vec<f32>,
    /// (HEAD_DIM)
    #[weight("layers.{}.k_norm", len = HEAD_DIM)]
    pub k_norm: Vec<f32>,
    /// (HIDDEN, Q_WIDTH)
    #[weight("layers.{}.o", rows = HIDDEN, cols = Q_WIDTH)]
    pub o: Panels<Weight>,
    /// (HIDDEN)
    #[weight("layers.{}.mlp_norm", len = HIDDEN)]
    pub mlp_norm: Vec<f32>,
    /// (GATE_UP_WIDTH, HIDDEN): sixteen rows of the gate and sixteen of what it gates, in turn.
    #[weight("layers.{}.gate_up", rows = GATE_UP_WIDTH, cols = HIDDEN)]
    pub gate_up: Panels<Weight>,
    /// (HIDDEN, INTERMEDIATE)
    #[weight("layers.{}.down", rows = HIDDEN, cols = INTERMEDIATE)]
    pub down: Panels<Weight>,
}

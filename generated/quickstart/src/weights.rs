//! What the model folder holds, by the names it uses.

use half::bf16;
use rt::checkpoint::Matrix;
use synth_macros::Weights;

use crate::shape::{HEAD_DIM, HIDDEN, INTERMEDIATE, KV_WIDTH, N_LAYERS, Q_WIDTH, VOCAB};

/// What a weight is in memory.
///
/// Stored as bf16: two bytes a weight are all a token reads, and widening in registers loses nothing.
pub type Weight = bf16;

/// All weights, as the checkpoint names them.
#[derive(Weights)]
pub struct Weights {
    /// (VOCAB, HIDDEN): the embedding, and the head that turns the last layer into logits.
    #[weight("model.embed_tokens.weight", rows = VOCAB, cols = HIDDEN)]
    pub embed: Matrix<Weight>,
    /// From the bottom up.
    #[weight(each = N_LAYERS)]
    pub layers: Vec<Layer>,
    /// (HIDDEN)
    #[weight("model.norm.weight", len = HIDDEN)]
    pub norm: Vec<f32>,
}

/// One layer: attention, then a gated MLP.
#[derive(Weights)]
pub struct Layer {
    /// (HIDDEN)
    #[weight("model.layers.{}.input_layernorm.weight", len = HIDDEN)]
    pub attention_norm: Vec<f32>,
    /// (Q_WIDTH, HIDDEN)
    #[weight("model.layers.{}.self_attn.q_proj.weight", rows = Q_WIDTH, cols = HIDDEN)]
    pub q: Matrix<Weight>,
    /// (KV_WIDTH, HIDDEN)
    #[weight("model.layers.{}.self_attn.k_proj.weight", rows = KV_WIDTH, cols = HIDDEN)]
    pub k: Matrix<Weight>,
    /// (KV_WIDTH, HIDDEN)
    #[weight("model.layers.{}.self_attn.v_proj.weight", rows = KV_WIDTH, cols = HIDDEN)]
    pub v: Matrix<Weight>,
    /// (HEAD_DIM)
    #[weight("model.layers.{}.self_attn.q_norm.weight", len = HEAD_DIM)]
    pub q_norm: Vec<f32>,
    /// (HEAD_DIM)
    #[weight("model.layers.{}.self_attn.k_norm.weight", len = HEAD_DIM)]
    pub k_norm: Vec<f32>,
    /// (HIDDEN, Q_WIDTH)
    #[weight("model.layers.{}.self_attn.o_proj.weight", rows = HIDDEN, cols = Q_WIDTH)]
    pub o: Matrix<Weight>,
    /// (HIDDEN)
    #[weight("model.layers.{}.post_attention_layernorm.weight", len = HIDDEN)]
    pub mlp_norm: Vec<f32>,
    /// (INTERMEDIATE, HIDDEN)
    #[weight("model.layers.{}.mlp.gate_proj.weight", rows = INTERMEDIATE, cols = HIDDEN)]
    pub gate: Matrix<Weight>,
    /// (INTERMEDIATE, HIDDEN)
    #[weight("model.layers.{}.mlp.up_proj.weight", rows = INTERMEDIATE, cols = HIDDEN)]
    pub up: Matrix<Weight>,
    /// (HIDDEN, INTERMEDIATE)
    #[weight("model.layers.{}.mlp.down_proj.weight", rows = HIDDEN, cols = INTERMEDIATE)]
    pub down: Matrix<Weight>,
}

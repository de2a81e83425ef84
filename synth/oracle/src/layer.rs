//! One decoder layer: attention, then the gated feed-forward layer, each normalised before and added to what came in.

use crate::OracleError;
use crate::attention::{self, Cache};
use crate::config::Config;
use crate::linear::Linear;
use crate::rope;
use crate::rounding::Rounding;
use crate::weights::Weights;

/// The weights of one decoder layer.
pub struct Layer {
    attention_norm: Vec<f32>,
    query: Linear,
    key: Linear,
    value: Linear,
    /// Per-head norms of queries and keys (Qwen3).
    query_key_norm: Option<(Vec<f32>, Vec<f32>)>,
    output: Linear,
    feed_forward_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    /// Reads layer `layer_idx`, its matrices rounded as `rounding` says.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape.
    pub fn read(
        config: &Config,
        weights: &Weights,
        layer_idx: usize,
        rounding: &dyn Rounding,
    ) -> Result<Layer, OracleError> {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let (query_width, kv_width) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        let vector =
            |name: &str, len| weights.vector(&format!("model.layers.{layer_idx}.{name}.weight"), len);
        let linear = |name: &str, n_out, n_in, with_bias| {
            let name = format!("model.layers.{layer_idx}.{name}");
            let weight = weights.matrix(&format!("{name}.weight"), [n_out, n_in], rounding)?;
            let bias = if with_bias { Some(weights.vector(&format!("{name}.bias"), n_out)?) } else { None };
            Ok(Linear::new(weight, bias, n_in))
        };
        let head = config.head_dim;
        Ok(Layer {
            attention_norm: vector("input_layernorm", hidden)?,
            query: linear("self_attn.q_proj", query_width, hidden, config.qkv_bias)?,
            key: linear("self_attn.k_proj", kv_width, hidden, config.qkv_bias)?,
            value: linear("self_attn.v_proj", kv_width, hidden, config.qkv_bias)?,
            query_key_norm: match config.qk_norm {
                true => Some((vector("self_attn.q_norm", head)?, vector("self_attn.k_norm", head)?)),
                false => None,
            },
            output: linear("self_attn.o_proj", hidden, query_width, false)?,
            feed_forward_norm: vector("post_attention_layernorm", hidden)?,
            gate: linear("mlp.gate_proj", intermediate, hidden, false)?,
            up: linear("mlp.up_proj", intermediate, hidden, false)?,
            down: linear("mlp.down_proj", hidden, intermediate, false)?,
        })
    }

    /// Passes `x` (`n`, hidden), whose first row is at position `first`, through the layer, and remembers its keys and
    /// values in `cache`.
    pub fn apply(
        &self,
        config: &Config,
        rounding: &dyn Rounding,
        x: &mut [f32],
        first: usize,
        frequencies: &[f32],
        cache: &mut Cache,
    ) {
        let mut normed = rms_norm(x, &self.attention_norm, config.norm_eps);
        rounding.layer_input(&mut normed, config.hidden);
        let (mut queries, mut keys) = (self.query.apply(&normed), self.key.apply(&normed));
        if let Some((query_norm, key_norm)) = &self.query_key_norm {
            queries = rms_norm(&queries, query_norm, config.norm_eps);
            keys = rms_norm(&keys, key_norm, config.norm_eps);
        }
        rotate_rows(&mut queries, config.n_heads, config.head_dim, first, frequencies);
        rotate_rows(&mut keys, config.n_kv_heads, config.head_dim, first, frequencies);
        let mut values = self.value.apply(&normed);
        rounding.attention(&mut queries);
        for heads in [&mut keys, &mut values] {
            rounding.kept(heads, config.head_dim);
        }
        cache.keys.extend(keys);
        cache.values.extend(values);
        let mut attended = attention::attend(config, rounding, &queries, first, cache);
        rounding.layer_input(&mut attended, config.n_heads * config.head_dim);
        add(x, &self.output.apply(&attended));

        let mut normed = rms_norm(x, &self.feed_forward_norm, config.norm_eps);
        rounding.layer_input(&mut normed, config.hidden);
        let (gate, up) = (self.gate.apply(&normed), self.up.apply(&normed));
        let mut gated: Vec<f32> = gate.iter().zip(&up).map(|(gate, up)| silu(*gate) * up).collect();
        rounding.layer_input(&mut gated, config.intermediate);
        add(x, &self.down.apply(&gated));
    }
}

/// Rotates every head of every row; row `i` is at position `first + i`.
fn rotate_rows(rows: &mut [f32], n_heads: usize, head_dim: usize, first: usize, frequencies: &[f32]) {
    for (i, row) in rows.chunks_mut(n_heads * head_dim).enumerate() {
        row.chunks_mut(head_dim).for_each(|head| rope::rotate(head, first + i, frequencies));
    }
}

/// Each row of `weight.len()` elements over its root mean square, times `weight`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks(weight.len()) {
        let mean_square = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
        let scale = 1.0 / (mean_square + eps).sqrt();
        out.extend(row.iter().zip(weight).map(|(x, weight)| weight * (x * scale)));
    }
    out
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

//! Which tensors a GGUF file holds, and how a checkpoint's bytes become theirs.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use half::bf16;
use synth::model::{Family, Llama3Scaling, Model, TensorFact};

use super::GgufError;
use crate::checkpoint::load;

/// Most elements converted at a time.
const BAND: usize = 1 << 20;

/// Number format of a tensor in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// IEEE single precision.
    F32,
    /// The upper half of it.
    Bf16,
}

impl Stored {
    /// ggml's code of the type.
    pub(super) fn code(self) -> u32 {
        match self {
            Stored::F32 => 0,
            Stored::Bf16 => 30,
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Stored::F32 => 4,
            Stored::Bf16 => 2,
        }
    }
}

/// One tensor of the file.
pub(super) struct Tensor<'a> {
    pub(super) name: String,
    /// Sizes, outermost first.
    pub(super) shape: Vec<usize>,
    pub(super) format: Stored,
    source: Source<'a>,
}

enum Source<'a> {
    Checkpoint {
        path: PathBuf,
        fact: &'a TensorFact,
        /// Rows of one head whose halves are interleaved on the way; see [`interleaved`].
        head: Option<usize>,
    },
    Computed(Vec<f32>),
}

/// The tensors of a model, in the order of its layers.
pub(super) fn of(model: &Model, matrices: Stored) -> Result<Vec<Tensor<'_>>, GgufError> {
    let stored: BTreeMap<&str, (&str, &TensorFact)> = model
        .weights
        .iter()
        .flat_map(|shard| shard.tensors.iter().map(|fact| (fact.name.as_str(), (shard.name.as_str(), fact))))
        .collect();
    // llama.cpp rotates Llama's heads in neighbouring pairs, Qwen's in halves as Hugging Face does.
    let rotated = matches!(model.family, Family::Llama | Family::Mistral).then_some(model.dims.head_dim);
    let tensor = |name: String, checkpoint: String, head: Option<usize>| -> Result<Tensor<'_>, GgufError> {
        let Some((file, fact)) = stored.get(checkpoint.as_str()) else {
            return Err(GgufError::Missing { folder: model.folder.clone(), name: checkpoint });
        };
        let format = if fact.shape.len() > 1 { matrices } else { Stored::F32 };
        let source = Source::Checkpoint { path: model.folder.join(file), fact, head };
        Ok(Tensor { name, shape: fact.shape.clone(), format, source })
    };

    let mut tensors = vec![tensor("token_embd.weight".into(), "model.embed_tokens.weight".into(), None)?];
    if let Some(scaling) = &model.rope.scaling {
        let factors = rope_factors(model.rope.theta, model.dims.head_dim, scaling);
        tensors.push(Tensor {
            name: "rope_freqs.weight".into(),
            shape: vec![factors.len()],
            format: Stored::F32,
            source: Source::Computed(factors),
        });
    }
    for layer in 0..model.dims.layers {
        for (ours, theirs, head) in parts(model, rotated) {
            tensors.push(tensor(
                format!("blk.{layer}.{ours}"),
                format!("model.layers.{layer}.{theirs}"),
                head,
            )?);
        }
    }
    tensors.push(tensor("output_norm.weight".into(), "model.norm.weight".into(), None)?);
    if !model.tied {
        tensors.push(tensor("output.weight".into(), "lm_head.weight".into(), None)?);
    }
    Ok(tensors)
}

/// The names of one layer's tensors here and in the checkpoint, with the head width of those to interleave.
fn parts(model: &Model, rotated: Option<usize>) -> Vec<(&'static str, &'static str, Option<usize>)> {
    let mut parts = vec![
        ("attn_norm.weight", "input_layernorm.weight", None),
        ("attn_q.weight", "self_attn.q_proj.weight", rotated),
        ("attn_k.weight", "self_attn.k_proj.weight", rotated),
        ("attn_v.weight", "self_attn.v_proj.weight", None),
        ("attn_output.weight", "self_attn.o_proj.weight", None),
        ("ffn_norm.weight", "post_attention_layernorm.weight", None),
        ("ffn_gate.weight", "mlp.gate_proj.weight", None),
        ("ffn_up.weight", "mlp.up_proj.weight", None),
        ("ffn_down.weight", "mlp.down_proj.weight", None),
    ];
    if model.qkv_bias {
        parts.push(("attn_q.bias", "self_attn.q_proj.bias", rotated));
        parts.push(("attn_k.bias", "self_attn.k_proj.bias", rotated));
        parts.push(("attn_v.bias", "self_attn.v_proj.bias", None));
    }
    if model.qk_norm {
        parts.push(("attn_q_norm.weight", "self_attn.q_norm.weight", None));
        parts.push(("attn_k_norm.weight", "self_attn.k_norm.weight", None));
    }
    parts
}

/// What llama.cpp divides each rotation frequency by, for the `llama3` scaling.
pub(super) fn rope_factors(theta: f64, head_dim: usize, scaling: &Llama3Scaling) -> Vec<f32> {
    let original = scaling.original_context as f64;
    let factor = |pair: usize| {
        let wavelength = 2.0 * PI * theta.powf(2.0 * pair as f64 / head_dim as f64);
        if wavelength < original / scaling.high_freq_factor {
            1.0
        } else if wavelength > original / scaling.low_freq_factor {
            scaling.factor
        } else {
            let smooth = (original / wavelength - scaling.low_freq_factor)
                / (scaling.high_freq_factor - scaling.low_freq_factor);
            1.0 / ((1.0 - smooth) / scaling.factor + smooth)
        }
    };
    (0..head_dim / 2).map(|pair| factor(pair) as f32).collect()
}

/// The row of the checkpoint that becomes row `row`: a head's rows `i` and `i + head / 2`, which rotate together,
/// become neighbours `2i` and `2i + 1`.
pub(super) fn interleaved(row: usize, head: usize) -> usize {
    let (first, within) = (row - row % head, row % head);
    first + within / 2 + (within % 2) * (head / 2)
}

impl Tensor<'_> {
    /// Bytes of the data, without padding.
    pub(super) fn bytes(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product::<u64>() * self.format.bytes()
    }

    /// Writes the data; `failed` makes the error of a failed write.
    pub(super) fn write(
        &self,
        out: &mut dyn Write,
        failed: &dyn Fn(io::Error) -> GgufError,
    ) -> Result<(), GgufError> {
        match &self.source {
            Source::Computed(values) => self.encode(values, out).map_err(failed),
            Source::Checkpoint { path, fact, head } => {
                let read = |source| GgufError::Read { path: path.clone(), source };
                let file = File::open(path).map_err(read)?;
                let n_columns: usize = fact.shape.iter().skip(1).product();
                let n_rows = fact.shape.first().copied().unwrap_or(1);
                // Bands of whole heads, so that a permuted row is always in the band that needs it.
                let unit = head.unwrap_or(1);
                let band = (BAND / n_columns.max(1)).next_multiple_of(unit).max(unit);
                for first in (0..n_rows).step_by(band) {
                    let rows = first..n_rows.min(first + band);
                    let values =
                        load(&file, fact, rows.start * n_columns..rows.end * n_columns).map_err(read)?;
                    let values = match head {
                        None => values,
                        Some(head) => (0..rows.len())
                            .flat_map(|row| {
                                let from = interleaved(row, *head) * n_columns;
                                values[from..from + n_columns].iter().copied()
                            })
                            .collect(),
                    };
                    self.encode(&values, out).map_err(failed)?;
                }
                Ok(())
            }
        }
    }

    fn encode(&self, values: &[f32], out: &mut dyn Write) -> io::Result<()> {
        let bytes: Vec<u8> = match self.format {
            Stored::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Stored::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        };
        out.write_all(&bytes)
    }
}

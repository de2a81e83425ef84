//! Seeded random weights, streamed into one safetensors file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use half::bf16;
use serde_json::{Map, Value, json};
use synth::model::Family;
use synth::workload::Precision;

use super::Shape;
use crate::random::Random;

/// Elements made and written at a time.
const BAND: usize = 1 << 16;

/// One tensor to make.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Values,
}

/// What its elements are.
#[derive(Clone, Copy)]
enum Values {
    /// All one: the weight of a norm.
    One,
    /// About normal, mean 0, with this standard deviation.
    Normal(f32),
}

/// Writes the weights of `shape`; the same bytes for the same arguments.
pub(super) fn write(
    shape: &Shape,
    seed: u64,
    precision: Precision,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<()> {
    let tensors = tensors(shape);
    let partial = path.with_extension("partial");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
    let (header, total) = header(&tensors, precision)?;
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut written = 0;
    let mut bytes = Vec::new();
    for (tensor_idx, tensor) in (0..).zip(&tensors) {
        // A sequence for each tensor, so that no tensor depends on the sizes of those before it.
        let mut random = Random::new(Random::new(seed ^ (tensor_idx << 32)).next_u64());
        let n_elements: usize = tensor.shape.iter().product();
        for first in (0..n_elements).step_by(BAND) {
            bytes.clear();
            for _ in first..n_elements.min(first + BAND) {
                let value = match tensor.values {
                    Values::One => 1.0,
                    Values::Normal(deviation) => bell(&mut random) * deviation,
                };
                match precision {
                    Precision::F32 => bytes.extend(value.to_le_bytes()),
                    Precision::Bf16 | Precision::Int8 | Precision::Int4 => {
                        bytes.extend(bf16::from_f32(value).to_le_bytes())
                    }
                }
            }
            out.write_all(&bytes)?;
            written += bytes.len() as u64;
            progress(written, total);
        }
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&partial, path)
}

/// About standard normal: the sum of four uniform numbers, which costs one draw and has no tail to explode.
fn bell(random: &mut Random) -> f32 {
    /// √3: four uniforms on ±½ have a variance of ⅓ together.
    const SCALE: f32 = 1.732_050_8;
    let word = random.next_u64();
    let sum: u64 = (0..4).map(|quarter| (word >> (16 * quarter)) & 0xffff).sum();
    (sum as f32 / 65_535.0 - 2.0) * SCALE
}

/// Every tensor of the checkpoint, in order.
fn tensors(shape: &Shape) -> Vec<Tensor> {
    let Shape { hidden, layers, heads, kv_heads, head_dim, intermediate, vocab, .. } = *shape;
    let norm = |name: String, width| Tensor { name, shape: vec![width], values: Values::One };
    // Keeps the variance of what goes in.
    let linear = |name: String, rows: usize, columns: usize| {
        let values = Values::Normal(1.0 / (columns as f32).sqrt());
        Tensor { name, shape: vec![rows, columns], values }
    };
    // Two of these a layer add to the residual stream; together they add about its own variance.
    let residual = |name: String, columns: usize| {
        let values = Values::Normal(1.0 / (columns as f32 * 2.0 * layers as f32).sqrt());
        Tensor { name, shape: vec![hidden, columns], values }
    };
    // Logits of a few units: neither a flat distribution nor a single certain token.
    let embedding = |name: &str| {
        let values = Values::Normal(2.0 / (hidden as f32).sqrt());
        Tensor { name: name.to_owned(), shape: vec![vocab, hidden], values }
    };

    let mut tensors = vec![embedding("model.embed_tokens.weight")];
    for layer in 0..layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        tensors.extend([
            norm(name("input_layernorm.weight"), hidden),
            linear(name("self_attn.q_proj.weight"), heads * head_dim, hidden),
            linear(name("self_attn.k_proj.weight"), kv_heads * head_dim, hidden),
            linear(name("self_attn.v_proj.weight"), kv_heads * head_dim, hidden),
            residual(name("self_attn.o_proj.weight"), heads * head_dim),
            norm(name("post_attention_layernorm.weight"), hidden),
            linear(name("mlp.gate_proj.weight"), intermediate, hidden),
            linear(name("mlp.up_proj.weight"), intermediate, hidden),
            residual(name("mlp.down_proj.weight"), intermediate),
        ]);
        match shape.family {
            Family::Qwen2 => {
                let rows = [("q_proj", heads), ("k_proj", kv_heads), ("v_proj", kv_heads)];
                tensors.extend(rows.map(|(part, n_heads)| Tensor {
                    name: name(&format!("self_attn.{part}.bias")),
                    shape: vec![n_heads * head_dim],
                    values: Values::Normal(0.1),
                }));
            }
            Family::Qwen3 => {
                tensors.push(norm(name("self_attn.q_norm.weight"), head_dim));
                tensors.push(norm(name("self_attn.k_norm.weight"), head_dim));
            }
            Family::Llama | Family::Mistral => {}
        }
    }
    tensors.push(norm("model.norm.weight".to_owned(), hidden));
    if !shape.tied {
        tensors.push(embedding("lm_head.weight"));
    }
    tensors
}

/// The header, padded to eight bytes, and the length of the data.
fn header(tensors: &[Tensor], precision: Precision) -> io::Result<(Vec<u8>, u64)> {
    let (dtype, size) = match precision {
        Precision::F32 => ("F32", 4),
        Precision::Bf16 | Precision::Int8 | Precision::Int4 => ("BF16", 2),
    };
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.shape.iter().map(|size| *size as u64).product::<u64>() * size;
        let entry = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end] });
        entries.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&Value::Object(entries))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok((header, offset))
}

//! A model folder with its matrices rounded to whole numbers, in the `compressed-tensors` format that vLLM reads.
//!
//! Rounding is to the nearest, without a look at any data: 8 bits with a scale for each output channel, for activations
//! that are rounded per token as they come; or 4 bits with a scale for each group of inputs. Embedding, head and vectors
//! stay as they are, as the format's own tools leave them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use half::bf16;
use serde_json::{Map, Value, json};
use synth::model::{Dtype, Model, TensorFact};

use super::ReferenceError;
use crate::checkpoint::load;

/// The groups to choose from: the usual one first, then the least that vLLM's kernels on a CPU take.
const GROUPS: [usize; 2] = [128, 32];

/// Most elements rounded at a time.
const BAND: usize = 1 << 20;

/// How matrices are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// 8 bits, a scale for each output.
    Int8,
    /// 4 bits, a scale for each so many inputs of each output.
    Int4 { group: usize },
}

impl Scheme {
    /// The scheme of 4 bits for this model, none where a matrix has an odd width.
    pub(super) fn int4(model: &Model) -> Option<Self> {
        let mut widths = facts(model).filter(|(_, fact)| is_rounded(fact)).map(|(_, fact)| fact.shape[1]);
        let group = GROUPS.into_iter().find(|group| widths.clone().all(|width| width % group == 0))?;
        widths.next().map(|_| Scheme::Int4 { group })
    }

    /// What `config.json` says of it, in the format's words.
    fn config(self) -> Value {
        let (format, weights, activations) = match self {
            Scheme::Int8 => (
                "int-quantized",
                json!({ "num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel", "dynamic": false }),
                json!({ "num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true }),
            ),
            Scheme::Int4 { group } => (
                "pack-quantized",
                json!({
                    "num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": group,
                    "dynamic": false,
                }),
                Value::Null,
            ),
        };
        json!({
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "format": format,
            "ignore": ["lm_head"],
            "config_groups": {
                "group_0": { "targets": ["Linear"], "weights": weights, "input_activations": activations },
            },
        })
    }

    /// The tensors that a matrix becomes: what is added to its name, kind, shape.
    fn parts(self, shape: &[usize]) -> Vec<(&'static str, &'static str, Vec<usize>)> {
        let (rows, columns) = (shape[0], shape[1]);
        match self {
            Scheme::Int8 => vec![("", "I8", vec![rows, columns]), ("_scale", "F32", vec![rows, 1])],
            Scheme::Int4 { group } => vec![
                ("_packed", "I32", vec![rows, columns / 8]),
                ("_scale", "BF16", vec![rows, columns / group]),
                ("_shape", "I64", vec![2]),
            ],
        }
    }
}

/// The matrices of the layers; nothing else is rounded.
fn is_rounded(fact: &TensorFact) -> bool {
    fact.shape.len() == 2 && fact.name.starts_with("model.layers.") && fact.name.ends_with("_proj.weight")
}

fn facts(model: &Model) -> impl Iterator<Item = (&str, &TensorFact)> + Clone {
    model.weights.iter().flat_map(|shard| shard.tensors.iter().map(|fact| (shard.name.as_str(), fact)))
}

/// Writes the folder `to`, which appears when it is complete. `progress` is told the tensors written so far, and in all.
///
/// # Errors
/// When the model cannot be read or the folder not be written.
pub(super) fn write(
    model: &Model,
    scheme: Scheme,
    to: &Path,
    progress: &dyn Fn(usize, usize),
) -> Result<(), ReferenceError> {
    let partial = to.with_extension("partial");
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| ReferenceError::File { path: path.clone(), source }
    };
    // What an interrupted run left.
    drop(fs::remove_dir_all(&partial));
    fs::create_dir_all(&partial).map_err(at(&partial))?;
    for entry in fs::read_dir(&model.folder).map_err(at(&model.folder))? {
        let path = entry.map_err(at(&model.folder))?.path();
        let is_text = path.extension().is_some_and(|it| it == "json" || it == "jinja" || it == "txt");
        let is_index = path.to_string_lossy().ends_with(".index.json");
        if let Some(name) = path.file_name().filter(|_| is_text && !is_index) {
            fs::copy(&path, partial.join(name)).map_err(at(&path))?;
        }
    }
    let config = partial.join("config.json");
    let text = fs::read_to_string(&config).map_err(at(&config))?;
    let mut json: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| at(&config)(error.into()))?;
    json.insert("quantization_config".to_owned(), scheme.config());
    fs::write(&config, format!("{:#}\n", Value::Object(json))).map_err(at(&config))?;

    let weights = partial.join("model.safetensors");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&weights).map_err(at(&weights))?);
    out.write_all(&header(model, scheme)).map_err(at(&weights))?;
    let n_tensors = facts(model).count();
    for (idx, (shard, fact)) in facts(model).enumerate() {
        let path: PathBuf = model.folder.join(shard);
        let file = File::open(&path).map_err(at(&path))?;
        tensor(&file, fact, scheme, &mut out).map_err(at(&weights))?;
        progress(idx + 1, n_tensors);
    }
    out.into_inner().map_err(|error| at(&weights)(error.into_error()))?.sync_all().map_err(at(&weights))?;
    fs::rename(&partial, to).map_err(at(to))
}

/// The head of the safetensors file: the length of the JSON, then the JSON, padded to eight bytes.
fn header(model: &Model, scheme: Scheme) -> Vec<u8> {
    let mut tensors = Map::new();
    let mut end = 0;
    let mut add = |name: String, kind: &str, shape: &[usize]| {
        let size = match kind {
            "I64" => 8,
            "I32" | "F32" => 4,
            "BF16" | "F16" => 2,
            _ => 1,
        };
        let begin = end;
        end += shape.iter().product::<usize>() * size;
        tensors.insert(name, json!({ "dtype": kind, "shape": shape, "data_offsets": [begin, end] }));
    };
    for (_, fact) in facts(model) {
        if is_rounded(fact) {
            for (suffix, kind, shape) in scheme.parts(&fact.shape) {
                add(format!("{}{suffix}", fact.name), kind, &shape);
            }
        } else {
            let kind = match fact.dtype {
                Dtype::F32 => "F32",
                Dtype::F16 => "F16",
                Dtype::Bf16 => "BF16",
            };
            add(fact.name.clone(), kind, &fact.shape);
        }
    }
    let mut text = Value::Object(tensors).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text);
    out
}

/// The bytes of one tensor of the checkpoint: rounded, in the order of [`Scheme::parts`], or as they are.
fn tensor(file: &File, fact: &TensorFact, scheme: Scheme, out: &mut dyn Write) -> io::Result<()> {
    let columns = fact.shape.iter().skip(1).product::<usize>().max(1);
    let rows = fact.shape.first().copied().unwrap_or(1);
    let mut scales = Vec::new();
    let band = (BAND / columns).max(1);
    for first in (0..rows).step_by(band) {
        let end = rows.min(first + band);
        let values = load(file, fact, first * columns..end * columns)?;
        let bytes: Vec<u8> = match (is_rounded(fact), scheme, fact.dtype) {
            (true, Scheme::Int8, _) => values
                .chunks(columns)
                .flat_map(|row| {
                    let (scale, numbers) = round(row, 8, |scale| scale);
                    scales.extend(scale.to_le_bytes());
                    numbers.into_iter().map(|number| number as u8)
                })
                .collect(),
            (true, Scheme::Int4 { group }, _) => values
                .chunks(group)
                .flat_map(|part| {
                    let (scale, numbers) = round(part, 4, |scale| bf16::from_f32(scale).to_f32());
                    scales.extend(bf16::from_f32(scale).to_le_bytes());
                    pack(&numbers)
                })
                .collect(),
            (false, _, Dtype::F32) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            (false, _, Dtype::F16) => {
                values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect()
            }
            (false, _, Dtype::Bf16) => {
                values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
            }
        };
        out.write_all(&bytes)?;
    }
    out.write_all(&scales)?;
    if is_rounded(fact) && matches!(scheme, Scheme::Int4 { .. }) {
        for size in &fact.shape {
            out.write_all(&(*size as u64).to_le_bytes())?;
        }
    }
    Ok(())
}

/// The scale of some weights, and each divided by it and rounded to `bits` bits with a sign. The largest lands half a step
/// beyond the positive end, as the format's own tools have it, so that both ends are used. `stored` is what becomes of
/// a scale when it is stored, since it is the stored one that weights are multiplied by.
fn round(values: &[f32], bits: u32, stored: impl Fn(f32) -> f32) -> (f32, Vec<i8>) {
    let half = f32::from(1_u8 << (bits - 1));
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = stored(largest / (half - 0.5));
    let number = |value: &f32| {
        if scale == 0.0 { 0 } else { (value / scale).round_ties_even().clamp(-half, half - 1.0) as i8 }
    };
    (scale, values.iter().map(number).collect())
}

/// Eight numbers of 4 bits to a word of 32, the first in the lowest bits, each with 8 added so that it has no sign.
fn pack(numbers: &[i8]) -> Vec<u8> {
    numbers
        .chunks(8)
        .flat_map(|eight| {
            let word =
                eight.iter().rev().fold(0_u32, |word, number| word << 4 | (i32::from(*number) + 8) as u32);
            word.to_le_bytes()
        })
        .collect()
}

#[cfg(test)]
mod tests;

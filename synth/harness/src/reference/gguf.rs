//! A model folder as one GGUF file, the format llama.cpp loads.
//!
//! The layout is GGUF version 3: a header, metadata, one record for each tensor, then the tensors' bytes, each begun
//! at a multiple of 32. Matrices are stored in the precision of the job, vectors always in f32, as llama.cpp wants
//! them. Nothing is held in memory but one band of rows.

mod layout;
mod tensors;
mod vocabulary;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use synth::model::{Family, Model};
use synth::workload::Precision;

use layout::{Metadata, Value};
use tensors::Tensor;

/// Why a model folder cannot become a GGUF file.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum GgufError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{}: {key}: {reason}", path.display())]
    Tokenizer { path: PathBuf, key: &'static str, reason: String },
    #[error("{}: tensor {name} is missing", folder.display())]
    Missing { folder: PathBuf, name: String },
}

/// Writes the model as GGUF to `path`. `progress` is told the bytes of weights written so far, and in all.
///
/// The file appears under its name only when it is complete.
///
/// # Errors
/// When the folder cannot be read, the tokenizer is of an unknown kind, or the file cannot be written.
pub fn convert(
    model: &Model,
    precision: Precision,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), GgufError> {
    let write = |source| GgufError::Write { path: path.to_owned(), source };
    let tensors = tensors::of(model, precision)?;
    let metadata = metadata(model, precision)?;

    let partial = path.with_extension("partial");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&partial).map_err(write)?);
    let header = layout::header(&metadata, &tensors);
    out.write_all(&header).map_err(write)?;
    let total = tensors.iter().map(Tensor::bytes).sum();
    let mut written = 0;
    for tensor in &tensors {
        tensor.write(&mut out, &write)?;
        written += tensor.bytes();
        out.write_all(&vec![0; layout::padding(tensor.bytes())]).map_err(write)?;
        progress(written, total);
    }
    out.into_inner().map_err(|error| write(error.into_error()))?.sync_all().map_err(write)?;
    std::fs::rename(&partial, path).map_err(write)
}

/// The architecture llama.cpp runs a family as. Mistral is Llama there, without a sliding window.
fn architecture(family: Family) -> &'static str {
    match family {
        Family::Llama | Family::Mistral => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
    }
}

fn metadata(model: &Model, precision: Precision) -> Result<Metadata, GgufError> {
    let dims = &model.dims;
    let architecture = architecture(model.family);
    let mut metadata = Metadata::default();
    metadata.push("general.architecture", Value::Text(architecture.to_owned()));
    // The codes of llama.cpp's file types: all f32, mostly bf16.
    let file_type = match precision {
        Precision::F32 => 0,
        Precision::Bf16 | Precision::Int8 | Precision::Int4 => 32,
    };
    metadata.push("general.file_type", Value::U32(file_type));
    for (key, count) in [
        ("vocab_size", dims.vocab),
        ("context_length", dims.context),
        ("embedding_length", dims.hidden),
        ("block_count", dims.layers),
        ("feed_forward_length", dims.intermediate),
        ("attention.head_count", dims.heads),
        ("attention.head_count_kv", dims.kv_heads),
        ("attention.key_length", dims.head_dim),
        ("attention.value_length", dims.head_dim),
        ("rope.dimension_count", dims.head_dim),
    ] {
        metadata.push(&format!("{architecture}.{key}"), Value::U32(count as u32));
    }
    metadata
        .push(&format!("{architecture}.attention.layer_norm_rms_epsilon"), Value::F32(model.norm_eps as f32));
    metadata.push(&format!("{architecture}.rope.freq_base"), Value::F32(model.rope.theta as f32));
    vocabulary::describe(model, &mut metadata)?;
    Ok(metadata)
}

#[cfg(test)]
mod tests;

//! Model folders of real shapes with random weights, for benches at real size where no trained model is at hand.
//!
//! The weights are a function of the shape and the seed alone: the same everywhere, every time. They are scaled so
//! that activations neither vanish nor explode, and answers are noise. Tokenizer, chat template and stop ids are those
//! of a small base folder, its vocabulary filled up to the shape's.

mod files;
mod weights;

use std::io;
use std::path::{Path, PathBuf};

use synth::model::{Family, Llama3Scaling, ModelErrors};
use synth::workload::Precision;

/// The sizes of a published model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// The name it is asked for by.
    pub name: &'static str,
    /// The family it belongs to.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Most positions.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub theta: f64,
    /// Their scaling.
    pub scaling: Option<Llama3Scaling>,
    /// The output head is the embedding.
    pub tied: bool,
}

/// Every shape that can be asked for.
pub const SHAPES: [Shape; 4] = [
    Shape {
        name: "llama-100m",
        family: Family::Llama,
        hidden: 768,
        layers: 12,
        heads: 12,
        kv_heads: 4,
        head_dim: 64,
        intermediate: 2048,
        vocab: 32_000,
        // More than such models had, so that it can stand in rows with long prompts.
        context: 16_384,
        theta: 10_000.0,
        scaling: None,
        tied: true,
    },
    Shape {
        name: "qwen2.5-0.5b",
        family: Family::Qwen2,
        hidden: 896,
        layers: 24,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        intermediate: 4864,
        vocab: 151_936,
        context: 32_768,
        theta: 1_000_000.0,
        scaling: None,
        tied: true,
    },
    Shape {
        name: "qwen3-0.6b",
        family: Family::Qwen3,
        hidden: 1024,
        layers: 28,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        intermediate: 3072,
        vocab: 151_936,
        context: 32_768,
        theta: 1_000_000.0,
        scaling: None,
        tied: true,
    },
    Shape {
        name: "llama3.2-1b",
        family: Family::Llama,
        hidden: 2048,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        intermediate: 8192,
        vocab: 128_256,
        context: 131_072,
        theta: 500_000.0,
        scaling: Some(Llama3Scaling {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        }),
        tied: true,
    },
];

/// Why no folder was made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum MakeError {
    #[error("there is no shape {name}; there are: {known}")]
    Unknown { name: String, known: String },
    #[error("the base folder is not usable: {0}")]
    Base(#[from] ModelErrors),
    #[error("{}: {reason}", path.display())]
    Tokenizer { path: PathBuf, reason: String },
    #[error("cannot use {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

/// The shape of that name.
///
/// # Errors
/// When there is none; the message lists those that there are.
pub fn shape(name: &str) -> Result<&'static Shape, MakeError> {
    SHAPES.iter().find(|shape| shape.name == name).ok_or_else(|| MakeError::Unknown {
        name: name.to_owned(),
        known: SHAPES.map(|shape| shape.name).join(", "),
    })
}

/// Writes a Hugging Face folder of this shape: configuration, weights in `precision`, tokenizer of the folder `base`.
/// `progress` is told the bytes of weights written so far, and in all.
///
/// # Errors
/// When the base is no model folder, its tokenizer is not BPE or larger than the shape's vocabulary, or the folder
/// cannot be written.
pub fn make(
    shape: &Shape,
    seed: u64,
    precision: Precision,
    base: &Path,
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), MakeError> {
    std::fs::create_dir_all(folder).map_err(|source| MakeError::File { path: folder.to_owned(), source })?;
    files::write(shape, precision, base, folder)?;
    let path = folder.join("model.safetensors");
    weights::write(shape, seed, precision, &path, progress).map_err(|source| MakeError::File { path, source })
}

#[cfg(test)]
mod tests;

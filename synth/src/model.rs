//! The model: facts of a Hugging Face folder that a plan and the templates read.
//!
//! Reading looks at configuration, tokenizer and the *headers* of the weight files; no weight is read.

mod chat;
mod checkpoint;
mod config;
mod digest;
mod errors;
mod header;
mod keys;
#[cfg(test)]
pub(crate) mod tests;
mod tokenizer;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Serialize;

pub use errors::{ModelError, ModelErrors};

/// A dense decoder, as its folder describes it; every count is checked and every product of them fits `u64`.
#[derive(Clone, Debug)]
pub struct Model {
    /// The folder it was read from.
    pub folder: PathBuf,
    /// The family its configuration names.
    pub family: Family,
    /// Sizes.
    pub dims: Dims,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Epsilon of every RMS norm.
    pub norm_eps: f64,
    /// Query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Query and key heads are RMS-normed before rotation.
    pub qk_norm: bool,
    /// A position sees only this many positions, itself included; `None` sees all before it.
    pub sliding_window: Option<usize>,
    /// The output head is the embedding matrix.
    pub tied: bool,
    /// Number format of the matrices on disk; `F32` where they differ, since it loses nothing.
    pub stored: Dtype,
    /// How a request is sampled that does not say otherwise.
    pub sampling: Sampling,
    /// Ids that end an answer, ascending.
    pub eos: Vec<u32>,
    /// Id that begins a text, where the model has one.
    pub bos: Option<u32>,
    /// The tokenizer configuration asks for `bos` before a text.
    pub add_bos: bool,
    /// Text of the `bos` token, for the chat template.
    pub bos_token: Option<String>,
    /// Text of the end-of-sequence token, for the chat template.
    pub eos_token: Option<String>,
    /// Jinja source that makes a conversation a prompt.
    pub chat_template: Option<String>,
    /// Weight files, by name.
    pub weights: Vec<ShardFile>,
    digests: OnceLock<Digests>,
}

/// How the model's makers sample it (`generation_config.json`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus; 1 keeps all.
    pub top_p: f64,
    /// Keep this many; `None` keeps all.
    pub top_k: Option<usize>,
    /// Keep tokens at least this share as likely as the likeliest; 0 keeps all.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of tokens that were there; 1 does nothing.
    pub repetition_penalty: f64,
}

impl Default for Sampling {
    /// OpenAI's defaults.
    fn default() -> Sampling {
        Sampling { temperature: 1.0, top_p: 1.0, top_k: None, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

/// The model families of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama, with `llama3` RoPE scaling or without.
    Llama,
    /// Qwen2 and Qwen2.5: biased query, key and value projections.
    Qwen2,
    /// Qwen3: normed query and key heads.
    Qwen3,
    /// Mistral: optional sliding window.
    Mistral,
}

/// Sizes of a dense decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Dims {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Most positions the model was made for.
    pub context: usize,
}

/// Rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Frequency scaling, `None` for plain RoPE.
    pub scaling: Option<Llama3Scaling>,
}

/// The `llama3` frequency scaling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Llama3Scaling {
    /// How much longer the context became.
    pub factor: f64,
    /// Wavelengths longer than `original_context / low_freq_factor` are stretched by `factor`.
    pub low_freq_factor: f64,
    /// Wavelengths shorter than `original_context / high_freq_factor` are kept.
    pub high_freq_factor: f64,
    /// Context before scaling, positions.
    pub original_context: usize,
}

/// Number format of a tensor on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

/// One safetensors file and what its header lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFile {
    /// Name inside the folder.
    pub name: String,
    /// Size, bytes.
    pub bytes: u64,
    /// Tensors in the order of their data.
    pub tensors: Vec<TensorFact>,
}

/// One tensor as a header lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFact {
    /// Checkpoint name.
    pub name: String,
    /// Number format.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// First byte of its data, from the start of the file.
    pub begin: u64,
    /// One past its last byte.
    pub end: u64,
}

/// sha256 (hex) of what decides a model's answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Digests {
    /// The weight files, one after the other, by name.
    pub weights: String,
    /// `tokenizer.json`.
    pub tokenizer: String,
    /// `config.json`.
    pub config: String,
}

impl Model {
    /// Reads a folder in Hugging Face format.
    ///
    /// Errors: everything in it that is wrong, missing or not in the catalogue, each with file, key and reason.
    pub fn read(folder: &Path) -> Result<Model, ModelErrors> {
        if !folder.is_dir() {
            return Err(ModelErrors(vec![keys::fault(
                folder,
                "is no folder; expected a model in Hugging Face format",
            )]));
        }
        let mut errors = Vec::new();
        let mut config = keep(&mut errors, config::read(folder));
        let mut shards = keep(&mut errors, checkpoint::read(folder));
        if let (Some(config), Some(shards)) = (&config, &shards) {
            errors.append(&mut checkpoint::check(folder, config, shards));
        }
        let vocab = config.as_ref().map(|config| config.dims.vocab);
        errors.extend(tokenizer::check(folder, vocab).err());
        let mut chat = keep(&mut errors, chat::read(folder));
        match (config.take(), shards.take(), chat.take()) {
            (Some(config), Some(shards), Some(chat)) if errors.is_empty() => {
                Ok(Model::new(folder, config, shards, chat))
            }
            _ => Err(ModelErrors(errors)),
        }
    }

    /// sha256 of weights, tokenizer and configuration; the files are read at the first call.
    ///
    /// Errors: a file that can no longer be read.
    pub fn digests(&self) -> Result<&Digests, ModelErrors> {
        if let Some(digests) = self.digests.get() {
            return Ok(digests);
        }
        let digests = digest::digests(self).map_err(|error| ModelErrors(vec![error]))?;
        Ok(self.digests.get_or_init(|| digests))
    }

    /// Weights in matrices, the embedding counted once where the head is tied to it.
    pub fn n_matrix_weights(&self) -> u64 {
        let dims = &self.dims;
        let attention = 2 * (dims.query_rows() + dims.kv_rows()) * dims.hidden;
        let feed_forward = 3 * dims.intermediate * dims.hidden;
        let n_tables = if self.tied { 1 } else { 2 };
        (dims.layers * (attention + feed_forward) + n_tables * dims.vocab * dims.hidden) as u64
    }

    /// Weights in vectors: norms and biases.
    pub fn n_vector_weights(&self) -> u64 {
        let dims = &self.dims;
        let biases = if self.qkv_bias { dims.query_rows() + 2 * dims.kv_rows() } else { 0 };
        let head_norms = if self.qk_norm { 2 * dims.head_dim } else { 0 };
        (dims.layers * (2 * dims.hidden + biases + head_norms) + dims.hidden) as u64
    }

    fn new(folder: &Path, config: config::Config, shards: Vec<ShardFile>, chat: chat::Chat) -> Model {
        Model {
            folder: folder.to_owned(),
            family: config.family,
            dims: config.dims,
            rope: config.rope,
            norm_eps: config.norm_eps,
            qkv_bias: config.family == Family::Qwen2,
            qk_norm: config.family == Family::Qwen3,
            sliding_window: config.sliding_window,
            tied: config.tied,
            stored: checkpoint::stored(&shards),
            sampling: config.sampling,
            eos: config.eos,
            bos: config.bos,
            add_bos: chat.add_bos,
            bos_token: chat.bos_token,
            eos_token: chat.eos_token,
            chat_template: chat.template,
            weights: shards,
            digests: OnceLock::new(),
        }
    }
}

/// The value, or `None` with its errors kept.
fn keep<T>(errors: &mut Vec<ModelError>, read: Result<T, Vec<ModelError>>) -> Option<T> {
    read.map_err(|mut found| errors.append(&mut found)).ok()
}

impl Family {
    /// `model_type` of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Mistral => "mistral",
        }
    }
}

impl Dtype {
    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// The spelling in safetensors headers.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
        }
    }
}

impl Dims {
    /// Query heads that share one key and value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Rows of the query projection.
    pub fn query_rows(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Rows of the key projection, and of the value projection.
    pub fn kv_rows(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

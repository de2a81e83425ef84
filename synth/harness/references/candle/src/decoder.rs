//! One sequence's model: shared weights, its own KV cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};

use crate::config::{self, Config};

/// A loaded model with an empty cache. Cloning shares the weights: candle's tensors are reference counted.
#[derive(Clone)]
pub enum Decoder {
    /// candle keeps Llama's cache apart from its weights.
    Llama(Arc<llama::Llama>, llama::Cache),
    /// The others hold both; a clone has its own cache.
    Qwen2(qwen2::ModelForCausalLM),
    /// As above.
    Qwen3(qwen3::ModelForCausalLM),
    /// As above.
    Mistral(mistral::Model),
}

impl Decoder {
    /// Loads a model folder, converting its weights to `dtype`.
    pub fn open(folder: &Path, dtype: DType, context: usize) -> Result<Self> {
        let facts = config::read(folder, dtype, context)?;
        let files = weight_files(folder)?;
        // SAFETY: the files are mapped for the time of loading only, and the harness that starts this process does
        // not write to a model folder that it races.
        let weights = unsafe { VarBuilder::from_mmaped_safetensors(&files, dtype, &Device::Cpu) }
            .with_context(|| format!("cannot load the weights of {}", folder.display()))?;
        // candle's mistral asks for a head of its own; in a tied checkpoint that is the embedding under its name.
        let weights = match (&facts.config, facts.tied) {
            (Config::Mistral(_), true) => weights.rename_f(|name| match name {
                "lm_head.weight" => "model.embed_tokens.weight".to_owned(),
                _ => name.to_owned(),
            }),
            _ => weights,
        };
        Ok(match &facts.config {
            Config::Llama(config) => Decoder::Llama(
                Arc::new(llama::Llama::load(weights, config)?),
                llama::Cache::new(true, dtype, config, &Device::Cpu)?,
            ),
            Config::Qwen2(config) => Decoder::Qwen2(qwen2::ModelForCausalLM::new(config, weights)?),
            Config::Qwen3(config) => Decoder::Qwen3(qwen3::ModelForCausalLM::new(config, weights)?),
            Config::Mistral(config) => Decoder::Mistral(mistral::Model::new(config, weights)?),
        })
    }

    /// Appends `ids` at `position` and returns the id with the highest logit after them, the lowest id among equals.
    pub fn step(&mut self, ids: &[u32], position: usize) -> Result<u32> {
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Decoder::Llama(model, cache) => model.forward(&ids, position, cache)?,
            Decoder::Qwen2(model) => model.forward(&ids, position)?,
            Decoder::Qwen3(model) => model.forward(&ids, position)?,
            Decoder::Mistral(model) => model.forward(&ids, position)?,
        };
        let logits = logits.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let mut best = (0, f32::NEG_INFINITY);
        for (id, logit) in (0..).zip(logits) {
            if logit > best.1 {
                best = (id, logit);
            }
        }
        Ok(best.0)
    }
}

/// Every `*.safetensors` file of the folder, in order of its name.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    anyhow::ensure!(!files.is_empty(), "{} holds no safetensors file", folder.display());
    files.sort();
    Ok(files)
}

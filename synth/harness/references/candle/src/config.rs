//! `config.json` in both spellings, as the structs that candle-transformers wants.
//!
//! Whatever candle computes differently from the model's definition is refused here by name, so that a race never
//! runs against a model that is not the one asked for.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::DType;
use candle_nn::Activation;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use serde_json::Value;

/// One of the four families, with candle's own configuration.
pub enum Config {
    /// Llama, plain or with `llama3` frequency scaling.
    Llama(llama::Config),
    /// Qwen2 and Qwen2.5.
    Qwen2(qwen2::Config),
    /// Qwen3.
    Qwen3(qwen3::Config),
    /// Mistral; also a Llama whose head width is not hidden / heads, which is the same arithmetic.
    Mistral(mistral::Config),
}

/// A model folder's configuration.
pub struct Facts {
    /// What candle builds.
    pub config: Config,
    /// The output head is the embedding matrix.
    pub tied: bool,
}

/// Reads `config.json` for sequences of at most `context` positions.
pub fn read(folder: &Path, dtype: DType, context: usize) -> Result<Facts> {
    let path = folder.join("config.json");
    let json = Json { value: parse(&path)?, place: path.display().to_string() };
    let rope = json.rope()?;
    let tied = json.flag("tie_word_embeddings");
    let plain = |family: &str| -> Result<()> {
        ensure!(rope.scaling.is_none(), "{}: candle's {family} has no rope scaling", json.place);
        Ok(())
    };
    let family = json.text("model_type")?;
    let config = match family {
        "llama" if json.head_dim()? * json.count("num_attention_heads")? == json.count("hidden_size")? => {
            ensure!(!json.flag("attention_bias"), "{}: candle's llama has no attention bias", json.place);
            Config::Llama(json.llama(rope, tied, context)?)
        }
        "llama" => {
            ensure!(!json.flag("attention_bias"), "{}: candle's llama has no attention bias", json.place);
            plain("llama with its own head width")?;
            Config::Mistral(json.mistral(rope, context)?)
        }
        "mistral" => {
            plain("mistral")?;
            if let Some(window) = json.optional("sliding_window")? {
                ensure!(
                    window >= context,
                    "{}: candle's mistral does not slide its window of {window} while it decodes; \
                     ask for a context of at most {window}",
                    json.place
                );
            }
            Config::Mistral(json.mistral(rope, context)?)
        }
        "qwen2" => {
            plain("qwen2")?;
            json.refuse_sliding("qwen2")?;
            ensure!(
                dtype == DType::F32,
                "{}: candle's qwen2 computes positions in bf16, which is wrong from position 257 on; use f32",
                json.place
            );
            ensure!(
                json.head_dim()? * json.count("num_attention_heads")? == json.count("hidden_size")?,
                "{}: candle's qwen2 has no head_dim of its own",
                json.place
            );
            Config::Qwen2(json.qwen2(rope, tied, context)?)
        }
        "qwen3" => {
            plain("qwen3")?;
            json.refuse_sliding("qwen3")?;
            ensure!(!json.flag("attention_bias"), "{}: biased qwen3 is not raced", json.place);
            Config::Qwen3(json.qwen3(rope, tied, context)?)
        }
        other => bail!("{}: model_type {other} is not one of llama, mistral, qwen2, qwen3", json.place),
    };
    Ok(Facts { config, tied })
}

/// The ids that end an answer: those of `generation_config.json`, else of `config.json`.
pub fn stop_ids(folder: &Path) -> Result<Vec<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let ids = match parse(&path)?.get("eos_token_id").cloned() {
            Some(Value::Array(ids)) => ids,
            Some(Value::Null) | None => continue,
            Some(id) => vec![id],
        };
        return ids
            .iter()
            .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
            .collect::<Option<_>>()
            .with_context(|| format!("{}: eos_token_id is no token id", path.display()));
    }
    Ok(Vec::new())
}

fn parse(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

struct Rope {
    theta: f64,
    scaling: Option<llama::Llama3RopeConfig>,
}

struct Json {
    value: Value,
    place: String,
}

impl Json {
    fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    fn flag(&self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn text(&self, key: &str) -> Result<&str> {
        self.get(key).and_then(Value::as_str).with_context(|| format!("{}: {key} is missing", self.place))
    }

    fn optional(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
        Ok(Some(count.with_context(|| format!("{}: {key} is not a positive count", self.place))?))
    }

    fn count(&self, key: &str) -> Result<usize> {
        self.optional(key)?.with_context(|| format!("{}: {key} is missing", self.place))
    }

    fn epsilon(&self) -> Result<f64> {
        let epsilon = self.get("rms_norm_eps").and_then(Value::as_f64);
        epsilon.with_context(|| format!("{}: rms_norm_eps is missing", self.place))
    }

    fn head_dim(&self) -> Result<usize> {
        let heads = self.count("num_attention_heads")?;
        Ok(self.optional("head_dim")?.unwrap_or(self.count("hidden_size")? / heads))
    }

    fn kv_heads(&self) -> Result<usize> {
        Ok(self.optional("num_key_value_heads")?.unwrap_or(self.count("num_attention_heads")?))
    }

    fn refuse_sliding(&self, family: &str) -> Result<()> {
        ensure!(!self.flag("use_sliding_window"), "{}: candle's {family} has no sliding window", self.place);
        Ok(())
    }

    /// `rope_parameters`, or `rope_theta` beside `rope_scaling`.
    fn rope(&self) -> Result<Rope> {
        let parameters = self.get("rope_parameters").or_else(|| self.get("rope_scaling"));
        let inside = |key: &str| parameters.and_then(|parameters| parameters.get(key));
        let theta = inside("rope_theta").or_else(|| self.get("rope_theta")).and_then(Value::as_f64);
        let kind =
            inside("rope_type").or_else(|| inside("type")).and_then(Value::as_str).unwrap_or("default");
        let number = |key: &str| -> Result<f32> {
            let number = inside(key).and_then(Value::as_f64);
            Ok(number.with_context(|| format!("{}: rope scaling lacks {key}", self.place))? as f32)
        };
        let scaling = match kind {
            "default" => None,
            "llama3" => Some(llama::Llama3RopeConfig {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: number("original_max_position_embeddings")? as usize,
                rope_type: llama::Llama3RopeType::Llama3,
            }),
            other => bail!("{}: rope type {other} is not supported by candle", self.place),
        };
        Ok(Rope { theta: theta.unwrap_or(10_000.0), scaling })
    }

    fn llama(&self, rope: Rope, tied: bool, context: usize) -> Result<llama::Config> {
        Ok(llama::Config {
            hidden_size: self.count("hidden_size")?,
            intermediate_size: self.count("intermediate_size")?,
            vocab_size: self.count("vocab_size")?,
            num_hidden_layers: self.count("num_hidden_layers")?,
            num_attention_heads: self.count("num_attention_heads")?,
            num_key_value_heads: self.kv_heads()?,
            use_flash_attn: false,
            rms_norm_eps: self.epsilon()?,
            rope_theta: rope.theta as f32,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: rope.scaling,
            max_position_embeddings: context,
            tie_word_embeddings: tied,
        })
    }

    fn mistral(&self, rope: Rope, context: usize) -> Result<mistral::Config> {
        Ok(mistral::Config {
            vocab_size: self.count("vocab_size")?,
            hidden_size: self.count("hidden_size")?,
            intermediate_size: self.count("intermediate_size")?,
            num_hidden_layers: self.count("num_hidden_layers")?,
            num_attention_heads: self.count("num_attention_heads")?,
            head_dim: Some(self.head_dim()?),
            num_key_value_heads: self.kv_heads()?,
            hidden_act: Activation::Silu,
            max_position_embeddings: context,
            rms_norm_eps: self.epsilon()?,
            rope_theta: rope.theta,
            sliding_window: None,
            use_flash_attn: false,
        })
    }

    fn qwen2(&self, rope: Rope, tied: bool, context: usize) -> Result<qwen2::Config> {
        Ok(qwen2::Config {
            vocab_size: self.count("vocab_size")?,
            hidden_size: self.count("hidden_size")?,
            intermediate_size: self.count("intermediate_size")?,
            num_hidden_layers: self.count("num_hidden_layers")?,
            num_attention_heads: self.count("num_attention_heads")?,
            num_key_value_heads: self.kv_heads()?,
            max_position_embeddings: context,
            // candle masks by this width even where `use_sliding_window` is off; a context's width masks nothing.
            sliding_window: context,
            max_window_layers: 0,
            tie_word_embeddings: tied,
            rope_theta: rope.theta,
            rms_norm_eps: self.epsilon()?,
            use_sliding_window: false,
            hidden_act: Activation::Silu,
        })
    }

    fn qwen3(&self, rope: Rope, tied: bool, context: usize) -> Result<qwen3::Config> {
        Ok(qwen3::Config {
            vocab_size: self.count("vocab_size")?,
            hidden_size: self.count("hidden_size")?,
            intermediate_size: self.count("intermediate_size")?,
            num_hidden_layers: self.count("num_hidden_layers")?,
            num_attention_heads: self.count("num_attention_heads")?,
            // Qwen3's own default where the key is absent.
            head_dim: self.optional("head_dim")?.unwrap_or(128),
            attention_bias: false,
            num_key_value_heads: self.kv_heads()?,
            max_position_embeddings: context,
            sliding_window: None,
            max_window_layers: 0,
            tie_word_embeddings: tied,
            rope_theta: rope.theta,
            rms_norm_eps: self.epsilon()?,
            use_sliding_window: false,
            hidden_act: Activation::Silu,
        })
    }
}

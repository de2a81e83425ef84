//! `config.json`, in both spellings found in the wild, as the facts that the arithmetic needs.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::OracleError;

/// What a decoder model is: dimensions and the few switches that tell the families apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of decoder layers.
    pub n_layers: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// What RMS norm adds to the mean square.
    pub norm_eps: f32,
    /// Rotary positions.
    pub rope: Rope,
    /// Whether the query, key and value projections add a bias (Qwen2).
    pub qkv_bias: bool,
    /// Whether queries and keys are normalised per head (Qwen3).
    pub qk_norm: bool,
    /// How many positions, its own included, a query sees (Mistral). `None` is all of them.
    pub sliding_window: Option<usize>,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Llama 3's stretch of the long wavelengths.
    pub scaling: Option<Llama3>,
}

/// Parameters of the `llama3` rotary scaling.
#[derive(Debug, Clone, PartialEq)]
pub struct Llama3 {
    /// By how much long wavelengths are stretched.
    pub factor: f64,
    /// Wavelengths above `original_context / low_freq_factor` are stretched in full.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_context / high_freq_factor` are kept.
    pub high_freq_factor: f64,
    /// Context length that the model was first trained with.
    pub original_context: f64,
}

impl Config {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// When the file is missing or malformed, and when it asks for anything this oracle does not compute.
    pub fn read(folder: &Path) -> Result<Config, OracleError> {
        let file = folder.join("config.json");
        let text = std::fs::read(&file).map_err(|source| OracleError::Read { file: file.clone(), source })?;
        let root = serde_json::from_slice(&text)
            .map_err(|source| OracleError::Json { file: file.clone(), source })?;
        Keys { file, prefix: String::new(), root }.config()
    }
}

/// One JSON object and where it lies, so that every complaint can name its key.
struct Keys {
    file: PathBuf,
    prefix: String,
    root: Value,
}

impl Keys {
    fn config(&self) -> Result<Config, OracleError> {
        let family = self.string("model_type")?.unwrap_or_default();
        let (qkv_bias, qk_norm) = match family.as_str() {
            "llama" | "mistral" => (false, false),
            "qwen2" => (true, false),
            "qwen3" => (false, true),
            _ => return Err(self.error("model_type", "expected llama, qwen2, qwen3 or mistral")),
        };
        self.refuse_what_is_not_computed(&family)?;
        let (hidden, n_heads) =
            (self.required_count("hidden_size")?, self.required_count("num_attention_heads")?);
        let n_kv_heads = self.count("num_key_value_heads")?.unwrap_or(n_heads);
        if n_heads % n_kv_heads != 0 {
            return Err(self.error("num_key_value_heads", "expected a divisor of num_attention_heads"));
        }
        let head_dim = self.count("head_dim")?.unwrap_or(hidden / n_heads);
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(self.error("head_dim", "expected an even number above zero"));
        }
        Ok(Config {
            hidden,
            n_layers: self.required_count("num_hidden_layers")?,
            n_heads,
            n_kv_heads,
            head_dim,
            intermediate: self.required_count("intermediate_size")?,
            vocab: self.required_count("vocab_size")?,
            norm_eps: self.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope: self.rope()?,
            qkv_bias,
            qk_norm,
            sliding_window: if family == "mistral" { self.count("sliding_window")? } else { None },
            tied: self.flag("tie_word_embeddings")?.unwrap_or(false),
        })
    }

    fn refuse_what_is_not_computed(&self, family: &str) -> Result<(), OracleError> {
        let activation = self.string("hidden_act")?;
        if activation.is_some_and(|name| name != "silu") {
            return Err(self.error("hidden_act", "only silu is computed"));
        }
        for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
            // Qwen2's attention bias is part of the family and has no key; elsewhere these change the arithmetic.
            if self.flag(key)?.unwrap_or(false) {
                return Err(self.error(key, &format!("true is not computed for {family}")));
            }
        }
        if self.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(self.error("partial_rotary_factor", "only 1.0 is computed"));
        }
        Ok(())
    }

    /// `rope_parameters` (newer) or `rope_theta` beside `rope_scaling` (older).
    fn rope(&self) -> Result<Rope, OracleError> {
        let nested = match self.object("rope_parameters")? {
            Some(keys) => Some(keys),
            None => self.object("rope_scaling")?,
        };
        let nested_theta = nested.as_ref().map_or(Ok(None), |keys| keys.number("rope_theta"))?;
        let theta = nested_theta.or(self.number("rope_theta")?).unwrap_or(10_000.0);
        Ok(Rope { theta, scaling: nested.map_or(Ok(None), |keys| keys.scaling())? })
    }

    fn scaling(&self) -> Result<Option<Llama3>, OracleError> {
        let kind = self.string("rope_type")?.or(self.string("type")?);
        match kind.as_deref() {
            None | Some("default") => Ok(None),
            Some("llama3") => Ok(Some(Llama3 {
                factor: self.required_number("factor")?,
                low_freq_factor: self.required_number("low_freq_factor")?,
                high_freq_factor: self.required_number("high_freq_factor")?,
                original_context: self.required_number("original_max_position_embeddings")?,
            })),
            Some(_) => Err(self.error("rope_type", "only default and llama3 are computed")),
        }
    }

    /// The value of a key; `null` is the same as absent.
    fn value(&self, key: &str) -> Option<&Value> {
        self.root.get(key).filter(|value| !value.is_null())
    }

    /// The value of a key as `read` understands it; present but not understood is an error.
    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, OracleError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => {
                read(value).map(Some).ok_or_else(|| self.error(key, &format!("expected {expected}")))
            }
        }
    }

    fn count(&self, key: &str) -> Result<Option<usize>, OracleError> {
        self.typed(key, "a whole number from 1 to 2^31", |value| {
            value.as_u64().filter(|count| (1..1 << 31).contains(count)).map(|count| count as usize)
        })
    }

    fn number(&self, key: &str) -> Result<Option<f64>, OracleError> {
        self.typed(key, "a positive number", |value| value.as_f64().filter(|number| *number > 0.0))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, OracleError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn string(&self, key: &str) -> Result<Option<String>, OracleError> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    fn object(&self, key: &str) -> Result<Option<Keys>, OracleError> {
        let root = self.typed(key, "an object", |value| value.is_object().then(|| value.clone()))?;
        Ok(root.map(|root| Keys { file: self.file.clone(), prefix: format!("{}{key}.", self.prefix), root }))
    }

    fn required_count(&self, key: &str) -> Result<usize, OracleError> {
        self.count(key)?.ok_or_else(|| self.error(key, "missing"))
    }

    fn required_number(&self, key: &str) -> Result<f64, OracleError> {
        self.number(key)?.ok_or_else(|| self.error(key, "missing"))
    }

    fn error(&self, key: &str, why: &str) -> OracleError {
        OracleError::Config {
            file: self.file.clone(),
            key: format!("{}{key}", self.prefix),
            why: why.to_owned(),
        }
    }
}

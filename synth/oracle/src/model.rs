//! The whole model, and one sequence passing through it.

use std::path::Path;

use crate::OracleError;
use crate::attention::Cache;
use crate::config::Config;
use crate::layer::{Layer, rms_norm};
use crate::linear::Linear;
use crate::probability::argmax;
use crate::rope;
use crate::rounding::{Exact, Rounding};
use crate::weights::Weights;

/// A model folder, read into memory as f32.
pub struct Oracle {
    config: Config,
    embedding: Linear,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// The output head, where it is not the embedding.
    head: Option<Linear>,
    frequencies: Vec<f32>,
    rounding: Box<dyn Rounding>,
}

impl Oracle {
    /// Reads `config.json` and the weights of a model folder in Hugging Face format.
    ///
    /// # Errors
    /// When a file is missing or malformed, a tensor is not what the config promises, or the model is none that is
    /// computed here.
    pub fn open(folder: &Path) -> Result<Oracle, OracleError> {
        Oracle::open_rounded(folder, Box::new(Exact))
    }

    /// Reads a model folder as a server with fewer bits would hold it, and rounds where that server rounds.
    ///
    /// # Errors
    /// As [`Oracle::open`].
    pub fn open_rounded(folder: &Path, rounding: Box<dyn Rounding>) -> Result<Oracle, OracleError> {
        let config = Config::read(folder)?;
        let weights = Weights::open(folder)?;
        let table = |name: &str| {
            let weight = weights.matrix(name, [config.vocab, config.hidden], &*rounding)?;
            Ok(Linear::new(weight, None, config.hidden))
        };
        let layers =
            (0..config.n_layers).map(|layer_idx| Layer::read(&config, &weights, layer_idx, &*rounding));
        Ok(Oracle {
            embedding: table("model.embed_tokens.weight")?,
            layers: layers.collect::<Result<_, _>>()?,
            norm: weights.vector("model.norm.weight", config.hidden)?,
            head: if config.tied { None } else { Some(table("lm_head.weight")?) },
            frequencies: rope::frequencies(&config.rope, config.head_dim),
            config,
            rounding,
        })
    }

    /// What the model is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Floating-point operations of one token through every matrix: two per weight that is multiplied.
    pub fn flops_per_token(&self) -> u64 {
        let c = &self.config;
        let attention = c.hidden * c.head_dim * (2 * c.n_heads + 2 * c.n_kv_heads);
        let feed_forward = 3 * c.hidden * c.intermediate;
        2 * (c.n_layers * (attention + feed_forward) + c.vocab * c.hidden) as u64
    }

    /// Begins an empty sequence.
    pub fn session(&self) -> Session<'_> {
        Session { oracle: self, caches: self.layers.iter().map(|_| Cache::default()).collect(), n_tokens: 0 }
    }

    /// `n` greedy tokens after `prompt`, each with the logits it was taken from. Ties go to the lowest id.
    ///
    /// # Errors
    /// When the prompt is empty or holds a token outside the vocabulary.
    pub fn greedy(&self, prompt: &[u32], n: usize) -> Result<Vec<(u32, Vec<f32>)>, OracleError> {
        let mut session = self.session();
        let mut logits = session.extend_last(prompt)?;
        let mut steps: Vec<(u32, Vec<f32>)> = Vec::with_capacity(n);
        while steps.len() < n {
            let token = argmax(&logits);
            steps.push((token, logits));
            if steps.len() == n {
                break;
            }
            logits = session.push(token)?;
        }
        Ok(steps)
    }
}

/// One sequence: the tokens so far live on as the keys and values of each layer.
pub struct Session<'a> {
    oracle: &'a Oracle,
    caches: Vec<Cache>,
    n_tokens: usize,
}

impl Session<'_> {
    /// Appends one token and returns the logits (`vocab`) of what follows it.
    ///
    /// # Errors
    /// When the token is outside the vocabulary.
    pub fn push(&mut self, token: u32) -> Result<Vec<f32>, OracleError> {
        self.extend_last(&[token])
    }

    /// Appends tokens and returns the logits after each of them.
    ///
    /// # Errors
    /// When there is no token or one is outside the vocabulary; the sequence is then unchanged.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, OracleError> {
        let x = self.pass(tokens)?;
        Ok(self.logits(&x).chunks(self.oracle.config.vocab).map(<[f32]>::to_vec).collect())
    }

    /// Appends tokens and returns the logits after the last of them.
    ///
    /// # Errors
    /// As [`Session::extend`].
    pub fn extend_last(&mut self, tokens: &[u32]) -> Result<Vec<f32>, OracleError> {
        let x = self.pass(tokens)?;
        Ok(self.logits(&x[x.len() - self.oracle.config.hidden..]))
    }

    /// Number of tokens so far.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Embeds the tokens and passes them through every layer: (`n`, hidden).
    fn pass(&mut self, tokens: &[u32]) -> Result<Vec<f32>, OracleError> {
        let oracle = self.oracle;
        let vocab = oracle.config.vocab;
        if tokens.is_empty() {
            return Err(OracleError::Empty);
        }
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab) {
            return Err(OracleError::Token { token, vocab });
        }
        let mut x: Vec<f32> =
            tokens.iter().flat_map(|token| oracle.embedding.row(*token as usize)).copied().collect();
        for (layer, cache) in oracle.layers.iter().zip(&mut self.caches) {
            layer.apply(&oracle.config, &*oracle.rounding, &mut x, self.n_tokens, &oracle.frequencies, cache);
        }
        self.n_tokens += tokens.len();
        Ok(x)
    }

    fn logits(&self, x: &[f32]) -> Vec<f32> {
        let mut normed = rms_norm(x, &self.oracle.norm, self.oracle.config.norm_eps);
        self.oracle.rounding.head_input(&mut normed, self.oracle.config.hidden);
        self.oracle.head.as_ref().unwrap_or(&self.oracle.embedding).apply(&normed)
    }
}

//! What can be wrong with a model folder or a request to the oracle.

use std::path::PathBuf;

/// Why the oracle cannot answer. Every message names the file and the place in it.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// A file of the model folder cannot be read.
    #[error("{file}: cannot be read: {source}", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A JSON file is not JSON.
    #[error("{file}: not valid JSON: {source}", file = file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A key of `config.json` is missing, of the wrong kind, or asks for something the oracle does not compute.
    #[error("{file}: {key}: {why}", file = file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What was expected.
        why: String,
    },
    /// A weight file, its index or one of its tensors is not what the config promises.
    #[error("{file}: {tensor}: {why}", file = file.display())]
    Weights {
        /// The file.
        file: PathBuf,
        /// The tensor, or the part of the file.
        tensor: String,
        /// What was expected.
        why: String,
    },
    /// A token id that the embedding has no row for.
    #[error("token {token} is outside the vocabulary of {vocab} tokens")]
    Token {
        /// The id that was given.
        token: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// A pass over no token has no logits.
    #[error("no token was given, at least one is needed")]
    Empty,
}

//! sha256 of the files that decide a model's answers.

use std::io::Read;
use std::path::PathBuf;

use crate::hex;
use sha2::{Digest, Sha256};

use super::keys::{fault, open};
use super::{Digests, Model, ModelError};

/// Large enough that hashing, not reading, is what takes time.
const BUFFER_BYTES: usize = 4 << 20;

/// Reads every file once.
pub(super) fn digests(model: &Model) -> Result<Digests, ModelError> {
    let weights = model.weights.iter().map(|shard| model.folder.join(&shard.name));
    Ok(Digests {
        weights: digest(weights)?,
        tokenizer: digest([model.folder.join("tokenizer.json")])?,
        config: digest([model.folder.join("config.json")])?,
    })
}

/// The digest of the files, one after the other.
fn digest(files: impl IntoIterator<Item = PathBuf>) -> Result<String, ModelError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    for file in files {
        let (mut opened, _) = open(&file)?;
        loop {
            let n_read =
                opened.read(&mut buffer).map_err(|error| fault(&file, format!("cannot be read: {error}")))?;
            if n_read == 0 {
                break;
            }
            hash.update(&buffer[..n_read]);
        }
    }
    Ok(hex(&hash.finalize()))
}

//! What is wrong with a model folder, or not supported: file, key, reason and cure.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong with a model folder, at its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}{message}", file.display(), Prefix(key))]
pub struct ModelError {
    /// The file.
    pub file: PathBuf,
    /// Dotted key or tensor name inside it, empty for the file as a whole.
    pub key: String,
    /// The reason, and the cure.
    pub message: String,
}

/// Everything that is wrong with a model folder; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelErrors(pub Vec<ModelError>);

impl std::error::Error for ModelErrors {}

impl fmt::Display for ModelErrors {
    /// One error per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, error) in self.0.iter().enumerate() {
            if idx > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

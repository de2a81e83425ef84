//! The only door to `serde_yaml`, which is archived: exchange it here.

use std::{fs::File, io, path::Path};

use serde::{
    Serialize,
    de::{DeserializeOwned, DeserializeSeed},
};

/// Longest document that is read, bytes.
pub(crate) const MAX_BYTES: usize = 64 << 10;
/// Most `[` and `{` in one document: the scanner's time grows with the square of their nesting.
pub(crate) const MAX_BRACKETS: usize = 1024;

/// Opens a regular file: a pipe or a device could make reading wait for ever.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a file, found something else"));
    }
    File::open(path)
}

/// Whether a text can be scanned in bounded time.
pub(crate) fn has_few_brackets(text: &str) -> bool {
    text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() <= MAX_BRACKETS
}

/// Reads one document. The error is `line:column: what was expected`.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_yaml::from_str(text).map_err(|error| {
        let at =
            error.location().map_or_else(|| "1:1".to_owned(), |at| format!("{}:{}", at.line(), at.column()));
        format!("{at}: {error}")
    })
}

/// Writes one document.
///
/// # Panics
/// If the value holds what YAML has not, such as a map keyed by maps. Plans hold strings, numbers and maps keyed
/// by strings.
pub(crate) fn write<T: Serialize>(value: &T) -> String {
    serde_yaml::to_string(value).expect("strings, numbers and maps keyed by strings can always be written")
}

/// Why a document could not be read.
#[derive(Debug)]
pub(crate) struct Misread {
    /// Line and column, from 1, where the reader knows them.
    pub place: Option<(usize, usize)>,
    /// What was expected there.
    pub message: String,
}

/// Reads one document as `seed` says. A seed's own error gets the place of the value that it read.
pub(crate) fn read_with<'de, S: DeserializeSeed<'de>>(seed: S, text: &'de str) -> Result<S::Value, Misread> {
    seed.deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        let place = error.location().map(|at| (at.line(), at.column()));
        // The place is told apart from the message, so it need not stand in both.
        let told = place.map_or(String::new(), |(line, column)| format!(" at line {line} column {column}"));
        let message = error.to_string();
        Misread { place, message: if told.is_empty() { message } else { message.replace(&told, "") } }
    })
}

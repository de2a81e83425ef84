//! The only door to `serde_yaml`, which is archived: exchange it here.

use serde::{
    Serialize,
    de::{DeserializeOwned, DeserializeSeed},
};

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

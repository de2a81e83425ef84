//! The files of a model folder, read within bounds, and the keys of a JSON object, each misfit collected.

use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::ModelError;
use crate::workload::Bytes;

/// Longest configuration file that is read, bytes.
pub(super) const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// A JSON object and what is wrong with it so far. Keys are dotted; `null` counts as absent.
pub(super) struct Keys {
    file: PathBuf,
    root: Map<String, Value>,
    pub errors: Vec<ModelError>,
}

/// An error about `file` as a whole.
pub(super) fn fault(file: &Path, message: impl Into<String>) -> ModelError {
    ModelError { file: file.to_owned(), key: String::new(), message: message.into() }
}

/// Opens a regular file: a pipe or a device could make reading wait for ever.
pub(super) fn open(file: &Path) -> Result<(File, u64), ModelError> {
    let about = std::fs::metadata(file).map_err(|error| fault(file, format!("cannot be read: {error}")))?;
    if !about.is_file() {
        return Err(fault(file, "expected a file, found something else"));
    }
    let opened = File::open(file).map_err(|error| fault(file, format!("cannot be read: {error}")))?;
    Ok((opened, about.len()))
}

/// The text of a file of at most `max_bytes`.
pub(super) fn read_text(file: &Path, max_bytes: u64) -> Result<String, ModelError> {
    let (opened, n_bytes) = open(file)?;
    if n_bytes > max_bytes {
        return Err(fault(file, format!("expected at most {}, found {n_bytes} bytes", Bytes(max_bytes))));
    }
    let mut bytes = Vec::new();
    opened
        .take(max_bytes)
        .read_to_end(&mut bytes)
        .map_err(|error| fault(file, format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        fault(file, format!("expected UTF-8, found another byte at offset {at}; fetch the file again"))
    })
}

/// Whether something lies at `file`, a broken link included.
pub(super) fn exists(file: &Path) -> bool {
    file.symlink_metadata().is_ok()
}

impl Keys {
    /// Reads a JSON object of at most [`MAX_CONFIG_BYTES`].
    pub fn read(file: PathBuf) -> Result<Keys, ModelError> {
        let text = read_text(&file, MAX_CONFIG_BYTES)?;
        match serde_json::from_str(&text) {
            Ok(Value::Object(root)) => Ok(Keys { file, root, errors: Vec::new() }),
            Ok(_) => Err(fault(&file, "expected a JSON object")),
            Err(error) => Err(fault(&file, format!("is not JSON: {error}"))),
        }
    }

    /// As [`Keys::read`]; an absent file is an empty object.
    pub fn read_optional(file: PathBuf) -> Result<Keys, ModelError> {
        if exists(&file) { Keys::read(file) } else { Ok(Keys { file, root: Map::new(), errors: Vec::new() }) }
    }

    /// The value at a dotted key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let mut names = key.split('.');
        let first = self.root.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name)).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it `null`.
    pub fn mentions(&self, key: &str) -> bool {
        self.root.contains_key(key)
    }

    /// Notes that the value at `key` will not do.
    pub fn refuse(&mut self, key: &str, message: impl Into<String>) {
        self.errors.push(ModelError {
            file: self.file.clone(),
            key: key.to_owned(),
            message: message.into(),
        });
    }

    /// A whole number within `range`; absent is `None` without an error.
    pub fn count(&mut self, key: &str, range: RangeInclusive<usize>) -> Option<usize> {
        let value = self.get(key)?;
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        let found = number.filter(|number| range.contains(number));
        if found.is_none() {
            let message = format!(
                "expected a whole number from {} to {}, found {}",
                range.start(),
                range.end(),
                shown(value)
            );
            self.refuse(key, message);
        }
        found
    }

    /// As [`Keys::count`]; absent is an error.
    pub fn need_count(&mut self, key: &str, range: RangeInclusive<usize>) -> Option<usize> {
        if self.get(key).is_none() {
            self.refuse(
                key,
                format!("is missing, expected a whole number from {} to {}", range.start(), range.end()),
            );
        }
        self.count(key, range)
    }

    /// A number above zero that f32 holds, since that is what computes with it; absent is `None` without an error.
    pub fn positive(&mut self, key: &str) -> Option<f64> {
        let value = self.get(key)?;
        let found = value.as_f64().filter(|number| *number > 0.0 && (*number as f32).is_normal());
        if found.is_none() {
            let message = format!("expected a number above zero that f32 can hold, found {}", shown(value));
            self.refuse(key, message);
        }
        found
    }

    /// A number within `range`; absent is `None` without an error.
    pub fn number(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.get(key)?;
        let found = value.as_f64().filter(|number| range.contains(number));
        if found.is_none() {
            let message = format!(
                "expected a number from {} to {}, found {}",
                range.start(),
                range.end(),
                shown(value)
            );
            self.refuse(key, message);
        }
        found
    }

    /// A truth value; absent is false.
    pub fn flag(&mut self, key: &str) -> bool {
        match self.get(key) {
            None => false,
            Some(Value::Bool(value)) => *value,
            Some(other) => {
                let message = format!("expected true or false, found {}", shown(other));
                self.refuse(key, message);
                false
            }
        }
    }

    /// A text; absent is `None` without an error.
    pub fn text(&mut self, key: &str) -> Option<String> {
        match self.get(key)? {
            Value::String(text) => Some(text.clone()),
            other => {
                let message = format!("expected text, found {}", shown(other));
                self.refuse(key, message);
                None
            }
        }
    }

    /// One token id or a list of them, each below `n_ids`, ascending without repeats; absent is `None`.
    pub fn ids(&mut self, key: &str, n_ids: usize) -> Option<Vec<u32>> {
        let value = self.get(key)?;
        let one = std::slice::from_ref(value);
        let values = value.as_array().map_or(one, Vec::as_slice);
        let id = |value: &Value| {
            value.as_u64().filter(|id| *id < n_ids as u64).and_then(|id| u32::try_from(id).ok())
        };
        match values.iter().map(id).collect::<Option<Vec<u32>>>() {
            Some(mut ids) if ids.len() <= 1024 => {
                ids.sort_unstable();
                ids.dedup();
                Some(ids)
            }
            _ => {
                let message = format!("expected token ids below vocab_size, {n_ids}, found {}", shown(value));
                self.refuse(key, message);
                None
            }
        }
    }
}

/// A value for a message, cut where it is long.
pub(super) fn shown(value: &Value) -> String {
    let text = match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(values) if values.len() > 8 => format!("a list of {}", values.len()),
        other => other.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

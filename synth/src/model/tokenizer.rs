//! `tokenizer.json`: a byte-pair encoding whose ids the model knows.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ModelError;
use super::header::printable;
use super::keys::{fault, read_text};

/// Longest tokenizer that is read, bytes; the largest published ones have a third of it.
const MAX_BYTES: u64 = 64 << 20;

/// The least that is needed, so that a large file costs little memory.
#[derive(Deserialize)]
struct TokenizerFile {
    model: BpeModel,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct BpeModel {
    /// Absent in files of the first years, which were all of one type.
    #[serde(default, rename = "type")]
    kind: Option<String>,
    vocab: Vocab,
    #[serde(default)]
    merges: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
    content: String,
}

/// How many entries, and the one with the greatest id. A vocabulary of another type of tokenizer is a list.
enum Vocab {
    Map { n_entries: usize, last: Option<(String, u64)> },
    List,
}

/// Checks `tokenizer.json` of `folder`; `vocab` is the number of ids that the model knows.
pub(super) fn check(folder: &Path, vocab: Option<usize>) -> Result<(), ModelError> {
    let file = folder.join("tokenizer.json");
    let text = read_text(&file, MAX_BYTES)?;
    let at = |key: &str, message: String| ModelError { file: file.clone(), key: key.to_owned(), message };
    let parsed: TokenizerFile =
        serde_json::from_str(&text).map_err(|error| fault(&file, format!("is not a tokenizer: {error}")))?;
    match parsed.model.kind.as_deref() {
        Some("BPE") => {}
        None if parsed.model.merges.is_some() => {}
        None => return Err(at("model.type", "is missing, expected `BPE`".to_owned())),
        Some(other) => {
            return Err(at(
                "model.type",
                format!("`{}` is not in the catalogue, which has `BPE`", printable(other)),
            ));
        }
    }
    let Vocab::Map { n_entries, last } = parsed.model.vocab else {
        return Err(at("model.vocab", "expected a map from texts to ids, found a list".to_owned()));
    };
    if n_entries == 0 {
        return Err(at("model.vocab", "expected at least one entry".to_owned()));
    }
    let added = parsed.added_tokens.into_iter().map(|token| ("added_tokens", token.content, token.id));
    let entries = last.into_iter().map(|(content, id)| ("model.vocab", content, id));
    match added.chain(entries).max_by_key(|(_, _, id)| *id) {
        Some((key, content, id)) if vocab.is_some_and(|vocab| id >= vocab as u64) => {
            let n_ids = vocab.unwrap_or_default();
            Err(at(
                key,
                format!("`{}` has id {id}, but vocab_size of config.json is {n_ids}", printable(&content)),
            ))
        }
        _ => Ok(()),
    }
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vocab, D::Error> {
        deserializer.deserialize_any(VocabVisitor)
    }
}

struct VocabVisitor;

impl<'de> Visitor<'de> for VocabVisitor {
    type Value = Vocab;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
        let (mut n_entries, mut last) = (0, None::<(String, u64)>);
        while let Some((content, id)) = map.next_entry::<String, u64>()? {
            n_entries += 1;
            if last.as_ref().is_none_or(|(_, greatest)| id > *greatest) {
                last = Some((content, id));
            }
        }
        Ok(Vocab::Map { n_entries, last })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocab, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Vocab::List)
    }

    fn visit_unit<E: Error>(self) -> Result<Vocab, E> {
        Ok(Vocab::List)
    }
}

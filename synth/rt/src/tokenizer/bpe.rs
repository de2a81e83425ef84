//! Byte-pair encoding over [`Tables`], as the `tokenizers` crate does it over hash maps of strings: the same tokens for
//! every text, which the tests of this folder hold against that crate.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tokenizers::{Model, Result, Token, models::bpe::BpeTrainer};

use super::tables::Tables;

/// How a text becomes tokens that is not in the vocabulary as it stands.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Rules {
    /// Stands for a character that is in no other token.
    unk_token: Option<String>,
    /// Whether several of them in a row are one.
    #[serde(default)]
    fuse_unk: bool,
    /// Whether the bytes of such a character have tokens.
    #[serde(default)]
    byte_fallback: bool,
    /// Whether a word that is a token is never merged from its characters.
    #[serde(default)]
    ignore_merges: bool,
}

/// The model of a tokenizer.
pub struct Bpe {
    pub tables: Tables,
    pub rules: Rules,
}

/// A part of a word: its id, its length in bytes, and the parts beside it.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that may become one: the lowest rank first, then the leftmost.
type Candidate = Reverse<(u32, usize, u32)>;

impl Bpe {
    /// The characters of a word, each as a token or as the tokens of its bytes. What is no token is left out where there
    /// is none for the unknown.
    fn split(&self, word: &str) -> Result<Vec<(u32, usize)>> {
        let mut parts = Vec::with_capacity(word.len());
        // What is unknown waits for what follows it, which may be unknown too.
        let mut unknown: Option<(u32, usize)> = None;
        for (at, char) in word.char_indices() {
            let text = &word[at..at + char.len_utf8()];
            if let Some(id) = self.tables.id(text) {
                parts.extend(unknown.take());
                parts.push((id, text.len()));
                continue;
            }
            if self.rules.byte_fallback {
                let bytes: Option<Vec<u32>> =
                    text.bytes().map(|it| self.tables.id(&format!("<{it:#04X}>"))).collect();
                if let Some(bytes) = bytes {
                    parts.extend(bytes.into_iter().map(|id| (id, 1)));
                    continue;
                }
            }
            let Some(name) = &self.rules.unk_token else { continue };
            let id = self.tables.id(name).ok_or("the token for the unknown is not in the vocabulary")?;
            unknown = match unknown {
                Some((_, len)) if self.rules.fuse_unk => Some((id, len + text.len())),
                before => {
                    parts.extend(before);
                    Some((id, text.len()))
                }
            };
        }
        parts.extend(unknown);
        Ok(parts)
    }

    /// Merges neighbours until no pair of them is in the table.
    fn merge(&self, parts: &[(u32, usize)]) -> Vec<(u32, usize)> {
        let last = parts.len().wrapping_sub(1);
        let symbol = |(idx, (id, len)): (usize, &(u32, usize))| Symbol {
            id: *id,
            len: *len,
            previous: idx.checked_sub(1),
            next: (idx != last).then_some(idx + 1),
        };
        let mut symbols: Vec<Symbol> = parts.iter().enumerate().map(symbol).collect();
        let mut queue: BinaryHeap<Candidate> = BinaryHeap::with_capacity(symbols.len());
        queue.extend((0..last.min(symbols.len())).filter_map(|idx| self.candidate(&symbols, idx)));
        while let Some(Reverse((_, idx, merged))) = queue.pop() {
            // It may have been merged with another meanwhile, or its neighbour may.
            let left = symbols[idx];
            let Some(next) = left.next.filter(|_| left.len > 0) else { continue };
            let right = symbols[next];
            if self.tables.merge(left.id, right.id).is_none_or(|(_, id)| id != merged) {
                continue;
            }
            symbols[idx] = Symbol { id: merged, len: left.len + right.len, next: right.next, ..left };
            symbols[next].len = 0;
            if let Some(after) = right.next {
                symbols[after].previous = Some(idx);
            }
            queue.extend(left.previous.and_then(|before| self.candidate(&symbols, before)));
            queue.extend(self.candidate(&symbols, idx));
        }
        symbols.into_iter().filter(|symbol| symbol.len > 0).map(|symbol| (symbol.id, symbol.len)).collect()
    }

    /// The merge of a part with the next one.
    fn candidate(&self, symbols: &[Symbol], idx: usize) -> Option<Candidate> {
        let right = symbols[symbols[idx].next?];
        let (rank, merged) = self.tables.merge(symbols[idx].id, right.id)?;
        Some(Reverse((rank, idx, merged)))
    }

    fn token(&self, id: u32, offsets: (usize, usize)) -> Token {
        Token::new(id, self.tables.text(id).unwrap_or_default().to_owned(), offsets)
    }
}

impl Model for Bpe {
    type Trainer = BpeTrainer;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        if self.rules.ignore_merges
            && let Some(id) = self.tables.id(word)
        {
            return Ok(vec![self.token(id, (0, word.len()))]);
        }
        let mut at = 0;
        let parts = self.merge(&self.split(word)?);
        let token = |(id, len): (u32, usize)| {
            at += len;
            self.token(id, (at - len, at))
        };
        Ok(parts.into_iter().map(token).collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tables.id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.tables.text(id).map(str::to_owned)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        let ids = 0..self.tables.n_ids() as u32;
        ids.filter_map(|id| Some((self.tables.text(id)?.to_owned(), id))).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.tables.n_tokens()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("tables are made from tokenizer.json, and never back".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

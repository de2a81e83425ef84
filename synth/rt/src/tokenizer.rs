//! Text to tokens and back: Hugging Face's tokenizer, and a decoder that works byte by byte.
//!
//! Encoding is the `tokenizers` crate's, so ids equal those of the model's own library. As there, the names of
//! special tokens *in a user's text* become special tokens: a chat message that spells `<|im_end|>` ends its
//! turn. Prompts must equal the reference's token by token, so this is kept, not filtered.
//!
//! Decoding looks each token's bytes up in a table made once, and turns bytes into text when they are whole
//! characters. So a stream can never show half a character, and its pieces always add up to [`Tokenizer::decode`].

use std::{
    fs, io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

/// A `tokenizer.json` is some megabytes; the largest published ones are below 64 MiB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file could not be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a tokenizer this library reads.
    #[error("{}: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A text that the tokenizer gave up on: one that drives its splitting expression over its step limit.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the text cannot be tokenized; break up long runs of one kind of character")]
pub struct EncodeError;

/// A tokenizer. Cloning is cheap.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    hub: tokenizers::Tokenizer,
    pieces: Vec<Piece>,
    lead: Lead,
}

/// One token's bytes.
struct Piece {
    bytes: Box<[u8]>,
    is_special: bool,
}

/// How the decoder of `tokenizer.json` spells tokens, and what it strips from the start of a text.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    /// Every byte is a printable character, as GPT-2 does it.
    ByteLevel,
    /// `▁` is a space and `<0x41>` a byte, as SentencePiece does it.
    Metaspace,
}

/// Spaces stripped from the start of a decoded text: the one that encoding put there.
#[derive(Clone, Copy, PartialEq)]
enum Lead {
    Keep,
    StripSpace,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn open(path: impl AsRef<Path>) -> Result<Tokenizer, TokenizerError> {
        let file = path.as_ref().to_owned();
        let io = |source| TokenizerError::Io { file: file.clone(), source };
        let size = fs::metadata(&file).map_err(io)?.len();
        if size > MAX_FILE_BYTES {
            let reason = format!("has {size} bytes, more than the {MAX_FILE_BYTES} a tokenizer may have");
            return Err(TokenizerError::Malformed { file, reason });
        }
        let bytes = fs::read(&file).map_err(io)?;
        Tokenizer::parse(&bytes, file)
    }

    /// Reads the bytes of a `tokenizer.json`; errors call it `file`.
    pub fn parse(bytes: &[u8], file: impl Into<PathBuf>) -> Result<Tokenizer, TokenizerError> {
        let file = file.into();
        let malformed = |reason: String| TokenizerError::Malformed { file: file.clone(), reason };
        // Some malformed files make the parser panic instead of failing.
        let parsed = panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes));
        let mut hub = match parsed {
            Ok(Ok(hub)) => hub,
            Ok(Err(error)) => return Err(malformed(format!("is not a tokenizer: {error}"))),
            Err(_) => return Err(malformed("is not a tokenizer".to_owned())),
        };
        // A prompt is refused when it is too long, never cut, and never padded.
        hub.with_padding(None);
        hub.with_truncation(None).map_err(|error| malformed(error.to_string()))?;
        let (spelling, lead) = read_decoder(&hub).map_err(malformed)?;
        let pieces = spell(&hub, spelling);
        Ok(Tokenizer(Arc::new(Inner { hub, pieces, lead })))
    }

    /// The tokens of `text`; with `add_special` also those the model expects around a text, such as a
    /// beginning-of-sequence token.
    ///
    /// Takes about a microsecond per three bytes of text; the caller bounds the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EncodeError> {
        // The library panics where its regular expressions exceed their limits.
        let encoded = panic::catch_unwind(AssertUnwindSafe(|| self.0.hub.encode_fast(text, add_special)));
        match encoded {
            Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
            Ok(Err(_)) | Err(_) => Err(EncodeError),
        }
    }

    /// The text of `ids` without special tokens. Bytes that are no character become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.stream();
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text += &stream.finish();
        text
    }

    /// The text of `ids`, special tokens spelled out.
    pub fn decode_with_special(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.piece(id)).copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        match self.0.lead {
            Lead::StripSpace => text.strip_prefix(' ').unwrap_or(&text).to_owned(),
            Lead::Keep => text.into_owned(),
        }
    }

    /// The bytes of one token: not always whole characters; none for an id that is not in the vocabulary.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.0.pieces.get(id as usize).map_or(&[], |piece| &piece.bytes)
    }

    /// Number of ids, added tokens included: one more than the largest.
    pub fn n_ids(&self) -> usize {
        self.0.pieces.len()
    }

    /// A decoder for a text of its own, such as a chat message: its pieces add up to [`Tokenizer::decode`].
    pub fn stream(&self) -> Stream {
        Stream { tokenizer: self.clone(), lead: self.0.lead, pending: Vec::new() }
    }

    /// A decoder for a text that continues another, whose leading space therefore belongs to it.
    pub fn continuation(&self) -> Stream {
        Stream { tokenizer: self.clone(), lead: Lead::Keep, pending: Vec::new() }
    }
}

/// Decodes tokens as they come.
pub struct Stream {
    tokenizer: Tokenizer,
    lead: Lead,
    /// The bytes of a character that is not whole yet: at most three.
    pending: Vec<u8>,
}

impl Stream {
    /// The characters that are whole now that `id` has come; special tokens have none.
    pub fn push(&mut self, id: u32) -> String {
        let Some(piece) = self.tokenizer.0.pieces.get(id as usize) else { return String::new() };
        if piece.is_special || piece.bytes.is_empty() {
            return String::new();
        }
        let mut bytes = &*piece.bytes;
        if std::mem::replace(&mut self.lead, Lead::Keep) == Lead::StripSpace {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        take_characters(&mut self.pending)
    }

    /// What is left when no more tokens come: U+FFFD if a character was never finished.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Takes all whole characters from `bytes`, and U+FFFD for what can never become one.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        match std::str::from_utf8(rest) {
            Ok(whole) => {
                text += whole;
                rest = &[];
            }
            Err(error) => {
                let (whole, broken) = rest.split_at(error.valid_up_to());
                text += &String::from_utf8_lossy(whole);
                rest = broken;
                let Some(n_wrong) = error.error_len() else { break };
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[n_wrong..];
            }
        }
    }
    let n_taken = bytes.len() - rest.len();
    bytes.drain(..n_taken);
    text
}

/// Reads the spelling from the decoder of `tokenizer.json`, or says which decoder is not known.
fn read_decoder(hub: &tokenizers::Tokenizer) -> Result<(Spelling, Lead), String> {
    let decoder = serde_json::to_value(hub.get_decoder()).map_err(|error| error.to_string())?;
    let steps = match decoder.get("decoders") {
        Some(Value::Array(steps)) => steps.clone(),
        _ => vec![decoder],
    };
    let (mut spelling, mut lead) = (None, Lead::Keep);
    for step in &steps {
        match step["type"].as_str() {
            Some("ByteLevel") => spelling = Some(Spelling::ByteLevel),
            Some("Metaspace") => {
                spelling = Some(Spelling::Metaspace);
                if step["prepend_scheme"] != "never" {
                    lead = Lead::StripSpace;
                }
            }
            Some("Replace") if step["pattern"]["String"] == "▁" && step["content"] == " " => {
                spelling = Some(Spelling::Metaspace);
            }
            Some("Strip") if step["content"] == " " && step["start"] == 1 && step["stop"] == 0 => {
                lead = Lead::StripSpace;
            }
            Some("ByteFallback" | "Fuse") => {}
            _ => {
                return Err(format!(
                    "decoder: expected ByteLevel, Metaspace or the steps of SentencePiece, found {step}"
                ));
            }
        }
    }
    let spelling = spelling
        .ok_or("decoder: none is given; expected ByteLevel, Metaspace or the steps of SentencePiece")?;
    Ok((spelling, lead))
}

/// The bytes of every token.
fn spell(hub: &tokenizers::Tokenizer, spelling: Spelling) -> Vec<Piece> {
    let n_ids = hub.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
    let added = hub.get_added_tokens_decoder();
    let byte_of = byte_level_alphabet();
    let piece = |id: u32| {
        if let Some(token) = added.get(&id).filter(|token| token.special) {
            return Piece { bytes: token.content.as_bytes().into(), is_special: true };
        }
        let token = hub.id_to_token(id).unwrap_or_default();
        let bytes = match spelling {
            Spelling::ByteLevel => {
                let spelled: Option<Vec<u8>> = token.chars().map(&byte_of).collect();
                // An added token need not be spelled in the alphabet; then it stands for itself.
                spelled.unwrap_or_else(|| token.into_bytes())
            }
            Spelling::Metaspace => match byte_token(&token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
        };
        Piece { bytes: bytes.into(), is_special: false }
    };
    (0..n_ids as u32).map(piece).collect()
}

/// The byte that a token like `<0x0A>` stands for.
fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>').filter(|hex| hex.len() == 2)?;
    u8::from_str_radix(hex, 16).ok()
}

/// GPT-2's alphabet: printable Latin-1 characters are themselves, the other bytes count up from U+0100.
fn byte_level_alphabet() -> impl Fn(char) -> Option<u8> {
    let is_printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let shifted: Vec<u8> = (0..=255).filter(|byte| !is_printable(byte)).collect();
    move |char| match u32::from(char) {
        code @ 0..=0xff => Some(code as u8).filter(is_printable),
        code => shifted.get(code as usize - 0x100).copied(),
    }
}

#[cfg(test)]
mod tests;

//! Text to tokens and back: Hugging Face's tokenizer over tables in the weight image, and a decoder that works byte by byte.
//!
//! Normalising, splitting and what stands around a text are the `tokenizers` crate's, and the encoding between them equals
//! it, so ids equal those of the model's own library. As there, the names of special tokens *in a user's text* become
//! special tokens: a chat message that spells `<|im_end|>` ends its turn. Prompts must equal the reference's token by
//! token, so this is kept, not filtered.
//!
//! Decoding turns bytes into text when they are whole characters. So a stream can never show half a character, and its
//! pieces always add up to [`Tokenizer::decode`].

use std::{
    fs, io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerImpl,
};

use crate::image::{Image, ImageError};

mod bpe;
mod tables;
use bpe::{Bpe, Rules};
use tables::{Tables, Vocabulary};

/// A `tokenizer.json` is some megabytes; the largest published ones are below 64 MiB.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Tables have a place for every id up to the largest; no published vocabulary has a hundredth of this.
const MAX_IDS: usize = 1 << 26;

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
    hub: Hub,
    spelling: Spelling,
    lead: Lead,
    alphabet: Alphabet,
    n_ids: usize,
}

/// The library's tokenizer, whose vocabulary lies in tables.
type Hub = TokenizerImpl<Bpe, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// What a tokenizer is made of beside its vocabulary.
#[derive(Deserialize)]
struct Rest {
    added_tokens: Vec<AddedToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    model: Rules,
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
        let tables = Tables::of_bytes(&pack(&path)?).ok_or_else(|| "has no whole tables".to_owned());
        let malformed = |reason| TokenizerError::Malformed { file: path.as_ref().to_owned(), reason };
        tables.and_then(Tokenizer::of_tables).map_err(malformed)
    }

    /// The tokenizer of an image, which [`pack`] made.
    ///
    /// # Errors
    /// When the image has none.
    pub fn of_image(image: &Image) -> Result<Tokenizer, ImageError> {
        let (map, bytes) = image.file("tokenizer")?;
        let tables = Tables::of_map(map, bytes).ok_or_else(|| "has no whole tables".to_owned());
        tables
            .and_then(Tokenizer::of_tables)
            .map_err(|reason| image.malformed(&format!("tokenizer: {reason}")))
    }

    fn of_tables(tables: Tables) -> Result<Tokenizer, String> {
        let error = |error: &dyn std::fmt::Display| format!("is not a tokenizer: {error}");
        // The parser of the library panics where some parts are malformed.
        let rest = panic::catch_unwind(|| serde_json::from_slice(tables.rest()));
        let rest: Rest = rest.map_err(|_| error(&"some part is malformed"))?.map_err(|it| error(&it))?;
        let (spelling, lead) = read_decoder(rest.decoder.as_ref())?;
        let mut n_ids = tables.n_ids();
        let mut hub = Hub::new(Bpe { tables, rules: rest.model });
        hub.with_normalizer(rest.normalizer).map_err(|it| error(&it))?;
        hub.with_pre_tokenizer(rest.pre_tokenizer);
        hub.with_post_processor(rest.post_processor);
        hub.with_decoder(rest.decoder);
        hub.add_tokens(rest.added_tokens).map_err(|it| error(&it))?;
        n_ids = hub.get_added_tokens_decoder().keys().map(|id| *id as usize + 1).fold(n_ids, usize::max);
        Ok(Tokenizer(Arc::new(Inner { hub, spelling, lead, alphabet: Alphabet::new(), n_ids })))
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
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.piece(id)).collect();
        let text = String::from_utf8_lossy(&bytes);
        match self.0.lead {
            Lead::StripSpace => text.strip_prefix(' ').unwrap_or(&text).to_owned(),
            Lead::Keep => text.into_owned(),
        }
    }

    /// The bytes of one token: not always whole characters; none for an id that is not in the vocabulary.
    pub fn piece(&self, id: u32) -> Vec<u8> {
        let Inner { hub, spelling, alphabet, .. } = &*self.0;
        if let Some(special) = self.special(id) {
            return special.content.clone().into_bytes();
        }
        let Some(token) = hub.id_to_token(id) else { return Vec::new() };
        match spelling {
            Spelling::ByteLevel => {
                let spelled: Option<Vec<u8>> = token.chars().map(|char| alphabet.byte(char)).collect();
                // An added token need not be spelled in the alphabet; then it stands for itself.
                spelled.unwrap_or_else(|| token.into_bytes())
            }
            Spelling::Metaspace => match byte_token(&token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
        }
    }

    /// The special token of this id, if it is one.
    fn special(&self, id: u32) -> Option<&AddedToken> {
        let added = self.0.hub.get_added_vocabulary().get_added_tokens_decoder();
        added.get(&id).filter(|token| token.special)
    }

    /// Number of ids, added tokens included: one more than the largest.
    pub fn n_ids(&self) -> usize {
        self.0.n_ids
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
        let piece = if self.tokenizer.special(id).is_some() { Vec::new() } else { self.tokenizer.piece(id) };
        if piece.is_empty() {
            return String::new();
        }
        let mut bytes = &*piece;
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
fn read_decoder(decoder: Option<&DecoderWrapper>) -> Result<(Spelling, Lead), String> {
    let decoder = serde_json::to_value(decoder).map_err(|error| error.to_string())?;
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

/// The tables of a `tokenizer.json`, as an image holds them for [`Tokenizer::of_image`]: what the library makes of the
/// file, so that nobody reads it in another way.
///
/// # Errors
/// When the file cannot be read, or is no byte-pair encoding that the tables can hold.
pub fn pack(path: impl AsRef<Path>) -> Result<Vec<u8>, TokenizerError> {
    let file = path.as_ref().to_owned();
    let io = |source| TokenizerError::Io { file: file.clone(), source };
    let malformed = |reason: String| TokenizerError::Malformed { file: file.clone(), reason };
    let size = fs::metadata(&file).map_err(io)?.len();
    if size > MAX_FILE_BYTES {
        return Err(malformed(format!(
            "has {size} bytes, more than the {MAX_FILE_BYTES} a tokenizer may have"
        )));
    }
    let bytes = fs::read(&file).map_err(io)?;
    // Some malformed files make the parser panic instead of failing.
    let hub = match panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes)) {
        Ok(Ok(hub)) => hub,
        Ok(Err(error)) => return Err(malformed(format!("is not a tokenizer: {error}"))),
        Err(_) => return Err(malformed("is not a tokenizer".to_owned())),
    };
    pack_hub(&hub).map_err(malformed)
}

fn pack_hub(hub: &tokenizers::Tokenizer) -> Result<Vec<u8>, String> {
    let ModelWrapper::BPE(bpe) = hub.get_model() else {
        return Err("model: expected a byte-pair encoding".to_owned());
    };
    if bpe.dropout.is_some_and(|dropout| dropout > 0.0) {
        return Err("model.dropout: a text must always become the same tokens; expected 0 or null".to_owned());
    }
    for (key, affix) in [
        ("continuing_subword_prefix", &bpe.continuing_subword_prefix),
        ("end_of_word_suffix", &bpe.end_of_word_suffix),
    ] {
        if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
            return Err(format!("model.{key}: no model of the catalogue has one; expected null"));
        }
    }
    let vocab = bpe.get_vocab();
    let mut rest = serde_json::to_value(hub).map_err(|error| error.to_string())?;
    let (_, merges) = (rest["model"]["vocab"].take(), rest["model"]["merges"].take());
    let merges: Vec<(String, String)> = serde_json::from_value(merges).map_err(|error| error.to_string())?;
    let id = |text: &str| vocab.get(text).copied();
    let merges =
        merges.iter().map(|(left, right)| Some((id(left)?, id(right)?, id(&format!("{left}{right}"))?)));
    let merges: Option<Vec<_>> = merges.collect();
    let mut tokens: Vec<_> = vocab.iter().map(|(text, id)| (*id, text.as_str())).collect();
    // The same tables each time, as an image is compared byte by byte.
    tokens.sort_unstable();
    // A vocabulary has as many ids as there are rows of an embedding, and some to spare.
    if tokens.iter().any(|(id, _)| *id as usize >= MAX_IDS) {
        return Err(format!("model.vocab: an id is {MAX_IDS} or more"));
    }
    Ok(Vocabulary {
        tokens: &tokens,
        merges: &merges.ok_or("model.merges: a merge is not in the vocabulary")?,
        rest: &rest.to_string(),
    }
    .pack())
}

/// The byte that a token like `<0x0A>` stands for.
fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>').filter(|hex| hex.len() == 2)?;
    u8::from_str_radix(hex, 16).ok()
}

/// GPT-2's alphabet: printable Latin-1 characters are themselves, the other bytes count up from U+0100.
struct Alphabet {
    shifted: Vec<u8>,
}

impl Alphabet {
    fn new() -> Self {
        Self { shifted: (0..=255).filter(|byte| !is_printable(*byte)).collect() }
    }

    /// The byte that a character stands for.
    fn byte(&self, char: char) -> Option<u8> {
        match u32::from(char) {
            code @ 0..=0xff => Some(code as u8).filter(|byte| is_printable(*byte)),
            code => self.shifted.get(code as usize - 0x100).copied(),
        }
    }
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

#[cfg(test)]
mod tests;

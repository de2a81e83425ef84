//! `tokenizer.json` as GGUF metadata.
//!
//! A race asks by token ids, so the vocabulary decides no result; llama.cpp still wants one that covers every row of
//! the embedding, and whoever serves the file by hand wants the real one.

use std::fs;

use serde_json::{Map, Value as Json};
use synth::model::Model;

use super::GgufError;
use super::layout::{Metadata, Value};

/// llama.cpp's kinds of token.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Adds the tokenizer's keys.
pub(super) fn describe(model: &Model, metadata: &mut Metadata) -> Result<(), GgufError> {
    let path = model.folder.join("tokenizer.json");
    let refuse = |key: &'static str, reason: &str| GgufError::Tokenizer {
        path: path.clone(),
        key,
        reason: reason.to_owned(),
    };
    let text = fs::read_to_string(&path).map_err(|source| GgufError::Read { path: path.clone(), source })?;
    let json: Json = serde_json::from_str(&text).map_err(|error| refuse("(root)", &error.to_string()))?;
    let bpe = &json["model"];
    if bpe["type"].as_str() != Some("BPE") {
        return Err(refuse("model.type", "only BPE can be written as GGUF"));
    }
    let vocabulary = bpe["vocab"].as_object().ok_or_else(|| refuse("model.vocab", "is not an object"))?;
    let is_byte_level = bpe["byte_fallback"].as_bool() != Some(true);

    let (tokens, kinds) = tokens(vocabulary, &json["added_tokens"], model.dims.vocab, is_byte_level);
    metadata
        .push("tokenizer.ggml.model", Value::Text(if is_byte_level { "gpt2" } else { "llama" }.to_owned()));
    metadata.push("tokenizer.ggml.pre", Value::Text(pre_tokenizer(&json["pre_tokenizer"]).to_owned()));
    if !is_byte_level {
        // A SentencePiece vocabulary is ranked by score; in a converted one the id is the rank.
        metadata
            .push("tokenizer.ggml.scores", Value::F32s((0..tokens.len()).map(|id| -(id as f32)).collect()));
    }
    metadata.push("tokenizer.ggml.tokens", Value::Texts(tokens));
    metadata.push("tokenizer.ggml.token_type", Value::I32s(kinds));
    let merges = merges(&bpe["merges"]).ok_or_else(|| refuse("model.merges", "is not a list of pairs"))?;
    metadata.push("tokenizer.ggml.merges", Value::Texts(merges));
    if let Some(bos) = model.bos {
        metadata.push("tokenizer.ggml.bos_token_id", Value::U32(bos));
    }
    if let Some(eos) = model.eos.first() {
        metadata.push("tokenizer.ggml.eos_token_id", Value::U32(*eos));
    }
    metadata.push("tokenizer.ggml.add_bos_token", Value::Bool(model.add_bos && model.bos.is_some()));
    if let Some(template) = &model.chat_template {
        metadata.push("tokenizer.chat_template", Value::Text(template.clone()));
    }
    Ok(())
}

/// Text and kind of every id below `n_vocab`; ids that the tokenizer does not know are unused.
fn tokens(
    vocabulary: &Map<String, Json>,
    added: &Json,
    n_vocab: usize,
    is_byte_level: bool,
) -> (Vec<String>, Vec<i32>) {
    let mut tokens: Vec<_> = (0..n_vocab).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![UNUSED; n_vocab];
    let mut set = |id: &Json, text: &str, kind: i32| {
        if let Some(id) = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < n_vocab) {
            tokens[id] = text.to_owned();
            kinds[id] = kind;
        }
    };
    for (text, id) in vocabulary {
        let is_byte = !is_byte_level && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        set(id, text, if is_byte { BYTE } else { NORMAL });
    }
    for token in added.as_array().into_iter().flatten() {
        let kind = if token["special"].as_bool() == Some(true) { CONTROL } else { USER_DEFINED };
        set(&token["id"], token["content"].as_str().unwrap_or(""), kind);
    }
    (tokens, kinds)
}

/// Merges in either spelling: `"a b"`, or `["a", "b"]`.
fn merges(merges: &Json) -> Option<Vec<String>> {
    merges
        .as_array()?
        .iter()
        .map(|merge| match merge {
            Json::String(pair) => Some(pair.clone()),
            Json::Array(pair) => match pair.as_slice() {
                [Json::String(left), Json::String(right)] => Some(format!("{left} {right}")),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// llama.cpp's name for the splitting of text before merging, told by the expression that splits.
fn pre_tokenizer(json: &Json) -> &'static str {
    let splits = |step: &Json| step["pattern"]["Regex"].as_str().map(str::to_owned);
    let expression = match json["pretokenizers"].as_array() {
        Some(steps) => steps.iter().find_map(splits),
        None => splits(json),
    };
    match expression.as_deref() {
        Some(expression) if expression.contains(r"\p{N}{1,3}") => "llama-bpe",
        Some(expression) if expression.contains(r"|\p{N}|") => "qwen2",
        _ => "gpt-2",
    }
}

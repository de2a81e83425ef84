//! OpenAI's completion bodies, as far as a race needs them: token ids in, token ids out.

use std::sync::mpsc::Sender;

use serde_json::{Value, json};

use crate::engine::{Event, Limits, Request};

/// What the body asked for beside the completion itself.
pub struct Asked {
    /// Answer by server-sent events.
    pub stream: bool,
    /// Length of the prompt, for `usage`.
    pub n_prompt: usize,
    /// `model` as sent, echoed.
    pub model: String,
}

/// Reads a request body, or says what is wrong with it.
pub fn parse(body: &[u8], limits: Limits, events: Sender<Event>) -> Result<(Request, Asked), String> {
    let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let prompt = body
        .get("prompt")
        .and_then(Value::as_array)
        .and_then(|ids| ids.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect())
        .filter(|ids: &Vec<u32>| !ids.is_empty())
        .ok_or("prompt must be a non-empty array of token ids")?;
    let max_tokens = match body.get("max_tokens") {
        None => 16,
        Some(count) => count
            .as_u64()
            .and_then(|count| usize::try_from(count).ok())
            .filter(|count| *count > 0)
            .ok_or("max_tokens must be a positive number")?,
    };
    if prompt.len().saturating_add(max_tokens) > limits.context {
        let (n_prompt, context) = (prompt.len(), limits.context);
        return Err(format!(
            "prompt of {n_prompt} and max_tokens of {max_tokens} exceed the context of {context}"
        ));
    }
    if body.get("temperature").and_then(Value::as_f64).is_some_and(|temperature| temperature != 0.0) {
        return Err("temperature must be 0: this server decodes greedily".to_owned());
    }
    let flag = |key: &str| body.get(key).and_then(Value::as_bool).unwrap_or(false);
    let model = body.get("model").and_then(Value::as_str).unwrap_or("candle-reference").to_owned();
    let asked = Asked { stream: flag("stream"), n_prompt: prompt.len(), model };
    Ok((Request { prompt, max_tokens, ignore_eos: flag("ignore_eos"), events }, asked))
}

/// One chunk with one token id. Its text is empty: this server has no tokenizer.
pub fn chunk(asked: &Asked, id: u32) -> Value {
    json!({
        "id": "cmpl-candle", "object": "text_completion", "created": 0, "model": asked.model,
        "choices": [{ "index": 0, "text": "", "token_ids": [id], "logprobs": null, "finish_reason": null }],
    })
}

/// The last chunk of a choice.
pub fn last_chunk(asked: &Asked, stopped: bool) -> Value {
    json!({
        "id": "cmpl-candle", "object": "text_completion", "created": 0, "model": asked.model,
        "choices": [{
            "index": 0, "text": "", "token_ids": [], "logprobs": null, "finish_reason": finish_reason(stopped),
        }],
    })
}

/// The chunk after the last: no choice, the counts.
pub fn usage_chunk(asked: &Asked, n_generated: usize) -> Value {
    json!({
        "id": "cmpl-candle", "object": "text_completion", "created": 0, "model": asked.model,
        "choices": [], "usage": usage(asked, n_generated),
    })
}

/// A whole answer.
pub fn completion(asked: &Asked, ids: &[u32], stopped: bool) -> Value {
    json!({
        "id": "cmpl-candle", "object": "text_completion", "created": 0, "model": asked.model,
        "choices": [{
            "index": 0, "text": "", "token_ids": ids, "logprobs": null, "finish_reason": finish_reason(stopped),
        }],
        "usage": usage(asked, ids.len()),
    })
}

/// The four-key error body.
pub fn error(message: &str, kind: &str) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": null, "code": null } })
}

fn usage(asked: &Asked, n_generated: usize) -> Value {
    json!({
        "prompt_tokens": asked.n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": asked.n_prompt + n_generated,
    })
}

fn finish_reason(stopped: bool) -> &'static str {
    if stopped { "stop" } else { "length" }
}

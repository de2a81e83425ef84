//! How a completion is asked for from token ids, and how tokens are counted in what comes back.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Request;

/// The two dialects that the servers of a comparison speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    /// `POST /v1/completions` with vLLM's extensions `ignore_eos` and `return_token_ids`.
    OpenAi {
        /// The `model` of each request.
        model: String,
    },
    /// llama.cpp's `POST /completion`.
    LlamaCpp,
}

/// What one event of a stream carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// Tokens that came with it.
    pub n_tokens: usize,
    /// Why generation ended, on the event that says so.
    pub finish: Option<Finish>,
}

/// Why generation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// All tokens asked for were made.
    Length,
    /// The model or a stop string ended it.
    Stop,
    /// Another reason, as the server spells it.
    Other(String),
}

/// Why an event cannot be counted.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum WireError {
    #[error("the server sent an event that is not what {wire} sends ({source}): {data}")]
    Shape { wire: &'static str, source: serde_json::Error, data: String },
    #[error("the server failed mid-stream: {0}")]
    Server(String),
    #[error("the server counts {usage} tokens and sent the ids of {sent}")]
    Miscount { usage: usize, sent: usize },
}

#[derive(Deserialize)]
struct OpenAiEvent {
    #[serde(default)]
    choices: Vec<OpenAiChoice>,
    usage: Option<OpenAiUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct OpenAiChoice {
    token_ids: Option<Vec<IgnoredAny>>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct OpenAiUsage {
    completion_tokens: usize,
}

#[derive(Deserialize)]
struct LlamaCppEvent {
    #[serde(default)]
    tokens: Vec<IgnoredAny>,
    /// All tokens so far, those of half characters included, whose ids the server keeps to itself.
    tokens_predicted: Option<usize>,
    #[serde(default)]
    stop: bool,
    stop_type: Option<String>,
    error: Option<Value>,
}

impl Wire {
    /// The route to post to.
    #[must_use]
    pub fn path(&self) -> &'static str {
        match self {
            Wire::OpenAi { .. } => "/v1/completions",
            Wire::LlamaCpp => "/completion",
        }
    }

    /// The body of a greedy, streamed request for exactly `request.max_tokens` tokens.
    #[must_use]
    pub fn body(&self, request: &Request) -> Value {
        match self {
            Wire::OpenAi { model } => json!({
                "model": model,
                "prompt": request.prompt,
                "max_tokens": request.max_tokens,
                "temperature": 0,
                "repetition_penalty": 1,
                "ignore_eos": true,
                "stream": true,
                "stream_options": { "include_usage": true },
                "return_token_ids": true,
            }),
            Wire::LlamaCpp => json!({
                "prompt": request.prompt,
                "n_predict": request.max_tokens,
                "temperature": 0,
                "samplers": ["temperature"],
                "ignore_eos": true,
                "stream": true,
                "return_tokens": true,
                "cache_prompt": true,
            }),
        }
    }

    /// What one event carries, when `n_before` tokens came before it.
    ///
    /// # Errors
    /// When the event is not of this dialect, reports a failure, or its count contradicts the ids.
    pub fn parse(&self, data: &str, n_before: usize) -> Result<Piece, WireError> {
        match self {
            Wire::OpenAi { .. } if data == "[DONE]" => Ok(Piece::default()),
            Wire::OpenAi { .. } => parse_openai(decode("/v1/completions", data)?, n_before),
            Wire::LlamaCpp => parse_llama_cpp(decode("/completion", data)?, n_before),
        }
    }
}

fn decode<'a, T: Deserialize<'a>>(wire: &'static str, data: &'a str) -> Result<T, WireError> {
    serde_json::from_str(data).map_err(|source| {
        let data = data.chars().take(200).collect();
        WireError::Shape { wire, source, data }
    })
}

fn parse_openai(event: OpenAiEvent, n_before: usize) -> Result<Piece, WireError> {
    if let Some(error) = event.error {
        return Err(WireError::Server(error.to_string()));
    }
    let mut piece = Piece::default();
    for choice in event.choices {
        piece.n_tokens += choice.token_ids.map_or(0, |ids| ids.len());
        if let Some(reason) = choice.finish_reason {
            piece.finish = Some(finish(reason));
        }
    }
    match event.usage {
        Some(usage) if usage.completion_tokens != n_before + piece.n_tokens => {
            Err(WireError::Miscount { usage: usage.completion_tokens, sent: n_before + piece.n_tokens })
        }
        _ => Ok(piece),
    }
}

fn parse_llama_cpp(event: LlamaCppEvent, n_before: usize) -> Result<Piece, WireError> {
    if let Some(error) = event.error {
        return Err(WireError::Server(error.to_string()));
    }
    let held_back = event.tokens_predicted.map_or(0, |total| total.saturating_sub(n_before));
    let finish = event.stop.then(|| finish(event.stop_type.unwrap_or_else(|| "limit".to_owned())));
    Ok(Piece { n_tokens: held_back.max(event.tokens.len()), finish })
}

fn finish(reason: String) -> Finish {
    match reason.as_str() {
        "length" | "limit" => Finish::Length,
        "stop" | "eos" | "word" => Finish::Stop,
        _ => Finish::Other(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(wire: &Wire, events: &[&str]) -> Result<(usize, Option<Finish>), WireError> {
        let mut total = Piece::default();
        for event in events {
            let piece = wire.parse(event, total.n_tokens)?;
            total =
                Piece { n_tokens: total.n_tokens + piece.n_tokens, finish: piece.finish.or(total.finish) };
        }
        Ok((total.n_tokens, total.finish))
    }

    #[test]
    fn openai_tokens_are_counted_from_ids_not_from_events() {
        let wire = Wire::OpenAi { model: "m".into() };
        let events = [
            r#"{"choices":[{"index":0,"text":"","token_ids":[],"prompt_token_ids":[1,2],"finish_reason":null}]}"#,
            r#"{"choices":[{"index":0,"text":"ab","token_ids":[5,6],"finish_reason":null}],"usage":null}"#,
            r#"{"choices":[{"index":0,"text":"c","token_ids":[7],"finish_reason":null}]}"#,
            r#"{"choices":[{"index":0,"text":"","finish_reason":"length"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}"#,
            "[DONE]",
        ];
        assert_eq!(count(&wire, &events).expect("counts"), (3, Some(Finish::Length)));
    }

    #[test]
    fn a_server_that_counts_otherwise_than_it_sends_is_caught() {
        let wire = Wire::OpenAi { model: "m".into() };
        let events = [
            r#"{"choices":[{"token_ids":[5],"finish_reason":"length"}]}"#,
            r#"{"choices":[],"usage":{"completion_tokens":9}}"#,
        ];
        assert!(matches!(count(&wire, &events), Err(WireError::Miscount { usage: 9, sent: 1 })));
    }

    #[test]
    fn llama_cpp_tokens_held_back_for_half_characters_are_counted() {
        let events = [
            r#"{"index":0,"content":"a","tokens":[5],"stop":false,"tokens_predicted":1}"#,
            r#"{"index":0,"content":"é","tokens":[7],"stop":false,"tokens_predicted":3}"#,
            r#"{"index":0,"content":"","tokens":[],"stop":true,"stop_type":"limit","tokens_predicted":4}"#,
        ];
        assert_eq!(count(&Wire::LlamaCpp, &events).expect("counts"), (4, Some(Finish::Length)));
        let without_totals = [
            r#"{"content":"a","tokens":[5],"stop":false}"#,
            r#"{"content":"","stop":true,"stop_type":"eos"}"#,
        ];
        assert_eq!(count(&Wire::LlamaCpp, &without_totals).expect("counts"), (1, Some(Finish::Stop)));
    }

    #[test]
    fn failures_inside_a_stream_are_errors() {
        let wire = Wire::OpenAi { model: "m".into() };
        assert!(matches!(wire.parse(r#"{"error":{"message":"no"}}"#, 0), Err(WireError::Server(_))));
        assert!(matches!(Wire::LlamaCpp.parse("[1]", 0), Err(WireError::Shape { .. })));
        assert!(matches!(wire.parse("half", 0), Err(WireError::Shape { .. })));
    }
}

//! The JSON Lines files that a spec names: sample requests and arrival traces. Each line is checked, at its number.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::errors::SpecError;

/// Longest file that is read, bytes.
const MAX_BYTES: u64 = 64 << 20;
/// Most errors of one file that are reported.
const MAX_ERRORS: usize = 8;

/// A real request: the text that a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What the model is asked.
    pub input: SampleInput,
    /// Most tokens of the answer, where the client says so.
    pub max_tokens: Option<usize>,
}

/// What the model is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleInput {
    /// A text to go on with.
    Prompt(String),
    /// A conversation to answer; not empty.
    Messages(Vec<Message>),
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// One arrival of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceEvent {
    /// Seconds since the start; never less than the line before.
    pub at: f64,
    /// Length of the prompt.
    pub prompt_tokens: usize,
    /// Length of the answer.
    pub output_tokens: usize,
}

/// Why a file could not be read.
#[derive(Debug)]
pub(super) enum Misread {
    /// As a whole: the message belongs to the field that names it.
    File(String),
    /// At these lines.
    Lines(Vec<SpecError>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSample {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<usize>,
}

/// Reads sample requests.
pub(super) fn samples(path: &Path) -> Result<Vec<Sample>, Misread> {
    lines(path, |raw: RawSample, _| {
        let input = match (raw.prompt, raw.messages) {
            (Some(prompt), None) if !prompt.is_empty() => SampleInput::Prompt(prompt),
            (None, Some(messages)) if !messages.is_empty() => {
                if let Some(other) = messages
                    .iter()
                    .find(|message| !["system", "user", "assistant"].contains(&message.role.as_str()))
                {
                    return Err(format!(
                        "role: expected `system`, `user` or `assistant`, found `{}`",
                        other.role.escape_debug()
                    ));
                }
                SampleInput::Messages(messages)
            }
            _ => return Err("expected either a `prompt` or `messages`, not empty".to_owned()),
        };
        match raw.max_tokens {
            Some(0) => Err("max_tokens: expected at least 1, found 0".to_owned()),
            max_tokens => Ok(Sample { input, max_tokens }),
        }
    })
}

/// Reads a trace; where `longest` (prompt and output, tokens) is known, no event may exceed it.
pub(super) fn trace(path: &Path, longest: Option<(usize, usize)>) -> Result<Vec<TraceEvent>, Misread> {
    let (prompt_max, output_max) = longest.unwrap_or((usize::MAX, usize::MAX));
    lines(path, |event: TraceEvent, before: Option<&TraceEvent>| {
        let earliest = before.map_or(0.0, |before| before.at);
        if !event.at.is_finite() || event.at < earliest {
            return Err(format!("at: expected seconds from {earliest} on, found {}", event.at));
        }
        for (name, tokens, max) in [
            ("prompt_tokens", event.prompt_tokens, prompt_max),
            ("output_tokens", event.output_tokens, output_max),
        ] {
            if tokens == 0 || tokens > max {
                return Err(format!("{name}: expected 1 to {max}, found {tokens}"));
            }
        }
        Ok(event)
    })
}

/// Reads one value per line; `check` sees the value of the line before as well. Blank lines are skipped.
fn lines<R: DeserializeOwned, T>(
    path: &Path,
    check: impl Fn(R, Option<&T>) -> Result<T, String>,
) -> Result<Vec<T>, Misread> {
    let shown = path.display();
    let unread = |error| Misread::File(format!("cannot read {shown}: {error}"));
    // Looked at before it is opened: opening a pipe would wait for somebody to write.
    let kind = std::fs::metadata(path).map_err(unread)?;
    if !kind.is_file() || kind.len() > MAX_BYTES {
        return Err(Misread::File(format!("expected a file of at most {} MiB at {shown}", MAX_BYTES >> 20)));
    }
    let file = File::open(path).map_err(unread)?;
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for (idx, line) in BufReader::new(file.take(MAX_BYTES)).split(b'\n').enumerate() {
        let line = line.map_err(|error| Misread::File(format!("cannot read {shown}: {error}")))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let at = |column: usize, message: String| SpecError {
            file: path.to_owned(),
            line: idx + 1,
            column,
            field: String::new(),
            message,
        };
        match serde_json::from_slice::<R>(&line) {
            Ok(raw) => match check(raw, values.last()) {
                Ok(value) => values.push(value),
                Err(message) => errors.push(at(1, message)),
            },
            Err(error) => {
                let place = format!(" at line {} column {}", error.line(), error.column());
                errors.push(at(error.column().max(1), error.to_string().replace(&place, "")));
            }
        }
        if errors.len() == MAX_ERRORS {
            break;
        }
    }
    match (errors.is_empty(), values.is_empty()) {
        (true, false) => Ok(values),
        (true, true) => Err(Misread::File(format!("expected at least one request in {shown}"))),
        (false, _) => Err(Misread::Lines(errors)),
    }
}

//! One question to the server under proof, and its answer with every number in it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::Client;

/// Why there is no usable answer: a sentence that ends up in the proof.
pub(super) type Fault = String;

/// More choices than any request asks for.
const MOST_CHOICES: u64 = 128;

/// A body to send and the route that takes it.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) route: &'static str,
    pub(super) body: Value,
}

/// What came back, without what legitimately differs from time to time (id, created).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// One per choice, by index; at least one.
    pub(super) choices: Vec<Choice>,
    pub(super) usage: Usage,
}

/// One choice.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) token_ids: Vec<u32>,
    pub(super) prompt_token_ids: Option<Vec<u32>>,
    /// With `echo` the prompt's positions come first.
    pub(super) positions: Vec<Position>,
    pub(super) finish_reason: Option<String>,
}

/// The log-probabilities of one position, compared bit by bit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Position {
    pub(super) token: u32,
    /// Absent at the first position of a prompt.
    pub(super) logprob: Option<f64>,
    /// The likeliest tokens, likeliest first.
    pub(super) top: Vec<(u32, f64)>,
}

/// What the server says it counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) total_tokens: u64,
    pub(super) cached_tokens: u64,
}

impl Ask {
    /// The same question with these keys set.
    pub(super) fn with(&self, keys: Value) -> Ask {
        let mut ask = self.clone();
        if let (Value::Object(body), Value::Object(keys)) = (&mut ask.body, keys) {
            body.extend(keys);
        }
        ask
    }

    pub(super) async fn send(&self, client: &Client) -> Result<Answer, Fault> {
        let reply = client.post(self.route, &self.body).await.map_err(|error| error.to_string())?;
        if !reply.status.is_success() {
            return Err(format!("status {}: {}", reply.status, cut(&reply.body.to_string())));
        }
        read_answer(&reply.body)
            .ok_or_else(|| format!("an answer of another form: {}", cut(&reply.body.to_string())))
    }

    /// The same question streamed, its pieces joined.
    pub(super) async fn stream(&self, client: &Client) -> Result<Answer, Fault> {
        self.stream_telling(client, || ()).await
    }

    /// As [`Ask::stream`]; tells of each piece that comes.
    pub(super) async fn stream_telling(
        &self,
        client: &Client,
        mut on_piece: impl FnMut(),
    ) -> Result<Answer, Fault> {
        let ask = self.with(json!({ "stream": true, "stream_options": { "include_usage": true } }));
        let (mut joined, mut broken, mut is_done) = (Joined::default(), None, false);
        let reply = client
            .stream(ask.route, &ask.body, |_, data| {
                on_piece();
                if data == "[DONE]" {
                    is_done = true;
                } else if joined.add(data).is_none() && broken.is_none() {
                    broken = Some(format!("a chunk of another form: {}", cut(data)));
                }
            })
            .await
            .map_err(|error| error.to_string())?;
        if !reply.status.is_success() {
            return Err(format!("status {}: {}", reply.status, cut(&reply.body.to_string())));
        }
        if let Some(fault) = broken {
            return Err(fault);
        }
        if !is_done {
            return Err("the stream ended without [DONE]".to_owned());
        }
        let usage = joined.usage.ok_or("the stream has no usage chunk")?;
        if joined.choices.is_empty() {
            return Err("the stream has no choice".to_owned());
        }
        Ok(Answer { choices: joined.choices, usage })
    }
}

/// Sends the questions in order, `in_flight` at most at once and `gap` apart. Answers come in the order of questions.
pub(super) async fn send_all(
    client: &Arc<Client>,
    asks: impl IntoIterator<Item = Ask>,
    in_flight: usize,
    gap: Duration,
) -> Vec<Result<Answer, Fault>> {
    let permits = Arc::new(Semaphore::new(in_flight));
    let mut tasks = JoinSet::new();
    for (idx, ask) in asks.into_iter().enumerate() {
        if idx > 0 && !gap.is_zero() {
            tokio::time::sleep(gap).await;
        }
        // Taken here, so that questions leave in their order. The semaphore is never closed.
        let permit = Arc::clone(&permits).acquire_owned().await;
        let client = Arc::clone(client);
        tasks.spawn(async move {
            let answer = ask.send(&client).await;
            drop(permit);
            (idx, answer)
        });
    }
    let mut answers: Vec<_> = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        answers.push(joined.unwrap_or_else(|error| (usize::MAX, Err(error.to_string()))));
    }
    answers.sort_by_key(|(idx, _)| *idx);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// How `got` differs from `expected`; `None` if no bit does. Cached tokens may differ: they say how, not what.
pub(super) fn difference(expected: &Result<Answer, Fault>, got: &Result<Answer, Fault>) -> Option<String> {
    let (expected, got) = match (expected, got) {
        (Err(fault), _) => return Some(format!("there is no answer to compare with: {fault}")),
        (_, Err(fault)) => return Some(fault.clone()),
        (Ok(expected), Ok(got)) => (expected, got),
    };
    if expected.choices.len() != got.choices.len() {
        return Some(format!("{} choices, expected {}", got.choices.len(), expected.choices.len()));
    }
    let counts = |usage: Usage| Usage { cached_tokens: 0, ..usage };
    if counts(expected.usage) != counts(got.usage) {
        return Some(format!("usage {:?}, expected {:?}", got.usage, expected.usage));
    }
    expected.choices.iter().zip(&got.choices).find_map(|(expected, got)| choice_difference(expected, got))
}

/// How two choices differ; `None` if no bit does.
pub(super) fn choice_difference(expected: &Choice, got: &Choice) -> Option<String> {
    if let Some(difference) = ids_difference(&expected.token_ids, &got.token_ids) {
        return Some(difference);
    }
    if let Some(idx) =
        (0..expected.positions.len()).find(|idx| got.positions.get(*idx) != expected.positions.get(*idx))
    {
        let (expected, got) = (&expected.positions[idx], got.positions.get(idx));
        return Some(format!("log-probabilities at {idx} are {got:?}, expected {expected:?}"));
    }
    if expected.text != got.text {
        return Some(format!("text {:?}, expected {:?}", cut(&got.text), cut(&expected.text)));
    }
    (expected != got).then(|| format!("{got:?}, expected {expected:?}"))
}

/// The first place where two lists of ids differ.
pub(super) fn ids_difference(expected: &[u32], got: &[u32]) -> Option<String> {
    let idx = (0..expected.len().max(got.len())).find(|idx| expected.get(*idx) != got.get(*idx))?;
    let word = |ids: &[u32]| ids.get(idx).map_or("absent".to_owned(), u32::to_string);
    Some(format!("token {idx} is {}, expected {}", word(got), word(expected)))
}

/// The beginning of a text that may be long.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(160).collect()
}

fn read_answer(body: &Value) -> Option<Answer> {
    let choices = body.get("choices")?.as_array()?;
    let mut read: Vec<Choice> = vec![Choice::default(); choices.len()];
    for choice in choices {
        let slot = read.get_mut(choice.get("index")?.as_u64()? as usize)?;
        let content = choice.get("text").or_else(|| choice.get("message")?.get("content"))?;
        slot.text = content.as_str()?.to_owned();
        read_common(choice, slot)?;
        read_chat_prompt(body, slot)?;
    }
    if read.is_empty() {
        return None;
    }
    Some(Answer { choices: read, usage: read_usage(body.get("usage")?)? })
}

/// Streamed choices, joined piece by piece.
#[derive(Default)]
struct Joined {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

impl Joined {
    fn add(&mut self, data: &str) -> Option<()> {
        let chunk: Value = serde_json::from_str(data).ok()?;
        if let Some(usage) = chunk.get("usage").filter(|usage| !usage.is_null()) {
            self.usage = Some(read_usage(usage)?);
        }
        for choice in chunk.get("choices")?.as_array()? {
            let idx = choice.get("index")?.as_u64().filter(|idx| *idx < MOST_CHOICES)? as usize;
            if idx >= self.choices.len() {
                self.choices.resize(idx + 1, Choice::default());
            }
            let slot = &mut self.choices[idx];
            let piece = choice.get("text").or_else(|| choice.get("delta")?.get("content"));
            slot.text.push_str(piece.and_then(Value::as_str).unwrap_or(""));
            read_common(choice, slot)?;
            read_chat_prompt(&chunk, slot)?;
        }
        Some(())
    }
}

/// What a whole choice and a streamed piece of one have in common; appended to `slot`.
fn read_common(choice: &Value, slot: &mut Choice) -> Option<()> {
    let present = |key: &str| choice.get(key).filter(|value| !value.is_null());
    if let Some(ids) = present("token_ids") {
        slot.token_ids.extend(read_ids(ids)?);
    }
    if let Some(ids) = present("prompt_token_ids") {
        slot.prompt_token_ids = Some(read_ids(ids)?);
    }
    if let Some(logprobs) = present("logprobs") {
        slot.positions.extend(read_positions(logprobs)?);
    }
    if let Some(reason) = present("finish_reason") {
        slot.finish_reason = Some(reason.as_str()?.to_owned());
    }
    Some(())
}

/// Chat completions have one prompt, and say its ids beside the choices.
fn read_chat_prompt(object: &Value, slot: &mut Choice) -> Option<()> {
    if let Some(ids) = object.get("prompt_token_ids").filter(|ids| !ids.is_null()) {
        slot.prompt_token_ids = Some(read_ids(ids)?);
    }
    Some(())
}

pub(super) fn read_ids(ids: &Value) -> Option<Vec<u32>> {
    ids.as_array()?.iter().map(|id| id.as_u64()?.try_into().ok()).collect()
}

/// Both forms: `content` of chat completions, parallel arrays of completions.
fn read_positions(logprobs: &Value) -> Option<Vec<Position>> {
    if let Some(content) = logprobs.get("content") {
        let one =
            |entry: &Value| Some((token_id(entry.get("token")?.as_str()?)?, entry.get("logprob")?.as_f64()?));
        let position = |entry: &Value| {
            let (token, logprob) = one(entry)?;
            let top = entry.get("top_logprobs")?.as_array()?.iter().map(one).collect::<Option<_>>()?;
            Some(Position { token, logprob: Some(logprob), top: by_likelihood(top) })
        };
        return content.as_array()?.iter().map(position).collect();
    }
    let column = |key: &str| logprobs.get(key)?.as_array();
    let (tokens, logprobs, tops) = (column("tokens")?, column("token_logprobs")?, column("top_logprobs")?);
    if tokens.len() != logprobs.len() || tokens.len() != tops.len() {
        return None;
    }
    let position = |((token, logprob), top): ((&Value, &Value), &Value)| {
        let pair = |(token, logprob): (&String, &Value)| Some((token_id(token)?, logprob.as_f64()?));
        let top = match top {
            Value::Null => Vec::new(),
            top => top.as_object()?.iter().map(pair).collect::<Option<_>>()?,
        };
        Some(Position {
            token: token_id(token.as_str()?)?,
            logprob: logprob.as_f64(),
            top: by_likelihood(top),
        })
    };
    tokens.iter().zip(logprobs).zip(tops).map(position).collect()
}

/// `return_tokens_as_token_ids` spells a token `token_id:N`.
fn token_id(token: &str) -> Option<u32> {
    token.strip_prefix("token_id:")?.parse().ok()
}

fn by_likelihood(mut top: Vec<(u32, f64)>) -> Vec<(u32, f64)> {
    top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    top
}

fn read_usage(usage: &Value) -> Option<Usage> {
    let count = |key: &str| usage.get(key)?.as_u64();
    let details = usage.get("prompt_tokens_details").filter(|details| !details.is_null());
    let cached = details.and_then(|details| details.get("cached_tokens")?.as_u64());
    Some(Usage {
        prompt_tokens: count("prompt_tokens")?,
        completion_tokens: count("completion_tokens")?,
        total_tokens: count("total_tokens")?,
        cached_tokens: cached.unwrap_or(0),
    })
}

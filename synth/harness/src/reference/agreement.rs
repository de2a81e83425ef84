//! Whether a reference computes the model it is given: its greedy ids against expected ones.
//!
//! A runtime that computes something else is no reference, however fast it is.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Job, Prepared, Reference, Settings};
use crate::client::Client;
use crate::load::{Request, Wire};
use crate::process::{Server, free_port};

/// An answer may take this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// A prompt and the ids that greedy decoding must give after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Prompt ids; not empty.
    pub prompt: Vec<u32>,
    /// Ids to come; not empty.
    pub ids: Vec<u32>,
}

/// How far a reference agrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Prompts asked.
    pub n_prompts: usize,
    /// Prompts whose every id agreed.
    pub n_agreeing: usize,
    /// The first disagreement, in words.
    pub first: Option<String>,
}

impl Agreement {
    /// Whether every id of every prompt agreed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.n_agreeing == self.n_prompts
    }
}

/// Starts the reference with `settings` and asks it for every expected answer.
///
/// # Errors
/// When it does not start or does not answer; the words say which.
pub async fn check(
    reference: &dyn Reference,
    prepared: &Prepared,
    job: &Job,
    settings: &Settings,
    expected: &[Expected],
) -> Result<Agreement, String> {
    let listen = free_port().map_err(|error| error.to_string())?;
    let server = Server::start(reference.launch(prepared, job, settings, listen))
        .await
        .map_err(|error| error.to_string())?;
    let client = Client::new(listen).timeout(ANSWER_WITHIN);
    let mut agreement = Agreement { n_prompts: expected.len(), n_agreeing: 0, first: None };
    for (idx, expected) in expected.iter().enumerate() {
        let ids = ask(&client, &reference.wire(), expected).await?;
        match ids.iter().zip(&expected.ids).position(|(ours, theirs)| ours != theirs) {
            None if ids.len() == expected.ids.len() => agreement.n_agreeing += 1,
            None => {
                note(&mut agreement, format!("prompt {idx}: {} ids for {}", ids.len(), expected.ids.len()))
            }
            Some(at) => {
                let (got, wanted) = (ids[at], expected.ids[at]);
                note(&mut agreement, format!("prompt {idx}, token {at}: {got} where {wanted} was expected"));
            }
        }
    }
    server.stop().await.map_err(|error| error.to_string())?;
    Ok(agreement)
}

fn note(agreement: &mut Agreement, disagreement: String) {
    agreement.first.get_or_insert(disagreement);
}

/// The ids of one whole answer.
async fn ask(client: &Client, wire: &Wire, expected: &Expected) -> Result<Vec<u32>, String> {
    let request = Request { prompt: expected.prompt.clone(), max_tokens: expected.ids.len() };
    let mut body = wire.body(&request);
    body["stream"] = Value::Bool(false);
    if let Some(body) = body.as_object_mut() {
        // Only streams may ask for it.
        body.remove("stream_options");
    }
    let reply = client.post(wire.path(), &body).await.map_err(|error| error.to_string())?;
    let ids = match wire {
        Wire::OpenAi { .. } => &reply.body["choices"][0]["token_ids"],
        Wire::LlamaCpp => &reply.body["tokens"],
    };
    serde_json::from_value(ids.clone())
        .map_err(|_| format!("no token ids in: {} {}", reply.status, reply.body))
}

//! Whether a reference computes the model it is given: its greedy ids against expected ones.
//!
//! A runtime that computes something else is no reference, however fast it is. One whose weights are rounded computes
//! something close, and leaves the expected path at its first other token; so it is asked for each token after the
//! expected ones before it, and has to give most of them.

use std::time::Duration;

use serde_json::Value;

use super::{Format, Job, Prepared, Reference, Settings};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// The format that it was asked in.
    pub format: Format,
    /// Answers asked for: whole ones, or of one token each where weights are rounded.
    pub n_asked: usize,
    /// Answers that agreed in every id.
    pub n_agreeing: usize,
    /// The first disagreement, in words.
    pub first: Option<String>,
}

impl Agreement {
    /// Whether it is the same model that answers. Where nothing is rounded but sums, a near-tie may turn one answer into
    /// another, but not all of them. Rounding turns more, and the share that it may turn was measured: a model of
    /// another rotation, norm or order of heads agrees in next to none of a vocabulary's thousands.
    #[must_use]
    pub fn is_same_model(&self) -> bool {
        let least = match self.format {
            Format::F32 | Format::Bf16 => 1,
            Format::Int8 => (self.n_asked * 3).div_ceil(4),
            Format::Int4 => self.n_asked.div_ceil(2),
        };
        self.n_agreeing >= least
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
    let questions = questions(job.format, expected);
    let mut agreement =
        Agreement { format: job.format, n_asked: questions.len(), n_agreeing: 0, first: None };
    for (idx, expected) in questions.iter().enumerate() {
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

/// What is asked: the answers as they are, or each of their tokens after those before it.
fn questions(format: Format, expected: &[Expected]) -> Vec<Expected> {
    if !format.is_quantised() {
        return expected.to_vec();
    }
    let forced = |expected: &Expected, at: usize| Expected {
        prompt: [&expected.prompt, &expected.ids[..at]].concat(),
        ids: vec![expected.ids[at]],
    };
    expected.iter().flat_map(|it| (0..it.ids.len()).map(move |at| forced(it, at))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_models_are_asked_for_each_token_after_the_expected_ones() {
        let expected = [Expected { prompt: vec![1, 2], ids: vec![3, 4] }];
        assert_eq!(questions(Format::Bf16, &expected), expected);
        let forced =
            [Expected { prompt: vec![1, 2], ids: vec![3] }, Expected { prompt: vec![1, 2, 3], ids: vec![4] }];
        assert_eq!(questions(Format::Int4, &expected), forced);
    }

    #[test]
    fn rounding_excuses_some_tokens_and_another_model_none() {
        let agreement = |format, n_agreeing| Agreement { format, n_asked: 32, n_agreeing, first: None };
        for (format, least) in [(Format::Bf16, 1), (Format::Int8, 24), (Format::Int4, 16)] {
            assert!(agreement(format, least).is_same_model(), "{format}");
            assert!(!agreement(format, least - 1).is_same_model(), "{format}");
        }
    }
}

//! The JSON that clients receive, in OpenAI's shapes and with vLLM's additions.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    openai::choice::{Scored, StopReason},
    request::TokenLogprobs,
    tokenizer::Tokenizer,
};

/// What is the same in every object of one call.
#[derive(Clone, Serialize)]
pub struct Envelope {
    /// Id of the call.
    pub id: String,
    /// Kind of the object.
    pub object: &'static str,
    /// When the call arrived, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: &'static str,
    /// Names the build, so that a client can see when it changes.
    pub system_fingerprint: String,
}

/// An answer, or one event of a streamed answer.
#[derive(Serialize)]
pub struct Object<'a, C> {
    /// What is the same in every object of the call.
    #[serde(flatten)]
    pub envelope: &'a Envelope,
    /// The choices, or the one choice this event is about, or none beside a final usage.
    pub choices: &'a [C],
    /// Present and null in events before the one that has it, if the client asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// The prompt of a chat call, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [u32]>,
}

/// What every choice has at its end.
#[derive(Serialize)]
pub struct Ending<'a> {
    /// Null until the answer has ended.
    pub finish_reason: Option<&'static str>,
    /// What stopped it, if the request named it.
    pub stop_reason: Option<&'a StopReason>,
    /// The tokens of this object, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// The prompt's tokens, when asked for; in a stream with the first event only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [u32]>,
}

/// A choice of a chat completion.
#[derive(Serialize)]
pub struct ChatChoice<'a> {
    /// Which choice.
    pub index: usize,
    /// The answer.
    pub message: ChatMessage<'a>,
    /// Log probabilities, when asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Its end.
    #[serde(flatten)]
    pub ending: Ending<'a>,
}

/// An assistant's message.
#[derive(Serialize)]
pub struct ChatMessage<'a> {
    /// Always `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: &'a str,
    /// Always null: the model's words are never replaced.
    pub refusal: Option<&'static str>,
}

/// A choice of one event of a chat stream.
#[derive(Serialize)]
pub struct ChatChunk<'a> {
    /// Which choice.
    pub index: usize,
    /// What is new.
    pub delta: ChatDelta<'a>,
    /// Log probabilities of the event's tokens, when asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Its end.
    #[serde(flatten)]
    pub ending: Ending<'a>,
}

/// What one event adds to a message.
#[derive(Serialize)]
pub struct ChatDelta<'a> {
    /// In the first event of a choice only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Absent in the last event of a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
}

/// A choice of a text completion, whole or of one event.
#[derive(Serialize)]
pub struct TextChoice<'a> {
    /// Which choice.
    pub index: usize,
    /// The text.
    pub text: &'a str,
    /// Log probabilities, when asked for.
    pub logprobs: Option<TextLogprobs>,
    /// Its end.
    #[serde(flatten)]
    pub ending: Ending<'a>,
}

/// Tokens counted.
#[derive(Clone, Copy, Serialize)]
pub struct Usage {
    /// Of all prompts, each once.
    pub prompt_tokens: usize,
    /// Of all choices, up to where each was cut.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
    /// More about the prompts.
    pub prompt_tokens_details: PromptDetails,
    /// More about the answers.
    pub completion_tokens_details: CompletionDetails,
}

/// More about the prompts.
#[derive(Clone, Copy, Serialize)]
pub struct PromptDetails {
    /// Tokens that were in the KV cache before.
    pub cached_tokens: usize,
}

/// More about the answers; all zero, as this server neither reasons apart nor takes predictions.
#[derive(Clone, Copy, Default, Serialize)]
pub struct CompletionDetails {
    reasoning_tokens: usize,
    accepted_prediction_tokens: usize,
    rejected_prediction_tokens: usize,
}

/// Log probabilities of a chat answer.
#[derive(Serialize)]
pub struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<Vec<ChatToken>>,
}

#[derive(Serialize)]
struct ChatToken {
    #[serde(flatten)]
    token: NamedToken,
    top_logprobs: Vec<NamedToken>,
}

#[derive(Serialize)]
struct NamedToken {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

/// Log probabilities of a text completion: four lists of one length.
#[derive(Default, Serialize)]
pub struct TextLogprobs {
    text_offset: Vec<usize>,
    token_logprobs: Vec<Option<f64>>,
    tokens: Vec<String>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
}

/// How tokens are named in log probabilities.
#[derive(Clone)]
pub struct Names {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Whether the name is `token_id:N`, which tells tokens of equal text apart.
    pub by_id: bool,
}

impl Names {
    fn name(&self, id: u32) -> String {
        if self.by_id {
            format!("token_id:{id}")
        } else {
            String::from_utf8_lossy(&self.tokenizer.piece(id)).into_owned()
        }
    }

    fn named(&self, id: u32, logprob: f32) -> NamedToken {
        NamedToken { token: self.name(id), logprob: finite(logprob), bytes: self.tokenizer.piece(id) }
    }

    /// In the shape of a chat answer.
    pub fn chat(&self, tokens: &[Scored]) -> ChatLogprobs {
        let scored = tokens.iter().filter_map(|token| Some((token.id, token.logprobs.as_ref()?)));
        let content = scored.map(|(id, logprobs)| ChatToken {
            token: self.named(id, logprobs.logprob),
            top_logprobs: logprobs.top.iter().map(|&(id, logprob)| self.named(id, logprob)).collect(),
        });
        ChatLogprobs { content: content.collect(), refusal: None }
    }

    /// In the shape of a text completion. `offset` counts the characters of the tokens' text so far, and is
    /// moved on.
    pub fn text(&self, tokens: &[Scored], offset: &mut usize) -> TextLogprobs {
        let mut lists = TextLogprobs::default();
        for Scored { id, logprobs } in tokens {
            lists.text_offset.push(*offset);
            *offset += String::from_utf8_lossy(&self.tokenizer.piece(*id)).chars().count();
            lists.tokens.push(self.name(*id));
            lists.token_logprobs.push(logprobs.as_ref().map(|logprobs| finite(logprobs.logprob)));
            lists.top_logprobs.push(logprobs.as_ref().map(|logprobs| self.alternatives(*id, logprobs)));
        }
        lists
    }

    /// The likeliest tokens by name, the chosen one always among them. Of two with one name the likelier stays.
    fn alternatives(&self, chosen: u32, logprobs: &TokenLogprobs) -> Map<String, Value> {
        let mut map = Map::new();
        for (id, logprob) in logprobs.top.iter().copied().chain([(chosen, logprobs.logprob)]) {
            map.entry(self.name(id)).or_insert_with(|| finite(logprob).into());
        }
        map
    }
}

/// JSON has no infinity; -9999 stands for impossible, as in vLLM.
fn finite(logprob: f32) -> f64 {
    if logprob.is_finite() { logprob.into() } else { -9999.0 }
}

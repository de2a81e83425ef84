//! The parameters that both routes share: each taken, checked against its range, or refused by name.

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::{
    error::ApiError,
    fields::{Fields, token_ids, wrong},
    request::Sampling,
    state::{Caller, State},
};

/// Entries of `logit_bias`, and token ids of `stop_token_ids`, that a request may have.
const MAX_TOKEN_LIST: usize = 1024;
/// Stop strings, as OpenAI bounds them.
const MAX_STOPS: usize = 4;
/// Bytes of one stop string: longer ones would hold back text for no use.
const MAX_STOP_BYTES: usize = 1024;
/// Alternatives per token, as OpenAI bounds them for chat and vLLM for both.
pub const MAX_LOGPROBS: i64 = 20;

/// What a call asks for, apart from its prompt.
pub struct Params {
    /// How to choose tokens; `max_tokens` and `seed` are filled in per choice.
    pub sampling: Sampling,
    /// Bound on the answer and the name under which it was given.
    pub max_tokens: Option<(&'static str, usize)>,
    /// Choices per prompt.
    pub n: usize,
    /// Stop strings.
    pub stops: Vec<String>,
    /// Whether and how to stream.
    pub delivery: Delivery,
    /// Whether choices carry their token ids.
    pub return_token_ids: bool,
    /// Whether log probabilities name tokens by id.
    pub name_tokens_by_id: bool,
    /// Seed of the whole call.
    pub seed: u64,
    /// Whose cached prefixes may be used.
    pub cache_salt: u64,
}

/// How the answer is sent.
#[derive(Clone, Copy, PartialEq)]
pub enum Delivery {
    /// As one JSON object.
    Whole,
    /// As events, the last of them with the usage if asked for.
    Stream {
        /// Whether `stream_options.include_usage` was set.
        include_usage: bool,
    },
}

impl Params {
    /// Takes the shared parameters from `fields`, of which the bound on the answer is `least_tokens` at least.
    pub fn take(
        fields: &mut Fields,
        state: &State,
        caller: Caller,
        least_tokens: usize,
    ) -> Result<Params, ApiError> {
        let limits = &state.service.limits;
        refuse_unbuilt(fields)?;
        check_model(fields, state)?;
        let max_tokens = take_max_tokens(fields, least_tokens..=limits.max_output)?;
        let min_tokens = fields.integer("min_tokens", 0..=limits.max_output as i64)?.unwrap_or(0) as usize;
        if let Some((name, max)) = max_tokens.filter(|(_, max)| min_tokens > *max) {
            let message = format!("min_tokens is {min_tokens}, more than the {max} of {name}");
            return Err(ApiError::field("min_tokens", message));
        }
        let defaults = &state.service.defaults;
        let seed = fields.integer("seed", i64::MIN..=i64::MAX)?;
        let salt = fields.string("cache_salt")?;
        Ok(Params {
            sampling: Sampling {
                temperature: take_f32(fields, "temperature", 0.0, 2.0)?.unwrap_or(defaults.temperature),
                top_p: take_f32(fields, "top_p", 0.0, 1.0)?.unwrap_or(defaults.top_p),
                top_k: take_top_k(fields, defaults.top_k)?,
                min_p: take_f32(fields, "min_p", 0.0, 1.0)?.unwrap_or(defaults.min_p),
                presence_penalty: take_f32(fields, "presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
                frequency_penalty: take_f32(fields, "frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
                repetition_penalty: take_f32(fields, "repetition_penalty", 0.01, 10.0)?
                    .unwrap_or(defaults.repetition_penalty),
                logit_bias: take_logit_bias(fields, limits.vocab)?,
                ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
                stop_token_ids: fields
                    .token_ids("stop_token_ids", MAX_TOKEN_LIST, limits.vocab)?
                    .unwrap_or_default(),
                min_tokens,
                ..Sampling::greedy(0)
            },
            max_tokens,
            n: fields.integer("n", 1..=limits.max_choices as i64)?.unwrap_or(1) as usize,
            stops: take_stops(fields)?,
            delivery: take_delivery(fields)?,
            return_token_ids: fields.boolean("return_token_ids")?.unwrap_or(false),
            name_tokens_by_id: fields.boolean("return_tokens_as_token_ids")?.unwrap_or(false),
            seed: seed.map_or_else(|| state.random(), |seed| seed as u64),
            cache_salt: caller.cache_salt(salt.as_deref()),
        })
    }

    /// The sampling of one choice of a prompt of `n_prompt` tokens; `param` names the prompt in errors.
    pub fn sampling_of(
        &self,
        choice_idx: usize,
        n_prompt: usize,
        state: &State,
        param: &str,
    ) -> Result<Sampling, ApiError> {
        let limits = &state.service.limits;
        let room = limits.context.saturating_sub(n_prompt);
        let max_tokens = match self.max_tokens {
            Some((name, max)) if max > room => {
                let message = format!(
                    "the context holds {} tokens; the prompt has {n_prompt} and {name} asks for {max} more",
                    limits.context
                );
                return Err(ApiError::context(if n_prompt < limits.context { name } else { param }, message));
            }
            Some((_, max)) => max,
            None if room == 0 => {
                let message =
                    format!("the context holds {} tokens; the prompt has {n_prompt}", limits.context);
                return Err(ApiError::context(param, message));
            }
            None => room.min(limits.max_output).max(self.sampling.min_tokens),
        };
        if max_tokens > room {
            let message = format!("min_tokens is {max_tokens}, but only {room} tokens fit behind the prompt");
            return Err(ApiError::context("min_tokens", message));
        }
        // The engine makes at least one token; who asked for none gets none of it.
        Ok(Sampling {
            max_tokens: max_tokens.max(1),
            seed: fold(self.seed, choice_idx),
            ..self.sampling.clone()
        })
    }
}

/// The seed of one choice. Choice 0 of any `n` has the same.
fn fold(seed: u64, choice_idx: usize) -> u64 {
    // SplitMix64: neighbouring seeds and choices must not give related streams.
    let mut z = seed.wrapping_add((choice_idx as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Refuses fields that ask for what this binary cannot do, so that nobody mistakes the answer for it.
fn refuse_unbuilt(fields: &mut Fields) -> Result<(), ApiError> {
    let none = |_: &Value| false;
    let off = |value: &Value| *value == false;
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let is = |asked: &'static str| move |value: &Value| *value == asked;
    let tools = "it was built without tools";
    let grammar = "it was built without structured output";
    fields.refuse("tools", tools, empty)?;
    fields.refuse("tool_choice", tools, is("none"))?;
    fields.refuse("functions", tools, empty)?;
    fields.refuse("function_call", tools, is("none"))?;
    fields.refuse("response_format", grammar, |value| value["type"] == "text")?;
    for name in ["guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"] {
        fields.refuse(name, grammar, none)?;
    }
    for name in ["audio", "mm_processor_kwargs", "media_io_kwargs"] {
        fields.refuse(name, "it was built for text", none)?;
    }
    fields.refuse("modalities", "it was built for text", |value| *value == serde_json::json!(["text"]))?;
    fields.refuse("prediction", "it was built without predicted outputs", none)?;
    for name in ["chat_template", "chat_template_kwargs", "documents"] {
        fields.refuse(name, "the chat template is part of the build", none)?;
    }
    for name in ["reasoning_effort", "reasoning", "verbosity", "thinking_token_budget"] {
        fields.refuse(name, "it was built without reasoning controls", is("none"))?;
    }
    fields.refuse("web_search_options", "it calls nobody", none)?;
    fields.refuse("truncate_prompt_tokens", "it never cuts a prompt", none)?;
    for name in ["allowed_token_ids", "bad_words", "prompt_logprobs", "logits_processors", "lora_request"] {
        fields.refuse(name, "it was built without it", none)?;
    }
    for name in ["use_beam_search", "include_stop_str_in_output", "continue_final_message"] {
        fields.refuse(name, "it was built without it", off)?;
    }
    fields.refuse("skip_special_tokens", "special tokens are never part of the text", |value| *value == true)
}

fn check_model(fields: &mut Fields, state: &State) -> Result<(), ApiError> {
    match fields.string("model")? {
        Some(asked) if asked != state.service.model => {
            // The name is repeated to the client, who may have sent anything.
            let shown: String = asked.chars().filter(|char| !char.is_control()).take(128).collect();
            Err(ApiError::model(&shown, state.service.model))
        }
        _ => Ok(()),
    }
}

fn take_max_tokens(
    fields: &mut Fields,
    range: RangeInclusive<usize>,
) -> Result<Option<(&'static str, usize)>, ApiError> {
    let range = *range.start() as i64..=*range.end() as i64;
    let mut take = |name: &'static str| -> Result<_, ApiError> {
        Ok(fields.integer(name, range.clone())?.map(|max| (name, max as usize)))
    };
    match (take("max_completion_tokens")?, take("max_tokens")?) {
        (Some((_, new)), Some((name, old))) if new != old => {
            let message = format!("{name} is {old} and max_completion_tokens is {new}; give one of them");
            Err(ApiError::field(name, message))
        }
        (new, old) => Ok(new.or(old)),
    }
}

fn take_f32(fields: &mut Fields, name: &str, low: f64, high: f64) -> Result<Option<f32>, ApiError> {
    Ok(fields.number(name, low..=high)?.map(|number| number as f32))
}

/// 0 and -1 keep all tokens, as in vLLM. A request that does not say is sampled
/// as the model's makers do.
fn take_top_k(fields: &mut Fields, default: Option<usize>) -> Result<Option<usize>, ApiError> {
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?;
    Ok(top_k.map_or(default, |top_k| usize::try_from(top_k).ok().filter(|top_k| *top_k > 0)))
}

fn take_logit_bias(fields: &mut Fields, vocab: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let param = "logit_bias";
    let map = match fields.take(param) {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(wrong(param, "an object from token id to bias", &other)),
    };
    if map.len() > MAX_TOKEN_LIST {
        let message = format!("{param} has {} entries, more than {MAX_TOKEN_LIST}", map.len());
        return Err(ApiError::field(param, message));
    }
    let mut biases = Vec::with_capacity(map.len());
    for (id, bias) in map {
        let id = id.parse().ok().filter(|&id: &u32| (id as usize) < vocab).ok_or_else(|| {
            ApiError::field(param, format!("{param}: keys must be token ids below {vocab}"))
        })?;
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)).ok_or_else(|| {
            ApiError::field(
                param,
                format!("{param}: the bias of token {id} must be a number between -100 and 100"),
            )
        })?;
        biases.push((id, bias as f32));
    }
    biases.sort_by_key(|&(id, _)| id);
    // "7" and "07" are two keys and one token.
    match biases.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(ApiError::field(param, format!("{param}: token {} is given twice", pair[0].0))),
        None => Ok(biases),
    }
}

fn take_stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let param = "stop";
    let items = match fields.take(param) {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(item) => vec![item],
    };
    if items.len() > MAX_STOPS {
        return Err(ApiError::field(
            param,
            format!("{param} has {} strings, more than {MAX_STOPS}", items.len()),
        ));
    }
    let stop = |item: Value| match item {
        Value::String(stop) if stop.is_empty() => {
            Err(ApiError::field(param, "a stop string must not be empty"))
        }
        Value::String(stop) if stop.len() > MAX_STOP_BYTES => Err(ApiError::field(
            param,
            format!("a stop string must not have more than {MAX_STOP_BYTES} bytes"),
        )),
        Value::String(stop) => Ok(stop),
        other => Err(wrong(param, "a string or a list of strings", &other)),
    };
    items.into_iter().map(stop).collect()
}

fn take_delivery(fields: &mut Fields) -> Result<Delivery, ApiError> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let Some(options) = fields.take("stream_options") else {
        return Ok(if stream { Delivery::Stream { include_usage: false } } else { Delivery::Whole });
    };
    if !stream {
        return Err(ApiError::field("stream_options", "stream_options needs stream to be true"));
    }
    let mut options = Fields::object("stream_options", options)?;
    options.refuse("continuous_usage_stats", "usage is sent once, at the end", |value| *value == false)?;
    Ok(Delivery::Stream { include_usage: options.boolean("include_usage")?.unwrap_or(false) })
}

/// A prompt as a completion request gives it.
pub enum PromptInput {
    /// To be tokenized.
    Text(String),
    /// Already tokens.
    Ids(Vec<u32>),
}

/// Takes the `prompt` of a completion: a string, strings, token ids, or lists of token ids.
pub fn take_prompts(fields: &mut Fields, state: &State) -> Result<Vec<PromptInput>, ApiError> {
    let param = "prompt";
    let limits = &state.service.limits;
    let expected = "a string, a list of strings, a list of token ids or a list of such lists";
    let ids = |value: Value| token_ids(param, value, limits.context, limits.vocab).map(PromptInput::Ids);
    match fields.take(param) {
        None => Err(ApiError::field(param, "prompt is missing")),
        Some(Value::String(text)) => Ok(vec![PromptInput::Text(text)]),
        Some(Value::Array(items)) => match items.first() {
            None => Err(ApiError::field(param, "prompt is an empty list")),
            Some(Value::Number(_)) => ids(Value::Array(items)).map(|prompt| vec![prompt]),
            Some(_) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(PromptInput::Text(text)),
                    Value::Array(_) => ids(item),
                    other => Err(wrong(param, expected, &other)),
                })
                .collect(),
        },
        Some(other) => Err(wrong(param, expected, &other)),
    }
}

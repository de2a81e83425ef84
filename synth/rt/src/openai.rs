//! OpenAI's routes: chat completions, completions, models.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Request, State as Shared, rejection::PathRejection},
    http::{HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    body::read_json,
    chat::ChatError,
    error::ApiError,
    log::Entry,
    request::Sampling,
    state::{Caller, Phase, State, unix_seconds},
    tokenizer::EncodeError,
};

mod call;
mod choice;
mod messages;
mod params;
mod wire;

use call::{Call, Kind};
use choice::{Choice, Echo, Rules};
use params::{MAX_LOGPROBS, Params, PromptInput, take_prompts};
use wire::{Envelope, Names};

pub(crate) use messages::take_messages;

/// Lists the fields of a request that this server does not know.
const IGNORED_FIELDS: HeaderName = HeaderName::from_static("x-ignored-fields");
/// Texts up to this size are tokenized on the spot, in a fraction of a millisecond; longer ones aside.
const SMALL_TEXT: usize = 4 << 10;

/// `POST /v1/chat/completions`.
pub async fn chat(
    Shared(state): Shared<State>,
    Extension(caller): Extension<Caller>,
    Extension(log): Extension<Arc<Entry>>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut fields = read_json(&state, request).await?;
    let params = Params::take(&mut fields, &state, caller, 1)?;
    let messages = take_messages(&mut fields)?;
    let add_generation_prompt = fields.boolean("add_generation_prompt")?.unwrap_or(true);
    let add_special = fields.boolean("add_special_tokens")?.unwrap_or(false);
    fields.refuse("echo", "chat answers stand alone", |value| *value == false)?;
    let asks_logprobs = fields.boolean("logprobs")?.unwrap_or(false);
    let top_logprobs = fields.integer("top_logprobs", 0..=MAX_LOGPROBS)?;
    if top_logprobs.is_some_and(|n| n > 0) && !asks_logprobs {
        return Err(ApiError::field("top_logprobs", "top_logprobs needs logprobs to be true"));
    }
    let ignored = fields.rest();
    let template = state.service.template.as_ref();
    let template =
        template.ok_or_else(|| ApiError::unsupported("messages", "the model has no chat template"))?;
    let text = template.render(&messages, add_generation_prompt)?;
    let prompt = encode(&state, text, add_special).await?;
    let asked = Asked {
        kind: Kind::Chat,
        param: "messages",
        prompts: vec![(prompt.into(), None)],
        n_logprobs: asks_logprobs.then(|| top_logprobs.unwrap_or(0) as usize),
        params,
    };
    answer(state, asked, ignored, log).await
}

/// `POST /v1/completions`.
pub async fn completions(
    Shared(state): Shared<State>,
    Extension(caller): Extension<Caller>,
    Extension(log): Extension<Arc<Entry>>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut fields = read_json(&state, request).await?;
    let echo = fields.boolean("echo")?.unwrap_or(false);
    // Who wants the prompt back may want nothing behind it.
    let params = Params::take(&mut fields, &state, caller, if echo { 0 } else { 1 })?;
    let inputs = take_prompts(&mut fields, &state)?;
    // Before anything is made per prompt: a small body can name very many prompts, and each choice of each of
    // them has parameters of its own.
    if state.service.outbox.never_fits(inputs.len() * params.n, 0) {
        return Err(over_the_queue("prompt"));
    }
    let add_special = fields.boolean("add_special_tokens")?.unwrap_or(true);
    let n_logprobs = fields.integer("logprobs", 0..=MAX_LOGPROBS)?.map(|n| n as usize);
    let n = params.n;
    fields.refuse("best_of", "give n instead", |value| value.as_u64() == Some(n as u64))?;
    fields.refuse("suffix", "it was built without infilling", |value| *value == "")?;
    let ignored = fields.rest();
    let mut prompts = Vec::with_capacity(inputs.len());
    for input in inputs {
        let (text, ids) = match input {
            PromptInput::Text(text) => {
                (Some(text.clone()).filter(|_| echo), encode(&state, text, add_special).await?)
            }
            PromptInput::Ids(ids) => (echo.then(|| state.service.tokenizer.decode(&ids)), ids),
        };
        let ids: Arc<[u32]> = ids.into();
        prompts.push((ids.clone(), text.map(|text| Echo { text, ids })));
    }
    answer(state, Asked { kind: Kind::Text, param: "prompt", prompts, n_logprobs, params }, ignored, log)
        .await
}

/// `GET /v1/models`: the one model, once it is served. Routers take this route for readiness.
pub async fn models(Shared(state): Shared<State>) -> Result<Response, ApiError> {
    let list = json!({ "object": "list", "data": [describe_model(&state)?] });
    Ok(Json(list).into_response())
}

/// `GET /v1/models/{id}`.
pub async fn model(
    Shared(state): Shared<State>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let described = describe_model(&state)?;
    // A path that is not text names no model.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    if id != state.service.model {
        let shown: String = id.chars().filter(|char| !char.is_control()).take(128).collect();
        return Err(ApiError::model(&shown, state.service.model));
    }
    Ok(Json(described).into_response())
}

fn describe_model(state: &State) -> Result<Value, ApiError> {
    if state.phase() != Phase::Ready {
        return Err(ApiError::unavailable("the model is not served now"));
    }
    Ok(json!({
        "id": state.service.model,
        "object": "model",
        "created": state.started,
        "owned_by": "savile",
        "root": state.service.model,
        "parent": null,
        "max_model_len": state.service.limits.context,
    }))
}

/// A call that was understood.
struct Asked {
    kind: Kind,
    /// The field that held the prompt, for errors about its length.
    param: &'static str,
    prompts: Vec<(Arc<[u32]>, Option<Echo>)>,
    n_logprobs: Option<usize>,
    params: Params,
}

/// Submits a call to the engine and answers with what comes back.
async fn answer(
    state: State,
    asked: Asked,
    ignored: Vec<String>,
    log: Arc<Entry>,
) -> Result<Response, ApiError> {
    let Asked { kind, param, prompts, n_logprobs, params } = asked;
    let mut submitted = Vec::with_capacity(prompts.len() * params.n);
    for (ids, echo) in &prompts {
        if ids.is_empty() {
            return Err(ApiError::field(param, "the prompt has no tokens"));
        }
        for choice_idx in 0..params.n {
            let sampling = params.sampling_of(choice_idx, ids.len(), &state, param)?;
            let prompt_logprobs = echo.is_some() && n_logprobs.is_some();
            submitted.push((ids.clone(), Sampling { n_logprobs, prompt_logprobs, ..sampling }));
        }
    }
    let n_prompt_tokens = submitted.iter().map(|(ids, _)| ids.len()).sum();
    if state.service.outbox.never_fits(submitted.len(), n_prompt_tokens) {
        return Err(over_the_queue(param));
    }
    let events = state.service.outbox.submit(submitted, params.cache_salt)?;
    let rules = Rules {
        stops: params.stops,
        eos: if params.sampling.ignore_eos { &[] } else { state.service.eos },
        stop_token_ids: params.sampling.stop_token_ids,
        min_tokens: params.sampling.min_tokens,
        max_tokens: params.max_tokens.map(|(_, max)| max),
    };
    let tokenizer = &state.service.tokenizer;
    let choice = |echo: &Option<Echo>| {
        let stream = if kind == Kind::Chat { tokenizer.stream() } else { tokenizer.continuation() };
        Choice::new(stream, rules.clone(), echo.clone())
    };
    let choices = prompts.iter().flat_map(|(_, echo)| (0..params.n).map(|_| choice(echo))).collect();
    let call = Call {
        kind,
        envelope: Envelope {
            id: format!("{}-{:016x}{:016x}", kind.id_prefix(), state.random(), state.random()),
            object: kind.object(),
            created: unix_seconds(),
            model: state.service.model,
            system_fingerprint: state.fingerprint.to_string(),
        },
        names: Names { tokenizer: tokenizer.clone(), by_id: params.name_tokens_by_id },
        wants_logprobs: n_logprobs.is_some(),
        wants_token_ids: params.return_token_ids,
        prompts: prompts.into_iter().map(|(ids, _)| ids).collect(),
        n: params.n,
        choices,
        events,
        state,
        log,
    };
    let mut response = call.deliver(params.delivery).await?;
    if let Some(names) = header_value(&ignored) {
        response.headers_mut().insert(IGNORED_FIELDS, names);
    }
    Ok(response)
}

/// The call alone is more than the queue ever holds, so that to try again is no use.
fn over_the_queue(param: &str) -> ApiError {
    ApiError::field(param, "the call has more prompts, choices or tokens than this server queues; split it")
}

/// The names that can stand in a header, separated by commas; at most 1024 bytes of them.
fn header_value(names: &[String]) -> Option<HeaderValue> {
    let printable = |name: &&String| name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    let mut list = names.iter().filter(printable).map(String::as_str).collect::<Vec<_>>().join(", ");
    list.truncate(1024);
    HeaderValue::try_from(list).ok().filter(|value| !value.is_empty())
}

/// Tokenizes a text. A long one must not keep the other requests of this thread waiting.
pub(crate) async fn encode(state: &State, text: String, add_special: bool) -> Result<Vec<u32>, ApiError> {
    let tokenizer = state.service.tokenizer.clone();
    let ids = if text.len() <= SMALL_TEXT {
        tokenizer.encode(&text, add_special)?
    } else {
        let encoded = tokio::task::spawn_blocking(move || tokenizer.encode(&text, add_special)).await;
        encoded.map_err(|_| ApiError::internal())??
    };
    // A tokenizer may know tokens that the model has no embedding for; the engine would reach beyond the table.
    match ids.iter().find(|&&id| id as usize >= state.service.limits.vocab) {
        Some(id) => Err(ApiError::invalid(format!("the text has token {id}, which the model does not know"))),
        None => Ok(ids),
    }
}

impl From<EncodeError> for ApiError {
    fn from(error: EncodeError) -> ApiError {
        ApiError::invalid(error.to_string())
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> ApiError {
        ApiError::field("messages", error.to_string())
    }
}

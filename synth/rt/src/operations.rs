//! The routes that operate a server: health, metrics, version, tokens.

use axum::{
    Json,
    extract::{Request, State as Shared},
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    body::read_json,
    error::ApiError,
    metrics,
    openai::{encode, take_messages},
    state::{Phase, State},
};

/// `GET /health`: 200 while requests are served and the engine makes steps whenever it has work.
pub async fn health(Shared(state): Shared<State>) -> Result<Response, ApiError> {
    match state.phase() {
        Phase::Loading => return Err(ApiError::unavailable("the model is loading")),
        Phase::Draining | Phase::Ended => return Err(ApiError::unavailable("the server is shutting down")),
        Phase::Ready => {}
    }
    let metrics = &state.service.metrics;
    if state.service.outbox.has_lost_engine() {
        return Err(ApiError::unavailable("the engine has stopped"));
    }
    if metrics.stalled_for() > state.service.limits.stall_time {
        return Err(ApiError::unavailable("the engine has work and makes no progress"));
    }
    Ok(Json(json!({ "status": "ok" })).into_response())
}

/// `GET /metrics`: Prometheus text.
pub async fn metrics(Shared(state): Shared<State>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], state.service.metrics.render()).into_response()
}

/// `GET /version`: what this binary was built from.
pub async fn version(Shared(state): Shared<State>) -> Response {
    let build = &state.service.build;
    Json(json!({
        "name": build.name,
        "version": build.version,
        "spec_digest": build.spec_digest,
        "plan_digest": build.plan_digest,
        "weights_digest": build.weights_digest,
    }))
    .into_response()
}

/// `POST /tokenize`: the tokens of a `prompt`, or of `messages` through the chat template.
pub async fn tokenize(Shared(state): Shared<State>, request: Request) -> Result<Response, ApiError> {
    let mut fields = read_json(&state, request).await?;
    let prompt = fields.string("prompt")?;
    let (text, add_special) = match (prompt, &state.service.template) {
        (Some(text), _) => (text, fields.boolean("add_special_tokens")?.unwrap_or(true)),
        (None, Some(template)) => {
            let messages = take_messages(&mut fields)?;
            let add_generation_prompt = fields.boolean("add_generation_prompt")?.unwrap_or(true);
            let text = template.render(&messages, add_generation_prompt)?;
            (text, fields.boolean("add_special_tokens")?.unwrap_or(false))
        }
        (None, None) => return Err(ApiError::field("prompt", "prompt is missing")),
    };
    let tokens = encode(&state, text, add_special).await?;
    Ok(Json(json!({
        "count": tokens.len(),
        "max_model_len": state.service.limits.context,
        "tokens": tokens,
    }))
    .into_response())
}

/// `POST /detokenize`: the text of `tokens`, special ones spelled out.
pub async fn detokenize(Shared(state): Shared<State>, request: Request) -> Result<Response, ApiError> {
    let mut fields = read_json(&state, request).await?;
    let limits = &state.service.limits;
    let tokens = fields.token_ids("tokens", limits.body_bytes, limits.vocab)?;
    let tokens = tokens.ok_or_else(|| ApiError::field("tokens", "tokens is missing"))?;
    Ok(Json(json!({ "prompt": state.service.tokenizer.decode_with_special(&tokens) })).into_response())
}

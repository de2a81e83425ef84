//! Errors as OpenAI's clients expect them: one shape, and a status that says whether to try again.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::request::Refused;

/// The official client obeys this header over its own rule, which is to retry 408, 409, 429 and 5xx.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An answer that is an error. The message is for the client: it never holds a path, an address or a type name.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
}

#[derive(Serialize)]
struct Body<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, kind, message: message.into(), param: None, code: None, retry_after: None }
    }

    fn code(self, code: &'static str) -> ApiError {
        ApiError { code: Some(code), ..self }
    }

    /// 400: the request as a whole makes no sense.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400: one field is wrong.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::invalid(message).code("invalid_value") }
    }

    /// The same error about a field inside the object `param`.
    pub fn within(self, param: &str) -> ApiError {
        match self.param {
            Some(inner) => {
                let outer = format!("{param}.{inner}");
                ApiError { message: format!("{param}.{}", self.message), param: Some(outer), ..self }
            }
            None => self,
        }
    }

    /// 400: a field is known, but this binary was built without what it asks for.
    pub fn unsupported(param: &str, why: &str) -> ApiError {
        let message = format!("{param} is not supported by this server: {why}");
        ApiError { param: Some(param.to_owned()), ..ApiError::invalid(message).code("unsupported_parameter") }
    }

    /// 400: prompt and answer do not fit the context.
    pub fn context(param: &str, message: String) -> ApiError {
        ApiError {
            param: Some(param.to_owned()),
            ..ApiError::invalid(message).code("context_length_exceeded")
        }
    }

    /// 401: no key, or a wrong one.
    pub fn unauthorized() -> ApiError {
        let message = "missing or wrong API key; send `Authorization: Bearer KEY`";
        ApiError::new(StatusCode::UNAUTHORIZED, "invalid_request_error", message).code("invalid_api_key")
    }

    /// 404: another model's name.
    pub fn model(asked: &str, served: &str) -> ApiError {
        let message = format!("the model `{asked}` does not exist; this server serves `{served}`");
        let error =
            ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", message).code("model_not_found");
        ApiError { param: Some("model".to_owned()), ..error }
    }

    /// 404: no such route.
    pub fn route() -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "no such route").code("not_found")
    }

    /// 405: the route exists under another method.
    pub fn method() -> ApiError {
        let message = "this route does not have that method";
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
            .code("method_not_allowed")
    }

    /// 408: the body did not come in time.
    pub fn body_timeout() -> ApiError {
        let message = "the request's body did not arrive in time";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message).code("timeout")
    }

    /// 413: the body is too large.
    pub fn body_too_large(limit: usize) -> ApiError {
        let message = format!("the request's body has more than {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message).code("body_too_large")
    }

    /// 415: the body is not declared to be JSON.
    pub fn media_type() -> ApiError {
        let message = "send the body as JSON, with `Content-Type: application/json`";
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message).code("not_json")
    }

    /// 500: a fault of ours. What happened is in the log, not in the answer.
    pub fn internal() -> ApiError {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            "the server failed to answer this request",
        )
    }

    /// 503: no requests are served now.
    pub fn unavailable(message: &str) -> ApiError {
        let error =
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message).code("unavailable");
        ApiError { retry_after: Some(Duration::from_secs(1)), ..error }
    }

    /// The error as the JSON body of a response, or of one event of a stream.
    pub fn body(&self) -> Value {
        json!({ "error": Body {
            message: &self.message,
            r#type: self.kind,
            param: self.param.as_deref(),
            code: self.code,
        }})
    }

    /// Whether the same request would fail the same way for ever.
    fn is_deterministic(&self) -> bool {
        self.status.is_client_error()
            && self.status != StatusCode::REQUEST_TIMEOUT
            && self.status != StatusCode::TOO_MANY_REQUESTS
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> ApiError {
        match refused {
            Refused::Overloaded { retry_after } => {
                let error =
                    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", refused.to_string());
                ApiError { retry_after: Some(retry_after), ..error.code("overloaded") }
            }
            Refused::Stopped => ApiError::unavailable("the engine has stopped"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if self.is_deterministic() {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Some(retry_after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, retry_after.as_secs().max(1).into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

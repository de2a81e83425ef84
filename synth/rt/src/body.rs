//! Bodies: a request's, read with a bound on size and time; a stream's, sent event by event.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, header},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Frame;
use tokio::{sync::mpsc, time::timeout};

use crate::{error::ApiError, fields::Fields, state::State};

/// How long a client may read nothing of an answer before it counts as gone.
pub const STUCK: Duration = Duration::from_secs(60);

/// Reads a JSON body.
pub async fn read_json(state: &State, request: Request) -> Result<Fields, ApiError> {
    let limits = &state.service.limits;
    let headers = request.headers();
    if !is_json(headers) {
        return Err(ApiError::media_type());
    }
    let too_large = || ApiError::body_too_large(limits.body_bytes);
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limits.body_bytes as u64) {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), limits.body_bytes);
    let bytes = timeout(limits.body_time, body.collect()).await.map_err(|_| ApiError::body_timeout())?;
    match bytes {
        Ok(bytes) => Fields::parse(&bytes.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ApiError::invalid("the request's body ended early or is badly framed")),
    }
}

/// Whether the body is declared to be JSON. A page in a browser cannot send that to another origin without
/// being asked first, so this also keeps foreign pages from using a server on this machine.
fn is_json(headers: &HeaderMap) -> bool {
    let declared =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// A body made of the pieces that a task sends. When the client goes, the task's sender closes.
pub fn channel() -> (mpsc::Sender<Bytes>, Body) {
    // A few events: a reader that is slower than the engine makes the task wait, not the memory grow.
    let (sender, receiver) = mpsc::channel(16);
    (sender, Body::new(Channel(receiver)))
}

struct Channel(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Channel {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

//! The server around the routes: connections and their limits, keys, request ids, and an orderly end.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener},
    pin::{Pin, pin},
    process::exit,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State as Shared},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper::{body::Frame, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{self, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

mod patient;

use crate::{
    body::STUCK,
    error::ApiError,
    log::{Entry, survive, write_line},
    state::{Phase, State},
};
use patient::Patient;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Of a request's head, and of the buffer it is read into.
const HEAD_BYTES: usize = 32 << 10;
const N_HEADERS: usize = 64;
/// After a failure to accept, which is a lack of file descriptors: long enough for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For the first byte of a connection that was taken just before the server was told to stop.
const FIRST_BYTE_TIME: Duration = Duration::from_millis(100);
/// For a client to stop sending a body that was refused.
const LINGER_TIME: Duration = Duration::from_secs(5);
/// A client that has sent nothing for this long has noticed that it was refused.
const QUIET_TIME: Duration = Duration::from_secs(1);
/// For the last bytes of answers to leave once no more are made.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// The HTTP side of a server, ready to serve.
pub struct Front {
    runtime: Runtime,
    listener: TcpListener,
    routes: Router<State>,
    state: State,
}

impl Front {
    /// Takes `listener` for `routes`, which come without their state, as `Router::new().route(..)` makes them. From now
    /// on SIGTERM or SIGINT asks the server to stop; a second one ends the process at once.
    pub fn new(listener: TcpListener, routes: Router<State>, state: State) -> io::Result<Front> {
        // Two threads: the cores belong to the engine, and a long text must not stop the other requests' tokens.
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(2)
            .enable_all()
            .build()?;
        let obeying = runtime.block_on(async {
            let signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
            io::Result::Ok(tokio::spawn(obey(signals, state.clone())))
        });
        obeying?;
        Ok(Front { runtime, listener, routes, state })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the process is told to stop, and then until running requests have finished, for
    /// [`crate::state::Limits::drain_time`] at most.
    pub fn run(self) -> io::Result<()> {
        let Front { runtime, listener, routes, state } = self;
        runtime.block_on(serve_until_drained(listener, routes, state))
    }
}

/// Drains at the first signal and ends the process at the second.
async fn obey([mut terminate, mut interrupt]: [Signal; 2], state: State) {
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if state.phase() as u8 >= Phase::Draining as u8 {
            exit(1);
        }
        state.drain();
    }
}

/// Accepts connections until the state is drained and the connections that were open then have ended.
async fn serve_until_drained(listener: TcpListener, routes: Router<State>, state: State) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let service = assemble(routes, &state);
    let places = Arc::new(Semaphore::new(state.service.limits.n_connections));
    let mut connections = JoinSet::new();
    let mut late = JoinSet::new();
    let mut end = pin!(end_after_draining(state.clone()));
    loop {
        let is_draining = state.phase() as u8 >= Phase::Draining as u8;
        if is_draining && connections.is_empty() {
            break;
        }
        tokio::select! {
            accepted = accept(&listener, &places) => {
                let (stream, place) = match accepted {
                    Ok(accepted) => accepted,
                    Err(_) => {
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let (service, state) = (service.clone(), state.clone());
                // Who comes while the server drains is told so, and is not waited for.
                if is_draining {
                    late.spawn(async move {
                        turn_away(stream, service, state).await;
                        drop(place);
                    });
                } else {
                    connections.spawn(async move {
                        connect(stream, service, state).await;
                        drop(place);
                    });
                }
            }
            Some(_) = connections.join_next() => {}
            Some(_) = late.join_next() => {}
            () = state.reached(Phase::Draining), if !is_draining => {}
            () = &mut end => break,
        }
    }
    state.end();
    let _ = timeout(FLUSH_TIME, async { while late.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Gives up what still runs when the time to drain is over, and lets the news leave.
async fn end_after_draining(state: State) {
    state.reached(Phase::Draining).await;
    sleep(state.service.limits.drain_time).await;
    state.end();
    sleep(FLUSH_TIME).await;
}

type Place = tokio::sync::OwnedSemaphorePermit;

async fn accept(
    listener: &tokio::net::TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, Place)> {
    // The semaphore is never closed.
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // An event must leave when it is written, not when the next one comes.
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

/// Serves one connection until its end, or until the server drains and its request is answered.
async fn connect(stream: TcpStream, service: Router, state: State) {
    if !speaks(&stream, &state).await {
        return;
    }
    let service = TowerToHyperService::new(service);
    let stream = TokioIo::new(Patient::new(stream, STUCK));
    let mut connection = protocol(&state).serve_connection(stream, service);
    tokio::select! {
        // First, so that what has arrived is read before the end is asked for.
        biased;
        // How a connection broke is its client's affair.
        _ = poll_fn(|context| connection.poll_without_shutdown(context)) => {
            hang_up(connection.into_parts().io.into_inner()).await;
        }
        () = state.reached(Phase::Draining) => {
            Pin::new(&mut connection).graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Ends a connection so that its last answer arrives, even at a client that is still sending a body nobody wants.
///
/// To close while bytes come in would reset the connection, and a reset overtakes the answer. So this stops writing
/// first, and reads on until the client has stopped too (RFC 9112, section 9.6).
async fn hang_up(mut stream: Patient<TcpStream>) {
    let mut unwanted = vec![0; HEAD_BYTES];
    let _ = timeout(LINGER_TIME, async {
        stream.shutdown().await?;
        while timeout(QUIET_TIME, stream.read(&mut unwanted)).await?? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// Waits for a connection's first byte; says whether it came. The head that it begins has its own time.
///
/// A connection that is told to end before its first byte was read ends without a word, even if a request is on
/// its way: so whoever has just come when the server is told to stop is heard first, and told so.
async fn speaks(stream: &TcpStream, state: &State) -> bool {
    // Not `readable`, which may return before there is anything to read.
    let mut byte = [0];
    let first = tokio::select! {
        biased;
        first = timeout(state.service.limits.header_time, stream.peek(&mut byte)) => first,
        () = state.reached(Phase::Draining) => timeout(FIRST_BYTE_TIME, stream.peek(&mut [0])).await,
    };
    matches!(first, Ok(Ok(1)))
}

/// Answers one request of a connection that came while the server drains: with 503, unless it asks how it does.
async fn turn_away(stream: TcpStream, service: Router, state: State) {
    let service = TowerToHyperService::new(service);
    let stream = TokioIo::new(Patient::new(stream, STUCK));
    let _ = protocol(&state).keep_alive(false).serve_connection(stream, service).await;
}

fn protocol(state: &State) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(state.service.limits.header_time)
        .max_headers(N_HEADERS)
        .max_buf_size(HEAD_BYTES);
    protocol
}

/// The routes with everything around them.
fn assemble(routes: Router<State>, state: &State) -> Router {
    routes
        .fallback(|| async { ApiError::route() })
        .method_not_allowed_fallback(|| async { ApiError::method() })
        .layer(middleware::from_fn_with_state(state.clone(), guard))
        .with_state(state.clone())
}

/// What happens around every request: its id, its line in the log, the caller's key, the server's phase, and
/// an answer even if the handler panics.
async fn guard(Shared(state): Shared<State>, mut request: Request, next: Next) -> Response {
    let request_id = request_id(request.headers(), &state);
    let path = request.uri().path().to_owned();
    let log = Arc::new(Entry::new(request_id.clone(), request.method().as_str(), &path));
    let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let caller = state.service.keys.caller(authorization);
    let mut response = match (caller, path.as_str(), state.phase()) {
        (None, path, _) if path != "/health" => ApiError::unauthorized().into_response(),
        (_, "/health" | "/metrics" | "/version", _) | (_, _, Phase::Ready) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            request.extensions_mut().insert(log.clone());
            survive(next.run(request)).await.unwrap_or_else(|_| {
                write_line(json!({ "request_id": request_id, "error": "a handler panicked" }));
                ApiError::internal().into_response()
            })
        }
        (_, _, Phase::Loading) => ApiError::unavailable("the model is loading").into_response(),
        (_, _, Phase::Draining | Phase::Ended) => {
            ApiError::unavailable("the server is shutting down").into_response()
        }
    };
    if let Ok(request_id) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert(REQUEST_ID, request_id);
    }
    log.answered(response.status().as_u16());
    response.map(|body| Body::new(Logged { body, _log: log }))
}

/// The client's id for the request, as far as it can stand in a header and a log; else a new one.
fn request_id(headers: &HeaderMap, state: &State) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let plain = |char: &char| char.is_ascii_alphanumeric() || "-_.:/".contains(*char);
    let kept: String = given.chars().filter(plain).take(128).collect();
    if kept.is_empty() { format!("req-{:016x}", state.random()) } else { kept }
}

/// A body that keeps its request's line in the log open until it has been sent.
struct Logged {
    body: Body,
    _log: Arc<Entry>,
}

impl hyper::body::Body for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;

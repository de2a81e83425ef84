//! An HTTP/1.1 client for measuring: one keep-alive connection per request in flight, every event stamped on arrival.

mod sse;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use sse::SseParser;

/// How long a whole exchange may take unless [`Client::timeout`] says otherwise.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Largest body read into memory, in bytes; prompt log-probabilities are the largest honest ones.
const BODY_LIMIT: usize = 256 << 20;

/// A client of one server. It opens a connection when none is idle, so requests in flight never share one.
#[derive(Debug)]
pub struct Client {
    addr: SocketAddr,
    timeout: Duration,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The response headers.
    pub headers: HeaderMap,
    /// The body: parsed when it is JSON, a string when it is other text, null after a stream of events.
    pub body: Value,
}

/// Why there is no answer. An answer with an error status is a [`Reply`], not one of these.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum ClientError {
    #[error("cannot connect to {addr}: {source}")]
    Connect { addr: SocketAddr, source: std::io::Error },
    #[error("{path} on {addr} took longer than {after:?}")]
    Timeout { addr: SocketAddr, path: String, after: Duration },
    #[error("{path} on {addr} failed: {source}")]
    Http { addr: SocketAddr, path: String, source: hyper::Error },
    #[error("{path} on {addr} cannot be asked for: {source}")]
    Request { addr: SocketAddr, path: String, source: hyper::http::Error },
    #[error("{path} on {addr} sent what is not JSON ({reason}): {text}")]
    Json { addr: SocketAddr, path: String, reason: String, text: String },
    #[error("{path} on {addr} sent more than {BODY_LIMIT} bytes")]
    TooLarge { addr: SocketAddr, path: String },
}

impl Client {
    /// A client of the server at `addr`. Nothing is opened until something is asked.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, timeout: TIMEOUT, idle: Mutex::new(Vec::new()) }
    }

    /// The same client with another bound on a whole exchange, streams included.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Where the server listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When no complete answer comes.
    pub async fn get(&self, path: &str) -> Result<Reply, ClientError> {
        self.within(path, self.exchange(Method::GET, path, Bytes::new(), None::<fn(Instant, &str)>)).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// When no complete answer comes.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply, ClientError> {
        let body = Bytes::from(body.to_string());
        self.within(path, self.exchange(Method::POST, path, body, None::<fn(Instant, &str)>)).await
    }

    /// `POST path` with a JSON body, and one call of `on_event` per server-sent event with the instant at which its
    /// last byte arrived and its data. `[DONE]` is passed on too. Dropping the future closes the connection, which
    /// is how a caller aborts. When the answer is no event stream (an error, say), it is read whole into the reply.
    ///
    /// # Errors
    /// When the stream breaks off or no complete answer comes.
    pub async fn stream(
        &self,
        path: &str,
        body: &Value,
        on_event: impl FnMut(Instant, &str),
    ) -> Result<Reply, ClientError> {
        let body = Bytes::from(body.to_string());
        self.within(path, self.exchange(Method::POST, path, body, Some(on_event))).await
    }

    async fn within(
        &self,
        path: &str,
        exchange: impl Future<Output = Result<Reply, ClientError>>,
    ) -> Result<Reply, ClientError> {
        let (addr, after) = (self.addr, self.timeout);
        match timeout(after, exchange).await {
            Ok(reply) => reply,
            Err(_) => Err(ClientError::Timeout { addr, path: path.to_owned(), after }),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        on_event: Option<impl FnMut(Instant, &str)>,
    ) -> Result<Reply, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.addr.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|source| ClientError::Request { addr: self.addr, path: path.to_owned(), source })?;
        let (connection, response) = self.send(path, request).await?;
        let (head, incoming) = response.into_parts();
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let body = match on_event {
            Some(on_event) if content_type.starts_with("text/event-stream") => {
                self.read_events(path, incoming, on_event).await?;
                Value::Null
            }
            _ => self.read_whole(path, incoming, content_type.contains("json")).await?,
        };
        if !connection.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    /// Sends on an idle connection, or on a new one when there is none or it was closed meanwhile.
    async fn send(
        &self,
        path: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<(SendRequest<Full<Bytes>>, Response<Incoming>), ClientError> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let is_fresh = idle.is_none();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect(path).await?,
            };
            if connection.ready().await.is_err() && !is_fresh {
                continue;
            }
            match connection.send_request(request.clone()).await {
                Ok(response) => return Ok((connection, response)),
                // The server closed an idle connection, perhaps while this request was on its way: it answered nothing.
                Err(error) if !is_fresh && is_unanswered(&error) => {}
                Err(error) => return Err(self.http(path)(error)),
            }
        }
    }

    async fn connect(&self, path: &str) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let addr = self.addr;
        let connect = |source| ClientError::Connect { addr, source };
        let stream = TcpStream::connect(addr).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(self.http(path))?;
        tokio::spawn(async move {
            // A failed connection also fails the request on it, which is where it is reported.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn read_events(
        &self,
        path: &str,
        mut incoming: Incoming,
        mut on_event: impl FnMut(Instant, &str),
    ) -> Result<(), ClientError> {
        let mut parser = SseParser::default();
        while let Some(frame) = incoming.frame().await {
            let arrived = Instant::now();
            if let Some(chunk) = frame.map_err(self.http(path))?.data_ref() {
                parser.feed(chunk, |data| on_event(arrived, data));
            }
        }
        Ok(())
    }

    async fn read_whole(&self, path: &str, incoming: Incoming, is_json: bool) -> Result<Value, ClientError> {
        let (addr, path) = (self.addr, path.to_owned());
        let body = match Limited::new(incoming, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(ClientError::TooLarge { addr, path }),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(source) => return Err(ClientError::Http { addr, path, source: *source }),
                Err(other) => {
                    let (reason, text) = (other.to_string(), String::new());
                    return Err(ClientError::Json { addr, path, reason, text });
                }
            },
        };
        let text = || String::from_utf8_lossy(&body).into_owned();
        if !is_json {
            return Ok(Value::String(text()));
        }
        serde_json::from_slice(&body).map_err(|error| {
            let (reason, text) = (error.to_string(), text().chars().take(200).collect());
            ClientError::Json { addr, path, reason, text }
        })
    }

    fn http(&self, path: &str) -> impl FnOnce(hyper::Error) -> ClientError + use<> {
        let (addr, path) = (self.addr, path.to_owned());
        move |source| ClientError::Http { addr, path, source }
    }
}

/// Whether not a byte of an answer came.
fn is_unanswered(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed() || error.is_incomplete_message()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scripted::Script;

    #[tokio::test]
    async fn answers_come_back_whole_and_connections_are_kept() {
        let client = Client::new(Script::pace(1, 1).start().await);
        for n in 0..3 {
            let reply = client.post("/echo", &json!({ "n": n })).await.expect("an answer");
            assert_eq!((reply.status, reply.body), (StatusCode::OK, json!({ "n": n })));
            assert_eq!(client.idle.lock().expect("not poisoned").len(), 1);
        }
        assert_eq!(client.get("/nowhere").await.expect("an answer").status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn events_are_stamped_as_they_arrive() {
        let client = Client::new(Script::pace(1, 30).start().await);
        let mut stamps = Vec::new();
        let ask = json!({ "max_tokens": 3 });
        client.stream("/v1/completions", &ask, |at, _| stamps.push(at)).await.expect("a stream");
        assert_eq!(stamps.len(), 6, "three tokens, the reason, the usage and the end");
        assert!(stamps[1] - stamps[0] >= Duration::from_millis(20));
        assert!(stamps[2] - stamps[1] >= Duration::from_millis(20));
    }

    #[tokio::test]
    async fn an_error_instead_of_a_stream_is_an_answer() {
        let client = Client::new(Script { capacity: 0, ..Script::pace(1, 1) }.start().await);
        let reply = client.stream("/v1/completions", &json!({}), |_, _| {}).await.expect("an answer");
        assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(reply.body.get("error").is_some());
    }

    #[tokio::test]
    async fn a_closed_idle_connection_is_replaced() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = Client::new(listener.local_addr().expect("an address"));
        let serve = async {
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let mut request = [0; 1024];
                tokio::io::AsyncReadExt::read(&mut stream, &mut request).await.expect("a request");
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.expect("an answer");
            }
        };
        let ask = async {
            // The server closes after each answer without saying so: noticed in time, and too late.
            assert_eq!(client.get("/").await.expect("an answer").body, json!("ok"));
            tokio::time::sleep(Duration::from_millis(20)).await;
            for _ in 0..2 {
                assert_eq!(client.get("/").await.expect("an answer").body, json!("ok"));
            }
        };
        tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn patience_ends() {
        let client = Client::new(Script::pace(5000, 1).start().await).timeout(Duration::from_millis(50));
        let error =
            client.stream("/v1/completions", &json!({"max_tokens": 1}), |_, _| {}).await.expect_err("late");
        assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    }
}

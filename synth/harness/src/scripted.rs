//! A server for tests whose latencies are known: it streams as many tokens as it is asked for, at a fixed pace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::client::Client;
use crate::load::{Target, Wire};

/// How the server behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script {
    /// Before the first token.
    pub(crate) first: Duration,
    /// Before each further token.
    pub(crate) next: Duration,
    /// Tokens left out of each answer.
    pub(crate) missing: usize,
    /// Requests answered before all others are turned away with 429.
    pub(crate) capacity: usize,
}

impl Script {
    /// A server that answers everything, at this pace in milliseconds.
    pub(crate) fn pace(first_ms: u64, next_ms: u64) -> Self {
        let (first, next) = (Duration::from_millis(first_ms), Duration::from_millis(next_ms));
        Self { first, next, missing: 0, capacity: usize::MAX }
    }

    /// Starts it on a free port; it ends with the runtime of the test.
    pub(crate) async fn start(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        tokio::spawn(self.accept(listener));
        addr
    }

    /// Answers whoever comes to the listener, for ever.
    pub(crate) async fn accept(self, listener: TcpListener) {
        let answered = Arc::new(AtomicUsize::new(0));
        while let Ok((stream, _)) = listener.accept().await {
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                // A client that hangs up is no concern of the script.
                let _ = self.serve(stream, &answered).await;
            });
        }
    }

    /// Starts it and returns it as a target of load.
    pub(crate) async fn target(self) -> Target {
        Target::new(Client::new(self.start().await), Wire::OpenAi { model: "scripted".into() })
    }

    async fn serve(self, stream: TcpStream, answered: &AtomicUsize) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        while let Some((path, body)) = read_request(&mut stream).await? {
            let is_welcome = || answered.fetch_add(1, Ordering::Relaxed) < self.capacity;
            match path.as_str() {
                "/health" => reply(&mut stream, "200 OK", &json!({})).await?,
                "/v1/completions" if is_welcome() => self.complete(&mut stream, &body).await?,
                "/v1/completions" => {
                    reply(&mut stream, "429 Too Many Requests", &json!({"error": {}})).await?
                }
                "/tokenize" => {
                    let text = body["prompt"].as_str().unwrap_or("");
                    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
                    reply(&mut stream, "200 OK", &json!({ "tokens": tokens })).await?;
                }
                "/echo" => reply(&mut stream, "200 OK", &body).await?,
                _ => reply(&mut stream, "404 Not Found", &json!({"error": {}})).await?,
            }
        }
        Ok(())
    }

    async fn complete(self, stream: &mut BufReader<TcpStream>, body: &Value) -> std::io::Result<()> {
        let wanted = body["max_tokens"].as_u64().unwrap_or(1) as usize;
        let n_tokens = wanted.saturating_sub(self.missing);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        for idx in 0..n_tokens {
            sleep(if idx == 0 { self.first } else { self.next }).await;
            event(stream, &json!({"choices": [{"token_ids": [idx], "finish_reason": null}]}).to_string())
                .await?;
        }
        event(stream, &json!({"choices": [{"token_ids": [], "finish_reason": "length"}]}).to_string())
            .await?;
        event(stream, &json!({"choices": [], "usage": {"completion_tokens": n_tokens}}).to_string()).await?;
        event(stream, "[DONE]").await?;
        stream.write_all(b"0\r\n\r\n").await?;
        stream.flush().await
    }
}

async fn event(stream: &mut BufReader<TcpStream>, data: &str) -> std::io::Result<()> {
    let event = format!("data: {data}\n\n");
    stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
    stream.flush().await
}

async fn reply(stream: &mut BufReader<TcpStream>, status: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.flush().await
}

/// The path and the JSON body of the next request, or `None` when the client has hung up.
async fn read_request(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<(String, Value)>> {
    let mut path = None;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_ascii_lowercase();
        if path.is_none() {
            path = line.split(' ').nth(1).map(str::to_owned);
        } else if line.is_empty() {
            break;
        } else if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(path.map(|path| (path, serde_json::from_slice(&body).unwrap_or(Value::Null))))
}

//! The server over real sockets, with an engine that says what a test wrote for it.

mod chat;
mod completions;
mod hostile;
mod operation;
mod refusals;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use axum::routing::{get, post};
use serde_json::Value;

use super::*;
use crate::{
    chat::ChatTemplate,
    metrics::{CacheShape, Metrics},
    openai, operations,
    request::{Event, Finish, Inbox, Outbox, QueueBound, Request, Sampling, TokenLogprobs, queue},
    state::{Build, Defaults, Keys, Limits, Service},
    tokenizer::Tokenizer,
};

const MODEL: &str = "tiny";
const EOS: u32 = 562;
const CONTEXT: usize = 256;

/// What the engine says to every request, and how fast.
#[derive(Clone)]
struct Script {
    text: &'static str,
    step: Duration,
    n_sequences: usize,
    queue: QueueBound,
    limits: Limits,
    keys: &'static str,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            text: "Hello 世界 🙂, said the fox.",
            step: Duration::ZERO,
            n_sequences: 4,
            queue: QueueBound { n_requests: 8, n_prompt_tokens: 1000 },
            limits: Limits {
                context: CONTEXT,
                max_output: 64,
                max_choices: 4,
                vocab: 565,
                body_bytes: 1 << 16,
                n_connections: 32,
                header_time: Duration::from_secs(20),
                body_time: Duration::from_secs(20),
                drain_time: Duration::from_secs(20),
                stall_time: Duration::from_secs(20),
            },
            keys: "",
        }
    }
}

/// What the engine saw.
#[derive(Default)]
struct Seen {
    samplings: Mutex<Vec<Sampling>>,
    prompts: Mutex<Vec<Vec<u32>>>,
    salts: Mutex<Vec<u64>>,
    n_cancelled: AtomicUsize,
    n_tokens: AtomicUsize,
}

/// A server on a port of its own, with its engine.
struct Server {
    addr: SocketAddr,
    state: State,
    seen: Arc<Seen>,
    http: Option<JoinHandle<io::Result<()>>>,
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/qwen3").join(path)
}

fn tokenizer() -> Tokenizer {
    Tokenizer::open(fixture("tokenizer.json")).expect("fixture")
}

/// The state of a server that is still loading, with `outbox` as the way to its engine.
fn state(script: &Script, outbox: Outbox, metrics: Arc<Metrics>) -> State {
    let template = std::fs::read_to_string(fixture("chat_template.jinja")).expect("fixture").leak();
    State::new(Service {
        model: MODEL,
        build: Build {
            name: "t",
            version: "0",
            spec_digest: "s",
            plan_digest: "p0123456789abcdef",
            weights_digest: "w",
        },
        limits: script.limits,
        defaults: Defaults {
            temperature: 0.75,
            top_p: 0.5,
            top_k: Some(9),
            min_p: 0.25,
            repetition_penalty: 1.25,
        },
        eos: &[EOS],
        tokenizer: tokenizer(),
        template: Some(ChatTemplate::new(template, "", "<|im_end|>").expect("compiles")),
        outbox,
        metrics,
        keys: keys(script.keys),
    })
}

/// A queue and the counters of both its ends.
fn outbox_and_inbox(script: &Script) -> (Outbox, Inbox, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new(MODEL, CONTEXT, CacheShape { block_size: 16, n_blocks: 64 }));
    let (outbox, inbox) = queue(script.queue, metrics.clone());
    (outbox, inbox, metrics)
}

/// The same with the engine running.
fn state_with_engine(script: &Script) -> (State, Arc<Seen>) {
    let (outbox, inbox, metrics) = outbox_and_inbox(script);
    let seen = Arc::new(Seen::default());
    let mut answer = tokenizer().encode(script.text, false).expect("encodes");
    answer.push(EOS);
    let engine =
        Engine { inbox, answer, step: script.step, n_sequences: script.n_sequences, seen: seen.clone() };
    let engine_metrics = metrics.clone();
    thread::spawn(move || engine.run(&engine_metrics));
    (state(script, outbox, metrics), seen)
}

impl Server {
    fn start(script: Script) -> Server {
        let (state, seen) = state_with_engine(&script);
        state.set_ready();
        Server::serving(state, seen)
    }

    fn serving(state: State, seen: Arc<Seen>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let addr = listener.local_addr().expect("bound");
        let serving = state.clone();
        let http = thread::spawn(move || {
            let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(serve_until_drained(listener, routes(), serving))
        });
        Server { addr, state, seen, http: Some(http) }
    }

    fn ready() -> Server {
        Server::start(Script::default())
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).expect("listening");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("socket");
        stream
    }

    /// Sends bytes as they are and reads until the server closes.
    fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("sent");
        read_reply(stream)
    }

    fn get(&self, path: &str) -> Reply {
        self.raw(format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").as_bytes())
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        self.raw(request_bytes(path, &body.to_string(), "connection: close\r\n").as_bytes())
    }

    /// The events of a stream, parsed; the last one must be `[DONE]` and is left out.
    fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let mut events: Vec<&str> = reply.text.split("\n\n").collect();
        assert_eq!(events.pop(), Some(""), "each event ends with an empty line");
        assert_eq!(events.pop(), Some("data: [DONE]"));
        let parse =
            |event: &str| serde_json::from_str(event.strip_prefix("data: ").expect("data")).expect("JSON");
        events.into_iter().map(parse).collect()
    }

    fn wait_for(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(30), "{what} did not come");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.drain();
        self.state.end();
        if let Some(http) = self.http.take() {
            let _ = http.join();
        }
    }
}

fn routes() -> Router<State> {
    Router::new()
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{id}", get(openai::model))
        .route("/health", get(operations::health))
        .route("/metrics", get(operations::metrics))
        .route("/version", get(operations::version))
        .route("/tokenize", post(operations::tokenize))
        .route("/detokenize", post(operations::detokenize))
        .route("/panic", get(panics))
}

async fn panics() -> Response {
    panic!("at /secret/path")
}

fn keys(text: &'static str) -> Keys {
    if text.is_empty() {
        return Keys::default();
    }
    let path = std::env::temp_dir().join(format!("rt-serve-keys-{}", std::process::id()));
    std::fs::write(&path, text).expect("temporary file");
    Keys::read(&path).expect("keys")
}

fn request_bytes(path: &str, body: &str, headers: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// An engine of several sequences, one token each per step.
struct Engine {
    inbox: Inbox,
    answer: Vec<u32>,
    step: Duration,
    n_sequences: usize,
    seen: Arc<Seen>,
}

impl Engine {
    fn run(self, metrics: &Metrics) {
        let mut running: Vec<(Request, usize)> = Vec::new();
        loop {
            if running.is_empty() {
                let Some(request) = self.inbox.recv() else { return };
                running.push((self.admit(request), 0));
            }
            while running.len() < self.n_sequences {
                let Some(request) = self.inbox.try_recv() else { break };
                running.push((self.admit(request), 0));
            }
            thread::sleep(self.step);
            metrics.step(self.step, running.len());
            running.retain_mut(|(request, n_tokens)| self.advance(request, n_tokens));
            self.inbox.herald().tell();
        }
    }

    fn admit(&self, mut request: Request) -> Request {
        self.seen.samplings.lock().expect("no panic").push(request.sampling.clone());
        self.seen.prompts.lock().expect("no panic").push(request.prompt.to_vec());
        self.seen.salts.lock().expect("no panic").push(request.cache_salt);
        let scored = request.sampling.prompt_logprobs;
        let n = request.sampling.n_logprobs.unwrap_or(0);
        let logprobs = request.prompt.iter().skip(1).filter(|_| scored).map(|&id| score(id, n)).collect();
        request.events.send(Event::Prompt { cached_tokens: request.prompt.len() / 2, logprobs });
        request
    }

    /// Makes one token; says whether more come.
    fn advance(&self, request: &mut Request, n_tokens: &mut usize) -> bool {
        if request.cancelled.is_set() {
            self.seen.n_cancelled.fetch_add(1, Ordering::Relaxed);
            request.events.send(Event::Done(Finish::Aborted));
            return false;
        }
        let sampling = &request.sampling;
        let id = self.answer[*n_tokens % self.answer.len()];
        *n_tokens += 1;
        self.seen.n_tokens.fetch_add(1, Ordering::Relaxed);
        let stops = (id == EOS && !sampling.ignore_eos) || sampling.stop_token_ids.contains(&id);
        let logprobs = sampling.n_logprobs.map(|n| score(id, n));
        let is_last = *n_tokens == sampling.max_tokens;
        request.events.send(Event::Token { id, logprobs });
        if stops || is_last {
            request.events.send(Event::Done(if stops { Finish::Stop } else { Finish::Length }));
        }
        !(stops || is_last)
    }
}

fn score(id: u32, n: usize) -> TokenLogprobs {
    let top = (0..n as u32).map(|rank| (id + rank, -0.5 - rank as f32)).collect();
    TokenLogprobs { logprob: -0.5, top }
}

/// A response that was read to its end.
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    text: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    /// The error's four keys; the shape itself is checked here.
    fn error(&self) -> Value {
        let body = self.json();
        let error = body["error"].as_object().expect("an error object");
        let keys: Vec<&str> = error.keys().map(String::as_str).collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(error["message"].is_string() && error["type"].is_string(), "{body}");
        for key in ["param", "code"] {
            assert!(error[key].is_null() || error[key].is_string(), "{body}");
        }
        body["error"].clone()
    }
}

/// Reads responses until the server closes, and parses the last one.
fn read_reply(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // A server that closes before it has read everything may reset the connection behind its answer.
    let _ = stream.read_to_end(&mut bytes);
    parse_reply(&bytes).0
}

/// Parses one response; also returns what follows it.
fn parse_reply(bytes: &[u8]) -> (Reply, &[u8]) {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| {
        panic!("no response in {:?}", String::from_utf8_lossy(bytes));
    });
    let head = std::str::from_utf8(&bytes[..end]).expect("ASCII");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("status");
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_lowercase(), value.into()))
        .collect();
    let mut reply = Reply { status, headers, text: String::new() };
    let mut rest = &bytes[end + 4..];
    let mut body = Vec::new();
    if reply.header("transfer-encoding") == Some("chunked") {
        loop {
            let line_end = rest.windows(2).position(|window| window == b"\r\n").unwrap_or(rest.len());
            let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..line_end]), 16).unwrap_or(0);
            rest = rest.get(line_end + 2..).unwrap_or_default();
            body.extend_from_slice(&rest[..size.min(rest.len())]);
            rest = rest.get(size + 2..).unwrap_or_default();
            if size == 0 {
                break;
            }
        }
    } else {
        let length = reply.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        body.extend_from_slice(&rest[..length]);
        rest = &rest[length..];
    }
    reply.text = String::from_utf8(body).expect("answers are UTF-8");
    (reply, rest)
}

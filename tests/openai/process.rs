//! The emitted server as a process: its first line, its signals, its memory, its command line and its log.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStderr, Command, Output, Stdio},
    time::Duration,
};

use harness::client::{Client, Reply};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{binary, block_on, start};
use crate::command::root;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// The emitted binary, run from the root of the repository with no flag but its address.
struct Emitted {
    child: Child,
    addr: SocketAddr,
}

impl Emitted {
    fn start() -> Emitted {
        let mut child = Command::new(binary())
            .args(["--listen", "127.0.0.1:0"])
            .current_dir(root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("a line");
        // The one line that people and scripts wait for.
        let addr = line.strip_prefix("quickstart ready on http://").expect("the start line").trim_end();
        let addr = addr.parse().expect("the address it was given");
        Emitted { child, addr }
    }

    /// Sends a request and leaves its answer to be read.
    fn ask(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        let head = format!("{method} {path} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n");
        let length = format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len());
        stream.write_all([&head, &length, body].concat().as_bytes()).expect("sent");
        stream
    }

    fn signal(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
    }

    /// Waits until the signal has reached the thread of the server that obeys it; until then it is healthy.
    fn wait_until_it_drains(&self) {
        for _ in 0..1000 {
            let answer = read_all(self.ask("GET", "/health", ""));
            if !answer.starts_with("HTTP/1.1 200") {
                assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
                assert!(answer.contains("the server is shutting down"), "{answer}");
                return;
            }
        }
        panic!("it did not learn of the signal");
    }

    /// Waits for the end; the exit code and what was written to stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        let stderr: Option<ChildStderr> = self.child.stderr.take();
        stderr.expect("piped").read_to_string(&mut log).expect("text");
        (self.child.wait().expect("a child").code(), log)
    }
}

impl Drop for Emitted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Streams of 16 sequences, of which 8 wait for the others: long enough for all that a test does meanwhile.
fn long_stream() -> String {
    json!({ "prompt": ["a lighthouse", "another lighthouse"], "n": 8, "max_tokens": 256, "ignore_eos": true,
        "stream": true })
    .to_string()
}

fn read_some(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 600];
    stream.read_exact(&mut bytes).expect("first events");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_all(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A process that ends at once may reset the connection.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn sigterm_lets_a_running_stream_finish_and_the_log_tells_of_it() {
    let server = Emitted::start();
    let mut stream = server.ask("POST", TEXT, &long_stream());
    let mut answer = read_some(&mut stream);
    server.signal();
    server.wait_until_it_drains();
    answer += &read_all(stream);
    assert_eq!(answer.matches("\"finish_reason\":\"length\"").count(), 16);
    assert!(
        answer.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"),
        "{}",
        &answer[answer.len().saturating_sub(300)..]
    );
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let of_stream = lines.iter().find(|line| line["path"] == TEXT).expect("a line of the stream");
    assert_eq!((&of_stream["status"], &of_stream["completion_tokens"]), (&json!(200), &json!(16 * 256)));
    assert!(
        of_stream["duration_ms"].as_f64() > Some(0.0) && of_stream["request_id"].is_string(),
        "{of_stream}"
    );
    assert!(lines.iter().any(|line| line["path"] == "/health" && line["status"] == 503));
    assert!(!log.contains("lighthouse"), "prompts are nobody's business");
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let server = Emitted::start();
    let mut stream = server.ask("POST", TEXT, &long_stream());
    read_some(&mut stream);
    server.signal();
    // Two signals that come together are one.
    server.wait_until_it_drains();
    server.signal();
    assert!(!read_all(stream).contains("[DONE]"));
    assert_eq!(server.end().0, Some(1));
}

/// What a long-lived server sees: both routes, streamed or not, chosen or greedy, with and without extras, wrong ones.
fn mixed(at: usize) -> (&'static str, Value) {
    let chat = |asked: Value| {
        let mut body = json!({ "messages": [{ "role": "user", "content": format!("Say {at}.") }] });
        body.as_object_mut().expect("an object").extend(asked.as_object().expect("an object").clone());
        (CHAT, body)
    };
    match at % 6 {
        0 => chat(json!({ "max_tokens": 24, "stream": true })),
        1 => chat(json!({ "max_tokens": 16, "logprobs": true, "top_logprobs": 20 })),
        2 => (TEXT, json!({ "prompt": "The sea. ".repeat(at % 40 * 5 + 1), "n": 2, "max_tokens": 16 })),
        3 => (TEXT, json!({ "prompt": format!("{at}"), "echo": true, "logprobs": 5, "max_tokens": 8 })),
        4 => chat(json!({ "max_tokens": 24, "stop": ["the"], "frequency_penalty": 1, "seed": at })),
        _ => (TEXT, json!({ "prompt": "x", "temperature": -1 })),
    }
}

async fn ask(client: &Client, range: std::ops::Range<usize>) {
    const AT_ONCE: usize = 8;
    let ats: Vec<usize> = range.collect();
    for ats in ats.chunks(AT_ONCE) {
        let asked = ats.iter().map(|&at| async move {
            let (path, body) = mixed(at);
            let reply = if body["stream"] == true {
                client.stream(path, &body, |_, _| {}).await
            } else {
                client.post(path, &body).await
            };
            let Reply { status, body, .. } = reply.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(status, if at % 6 == 5 { 400 } else { 200 }, "{body}");
        });
        tokio::join!(all(asked));
    }
}

/// Waits for all of some futures, which run side by side.
async fn all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn memory_does_not_grow_with_requests() {
    /// Threads that make their first allocation late, and the allocator's slack.
    const SLACK: u64 = 3 << 20;
    block_on(async {
        let server = start("memory", &[]).await;
        let client = Client::new(server.addr());
        ask(&client, 0..50).await;
        let early = server.settled_rss_bytes().await.expect("it runs");
        ask(&client, 50..500).await;
        let late = server.rss_bytes().expect("it runs");
        assert!(late <= early + SLACK, "{early} bytes after 50 requests, {late} after 500");
        server.stop().await.unwrap_or_else(|error| panic!("{error}"));
    });
}

#[test]
fn no_body_makes_the_server_take_memory() {
    /// Bodies are 144 KiB at most; read as JSON or tokenized, each of their bytes may become some hundreds.
    const MOST: u64 = 96 << 20;
    let biases: serde_json::Map<String, Value> = (0..1024).map(|id| (id.to_string(), json!(1))).collect();
    let bodies = [
        // Few bytes, many prompts, and each choice of each has parameters of its own.
        (TEXT, json!({ "prompt": vec![[1]; 30_000], "n": 8, "logit_bias": biases })),
        (TEXT, json!({ "prompt": vec!["a"; 30_000], "n": 8, "stop": ["x", "y"], "echo": true })),
        (TEXT, json!({ "prompt": "a".repeat(140_000) })),
        (CHAT, json!({ "messages": vec![json!({ "role": "user", "content": "" }); 3900] })),
        ("/tokenize", json!({ "prompt": "a b ".repeat(35_000) })),
        ("/detokenize", json!({ "tokens": vec![7; 70_000] })),
    ];
    block_on(async {
        let server = start("bodies", &[]).await;
        let client = Client::new(server.addr());
        ask(&client, 0..12).await;
        let before = server.peak_rss_bytes().expect("it runs");
        for (path, body) in bodies {
            let reply = client.post(path, &body).await.unwrap_or_else(|error| panic!("{error}"));
            let expected = if path.starts_with("/v1") { 400 } else { 200 };
            assert_eq!(reply.status, expected, "{path}: {}", reply.body);
            let after = server.peak_rss_bytes().expect("it runs");
            assert!(after <= before + MOST, "{path}: {before} bytes became {after}: {}", reply.body);
        }
        server.stop().await.unwrap_or_else(|error| panic!("{error}"));
    });
}

/// Runs the binary with `args` until it ends by itself.
fn run(args: &[&str]) -> (Output, String) {
    let output = Command::new(binary())
        .args(args)
        .current_dir(root())
        .env_remove("RUST_BACKTRACE")
        .env_remove("RUST_LIB_BACKTRACE")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[test]
fn help_says_what_can_be_said() {
    let (output, said) = run(&["--help"]);
    let help = String::from_utf8_lossy(&output.stdout);
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    for part in [
        "--weights FILE",
        "quickstart.weights",
        "--listen ADDR",
        "--api-key-file FILE",
        "curl ",
        "Exit codes",
    ] {
        assert!(help.contains(part), "{part} is missing:\n{help}");
    }
    let (output, said) = run(&["--port", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("unexpected argument \"--port\"") && said.contains("--help"), "{said}");
}

#[test]
fn what_it_cannot_serve_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("bound").to_string();
    for (args, parts) in [
        (["--weights", "no/such/file"], ["no/such/file", "No such file"]),
        (["--weights", "Cargo.toml"], ["Cargo.toml", "is no weight image"]),
        (["--api-key-file", "no/such/keys"], ["no/such/keys", "No such file"]),
        (["--listen", &taken], ["cannot listen on", "in use"]),
    ] {
        // A port of its own, unless the port is what is wrong.
        let listen = if args[0] == "--listen" { &[][..] } else { &["--listen", "127.0.0.1:0"] };
        let (output, said) = run(&[&args, listen].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.starts_with("error: ") && said.lines().count() == 1, "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "nothing was ready");
    }
}

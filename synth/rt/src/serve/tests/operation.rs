//! Running a server: readiness, health, keys, ids, metrics, tokens, and the end.

use serde_json::json;

use super::*;

const TEXT: &str = "/v1/completions";

#[test]
fn models_version_and_tokens() {
    let server = Server::ready();
    let models = server.get("/v1/models").json();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0], server.get("/v1/models/tiny").json());
    assert_eq!(models["data"][0]["id"], MODEL);
    assert_eq!(models["data"][0]["max_model_len"], CONTEXT);
    assert_eq!(
        server.get("/version").json(),
        json!({ "name": "t", "version": "0", "spec_digest": "s", "plan_digest": "p0123456789abcdef", "weights_digest": "w" })
    );
    let ids = tokenizer().encode("Hello 世界", true).expect("encodes");
    let tokens = server.post("/tokenize", &json!({ "prompt": "Hello 世界" })).json();
    assert_eq!(tokens, json!({ "count": ids.len(), "max_model_len": CONTEXT, "tokens": ids }));
    assert_eq!(
        server.post("/detokenize", &json!({ "tokens": ids })).json(),
        json!({ "prompt": "Hello 世界" })
    );
    let messages = json!([{ "role": "user", "content": "x" }]);
    let chat = server.post("/tokenize", &json!({ "messages": messages })).json();
    let text = server.post("/detokenize", &json!({ "tokens": chat["tokens"] })).json();
    assert_eq!(text["prompt"], "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
    let bare =
        server.post("/tokenize", &json!({ "messages": messages, "add_generation_prompt": false })).json();
    assert!(bare["count"].as_u64() < chat["count"].as_u64());
    assert_eq!(server.post("/detokenize", &json!({ "tokens": [9999] })).error()["param"], "tokens");
    assert_eq!(server.post("/tokenize", &json!({})).error()["param"], "messages");
}

#[test]
fn metrics_count_what_happened() {
    let server = Server::ready();
    assert_eq!(server.post(TEXT, &json!({ "prompt": "x", "max_tokens": 5 })).status, 200);
    let page = server.get("/metrics");
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "vllm:num_requests_running{model_name=\"tiny\"} 0",
        "vllm:generation_tokens_total{model_name=\"tiny\"} 5",
        "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"length\"} 1",
        "vllm:time_to_first_token_seconds_count{model_name=\"tiny\"} 1",
        "vllm:cache_config_info{model_name=\"tiny\",block_size=\"16\",num_gpu_blocks=\"64\"} 1",
    ] {
        assert!(page.text.contains(&format!("{line}\n")), "{line}\n{}", page.text);
    }
}

#[test]
fn request_ids_are_echoed_cleaned_or_made() {
    let server = Server::ready();
    let ask = |id: &str| {
        server.raw(format!("GET /health HTTP/1.1\r\nhost: t\r\n{id}connection: close\r\n\r\n").as_bytes())
    };
    assert_eq!(ask("x-request-id: abc-1\r\n").header("x-request-id"), Some("abc-1"));
    assert_eq!(ask("x-request-id: a\"<b>\r\n").header("x-request-id"), Some("ab"));
    let long = format!("x-request-id: {}\r\n", "z".repeat(5000));
    assert_eq!(ask(&long).header("x-request-id").map(str::len), Some(128));
    let made = [ask(""), ask("")].map(|reply| reply.header("x-request-id").expect("made").to_owned());
    assert!(made[0].starts_with("req-") && made[0] != made[1]);
}

#[test]
fn keys_guard_every_route_but_health() {
    let server = Server::start(Script { keys: "alpha\nbeta\n", ..Script::default() });
    for (method, path) in [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/tiny"),
        ("GET", "/metrics"),
        ("GET", "/version"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/nowhere"),
        ("GET", "/health/"),
    ] {
        for key in ["", "authorization: Bearer wrong\r\n", "authorization: alpha\r\n"] {
            let reply = server.raw(
                format!("{method} {path} HTTP/1.1\r\nhost: t\r\n{key}connection: close\r\n\r\n").as_bytes(),
            );
            assert_eq!(reply.status, 401, "{method} {path} {key}");
            assert_eq!(reply.error()["code"], "invalid_api_key");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    assert_eq!(server.get("/health").status, 200);
    let body = json!({ "prompt": "x", "max_tokens": 1 }).to_string();
    for key in ["alpha", "beta", "alpha"] {
        let headers = format!("authorization: Bearer {key}\r\nconnection: close\r\n");
        assert_eq!(server.raw(request_bytes(TEXT, &body, &headers).as_bytes()).status, 200);
    }
    let salts = server.seen.salts.lock().expect("no panic").clone();
    assert!(salts[0] != salts[1] && salts[0] == salts[2], "cached prefixes are parted by key");
}

#[test]
fn nothing_is_served_before_ready() {
    let (state, seen) = state_with_engine(&Script::default());
    let server = Server::serving(state, seen);
    for path in ["/health", "/v1/models"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 503);
        assert_eq!(reply.error()["message"], "the model is loading");
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(server.post(TEXT, &json!({ "prompt": "x" })).status, 503);
    assert_eq!(server.get("/metrics").status, 200);
    server.state.set_ready();
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn health_sees_an_engine_that_stands_still() {
    let mut script = Script { step: Duration::from_secs(3), ..Script::default() };
    script.limits.stall_time = Duration::from_millis(200);
    let server = Server::start(script);
    thread::sleep(Duration::from_millis(400));
    assert_eq!(server.get("/health").status, 200, "an idle engine is healthy");
    let mut stream = server.connect();
    let body = json!({ "prompt": "x", "max_tokens": 1 }).to_string();
    stream.write_all(request_bytes(TEXT, &body, "connection: close\r\n").as_bytes()).expect("sent");
    server.wait_for("the alarm", || server.get("/health").status == 503);
    assert_eq!(read_reply(stream).status, 200);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_lost_engine_fails_requests_and_health() {
    let (outbox, inbox, metrics) = outbox_and_inbox(&Script::default());
    let lost = Server::serving(state(&Script::default(), outbox, metrics), Arc::default());
    lost.state.set_ready();
    let asked = |stream: bool| json!({ "prompt": "x", "max_tokens": 9, "stream": stream });
    let mut connections = [false, true].map(|stream| {
        let mut connection = lost.connect();
        let request = request_bytes(TEXT, &asked(stream).to_string(), "connection: close\r\n");
        connection.write_all(request.as_bytes()).expect("sent");
        connection
    });
    let waiting = || lost.state.service.metrics.requests_waiting.load(Ordering::Relaxed);
    lost.wait_for("both requests", || waiting() == 2);
    drop(inbox);
    let [whole, stream] = &mut connections;
    let whole = read_reply(whole.try_clone().expect("socket"));
    assert_eq!((whole.status, whole.error()["type"].as_str()), (500, Some("server_error")));
    let stream = read_reply(stream.try_clone().expect("socket"));
    assert_eq!(stream.status, 200);
    let event: Value =
        serde_json::from_str(stream.text.trim().strip_prefix("data: ").expect("an event")).expect("JSON");
    assert_eq!(event["error"]["type"], "server_error");
    assert!(!stream.text.contains("[DONE]"));
    assert_eq!(lost.get("/health").status, 503);
    assert_eq!(lost.post(TEXT, &asked(false)).status, 503);
}

#[test]
fn draining_finishes_what_runs_and_refuses_the_rest() {
    // The answer takes seconds, so that a busy machine asks its questions before it ends.
    let mut server = Server::start(Script { step: Duration::from_millis(120), ..Script::default() });
    let body = json!({ "prompt": "x", "max_tokens": 40, "ignore_eos": true, "stream": true }).to_string();
    let mut running = server.connect();
    running.write_all(request_bytes(TEXT, &body, "").as_bytes()).expect("sent");
    server.wait_for("the request", || server.seen.n_tokens.load(Ordering::Relaxed) > 2);
    server.state.drain();
    for reply in
        [server.get("/health"), server.get("/v1/models"), server.post(TEXT, &json!({ "prompt": "x" }))]
    {
        assert_eq!(reply.status, 503);
        assert_eq!(reply.error()["message"], "the server is shutting down");
    }
    assert!(server.get("/metrics").status == 200);
    let reply = read_reply(running);
    assert!(reply.text.ends_with("data: [DONE]\n\n"), "{}", reply.text);
    let ended = server.http.take().expect("running").join().expect("no panic");
    assert!(ended.is_ok());
    assert!(TcpStream::connect(server.addr).is_err(), "nobody listens any more");
}

#[test]
fn who_connected_before_the_drain_is_answered() {
    for _ in 0..20 {
        let mut server = Server::ready();
        let mut connections = [(); 8].map(|()| server.connect());
        // Taken, as far as one can tell from here, and not yet heard.
        assert_eq!(server.get("/health").status, 200);
        let state = server.state.clone();
        let drains = thread::spawn(move || state.drain());
        for connection in &mut connections {
            connection
                .write_all(b"GET /health HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
                .expect("sent");
        }
        for connection in connections {
            let status = read_reply(connection).status;
            assert!(status == 200 || status == 503, "{status}");
        }
        drains.join().expect("no panic");
        assert!(server.http.take().expect("running").join().expect("no panic").is_ok());
    }
}

#[test]
fn a_connection_that_says_nothing_does_not_hold_up_the_drain() {
    let mut server = Server::ready();
    let silent = server.connect();
    assert_eq!(server.get("/health").status, 200);
    let start = Instant::now();
    server.state.drain();
    assert!(server.http.take().expect("running").join().expect("no panic").is_ok());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(silent);
}

#[test]
fn draining_ends_at_its_deadline() {
    let mut script = Script { step: Duration::from_millis(200), ..Script::default() };
    script.limits.drain_time = Duration::from_millis(300);
    let mut server = Server::start(script);
    let asked = |stream: bool| {
        json!({ "prompt": "x", "max_tokens": 64, "ignore_eos": true, "stream": stream }).to_string()
    };
    let connections = [false, true].map(|stream| {
        let mut connection = server.connect();
        connection.write_all(request_bytes(TEXT, &asked(stream), "").as_bytes()).expect("sent");
        connection
    });
    server.wait_for("both requests", || server.seen.prompts.lock().expect("no panic").len() == 2);
    let start = Instant::now();
    server.state.drain();
    let [whole, stream] = connections.map(read_reply);
    assert_eq!(whole.status, 503);
    assert!(stream.text.contains("\"error\"") && !stream.text.contains("[DONE]"), "{}", stream.text);
    assert!(server.http.take().expect("running").join().expect("no panic").is_ok());
    assert!(start.elapsed() < Duration::from_secs(10));
    server.wait_for("the cancellations", || server.seen.n_cancelled.load(Ordering::Relaxed) == 2);
}

/// Set in the process that serves for the test of signals.
const CHILD: &str = "RT_SERVE_CHILD";

#[test]
fn sigterm_drains_and_a_second_one_ends_at_once() {
    if std::env::var_os(CHILD).is_some() {
        return serve_for_the_parent();
    }
    for (n_signals, code, sees_end) in [(1, 0, true), (2, 1, false)] {
        let mut child = std::process::Command::new(std::env::current_exe().expect("test binary"))
            .args([
                "--exact",
                "serve::tests::operation::sigterm_drains_and_a_second_one_ends_at_once",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("test binary runs");
        let mut lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().expect("piped")));
        let addr: SocketAddr = lines
            .find_map(|line| {
                line.expect("text").split_once("listens on ").and_then(|(_, addr)| addr.parse().ok())
            })
            .expect("an address");
        let mut stream = TcpStream::connect(addr).expect("listening");
        let body = json!({ "prompt": "x", "max_tokens": 20, "ignore_eos": true, "stream": true }).to_string();
        stream.write_all(request_bytes(TEXT, &body, "").as_bytes()).expect("sent");
        stream.read_exact(&mut [0; 300]).expect("first events");
        let pid = rustix::process::Pid::from_child(&child);
        for _ in 0..n_signals {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("alive");
            thread::sleep(Duration::from_millis(200));
        }
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(String::from_utf8_lossy(&rest).contains("[DONE]"), sees_end);
        assert_eq!(child.wait().expect("ended").code(), Some(code));
    }
}

/// Serves as an emitted binary does, and ends as it does.
fn serve_for_the_parent() {
    let (state, _seen) = state_with_engine(&Script { step: Duration::from_millis(100), ..Script::default() });
    state.set_ready();
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    println!("listens on {}", listener.local_addr().expect("bound"));
    Front::new(listener, routes(), state).expect("set up").run().expect("served");
    exit(0);
}

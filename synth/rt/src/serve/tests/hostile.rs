//! Clients that are slow, split, oversized, malformed, or gone.

use serde_json::json;

use super::*;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// Limits of a test that waits for one of them.
fn short(time: Duration) -> Script {
    let mut script = Script::default();
    script.limits.header_time = time;
    script.limits.body_time = time;
    script
}

fn completion() -> String {
    json!({ "prompt": "äöü 世界", "max_tokens": 4 }).to_string()
}

#[test]
fn a_request_in_single_bytes_is_understood() {
    let server = Server::ready();
    let mut stream = server.connect();
    stream.set_nodelay(true).expect("socket");
    for byte in request_bytes(TEXT, &completion(), "connection: close\r\n").bytes() {
        stream.write_all(&[byte]).expect("sent");
    }
    let reply = read_reply(stream);
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(
        server.seen.prompts.lock().expect("no panic")[0],
        tokenizer().encode("äöü 世界", true).expect("encodes")
    );
}

#[test]
fn a_body_in_chunks_split_inside_characters_is_understood() {
    let server = Server::ready();
    let mut request = format!(
        "POST {TEXT} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    .into_bytes();
    for chunk in completion().as_bytes().chunks(3) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(server.raw(&request).status, 200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::ready();
    let mut bytes = request_bytes(TEXT, &completion(), "x-request-id: one\r\n");
    bytes += &request_bytes(CHAT, "{}", "x-request-id: two\r\n");
    bytes += "GET /health HTTP/1.1\r\nhost: t\r\nx-request-id: three\r\nconnection: close\r\n\r\n";
    let mut stream = server.connect();
    stream.write_all(bytes.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answered");
    let mut rest = &answer[..];
    for (status, id) in [(200, "one"), (400, "two"), (200, "three")] {
        let (reply, behind) = parse_reply(rest);
        assert_eq!((reply.status, reply.header("x-request-id")), (status, Some(id)));
        rest = behind;
    }
    assert!(rest.is_empty());
}

#[test]
fn expect_continue_is_answered() {
    let server = Server::ready();
    let mut stream = server.connect();
    let body = completion();
    let request = request_bytes(TEXT, &body, "expect: 100-continue\r\nconnection: close\r\n");
    let head = &request[..request.len() - body.len()];
    stream.write_all(head.as_bytes()).expect("sent");
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).expect("interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).expect("sent");
    assert_eq!(read_reply(stream).status, 200);
}

#[test]
fn slow_heads_are_cut_off() {
    let server = Server::start(short(Duration::from_millis(300)));
    let start = Instant::now();
    let mut stream = server.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\n").expect("sent");
    let closed = (0..200).any(|at| {
        thread::sleep(Duration::from_millis(50));
        stream.write_all(format!("x-{at}: 1\r\n").as_bytes()).is_err()
    });
    assert!(closed, "a head that never ends was read for {:?}", start.elapsed());
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn idle_connections_are_closed() {
    let server = Server::start(short(Duration::from_millis(300)));
    let mut stream = server.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: t\r\n\r\n").expect("sent");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("closed by the server");
    assert_eq!(parse_reply(&all).0.status, 200);
}

#[test]
fn slow_bodies_are_cut_off() {
    let server = Server::start(short(Duration::from_millis(300)));
    let reply = server.raw(
        format!("POST {TEXT} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{{")
            .as_bytes(),
    );
    assert_eq!(reply.status, 408);
    assert_eq!(reply.error()["code"], "timeout");
    assert_eq!(reply.header("x-should-retry"), None);
}

#[test]
fn oversized_heads_and_bodies_are_refused() {
    let server = Server::ready();
    let large = format!("GET /health HTTP/1.1\r\nhost: t\r\nx-large: {}\r\n\r\n", "a".repeat(100_000));
    assert_eq!(server.raw(large.as_bytes()).status, 431);
    let many: String = (0..200).map(|at| format!("x-{at}: 1\r\n")).collect();
    assert_eq!(server.raw(format!("GET /health HTTP/1.1\r\nhost: t\r\n{many}\r\n").as_bytes()).status, 431);
    let body = json!({ "prompt": "a".repeat(1 << 17) }).to_string();
    let declared = server.raw(request_bytes(TEXT, &body, "connection: close\r\n").as_bytes());
    assert_eq!((declared.status, &declared.error()["code"]), (413, &json!("body_too_large")));
    let mut chunked = format!(
        "POST {TEXT} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{:x}\r\n",
        body.len()
    );
    chunked += &body;
    chunked += "\r\n0\r\n\r\n";
    assert_eq!(server.raw(chunked.as_bytes()).status, 413);
    assert_eq!(server.get("/health").status, 200);
}

/// Most clients write a whole body before they read: what refuses it must not be overtaken by a reset.
#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let server = Server::ready();
    let body = "a".repeat(16 << 20);
    for (path, status) in [(TEXT, 413), ("/v1/nowhere", 404), ("/v1/models", 405)] {
        let refused = server.raw(request_bytes(path, &body, "").as_bytes());
        assert_eq!(refused.status, status, "{path}");
    }
    let plain = request_bytes(TEXT, &body, "").replace("application/json", "text/plain");
    assert_eq!(server.raw(plain.as_bytes()).status, 415);
}

/// A refused client that sends for ever, a byte now and then, is not listened to for ever.
#[test]
fn a_refused_client_does_not_keep_its_place() {
    let server = Server::ready();
    let mut stream = server.connect();
    let head = format!(
        "POST {TEXT} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 999999999\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let began = Instant::now();
    while stream.write_all(b"a").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(30), "it is still being read");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn malformed_bodies_are_refused() {
    let server = Server::ready();
    let deep = format!("{{\"messages\":{}1{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let invalid: &[u8] = b"{\"prompt\":\"\xff\xfe\"}";
    for body in [
        b"".as_slice(),
        b"{",
        b"[]",
        b"null",
        b"{\"prompt\":NaN}",
        b"{\"a\":1,\"a\":2}",
        invalid,
        deep.as_bytes(),
    ] {
        let mut request = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let reply = server.raw(&request);
        assert_eq!(reply.status, 400, "{}", reply.text);
        assert_eq!(reply.error()["type"], "invalid_request_error");
    }
    let short = format!(
        "POST {TEXT} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{}}"
    );
    let mut stream = server.connect();
    stream.write_all(short.as_bytes()).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("socket");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let form = "POST /tokenize HTTP/1.1\r\nhost: t\r\ncontent-type: text/plain\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    assert_eq!(server.raw(form.as_bytes()).status, 415);
    assert_eq!(server.raw(b"nonsense\r\n\r\n").status, 400);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    let (state, _seen) = state_with_engine(&Script::default());
    state.set_ready();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        // Room for a piece of the answer only, so that the rest has to wait for its reader.
        let (near, mut far) = tokio::io::duplex(256);
        let service = TowerToHyperService::new(assemble(routes(), &state));
        let stream = TokioIo::new(Patient::new(near, Duration::from_millis(200)));
        let request = b"GET /metrics HTTP/1.1\r\nhost: t\r\n\r\n";
        AsyncWriteExt::write_all(&mut far, request).await.expect("room");
        let served =
            timeout(Duration::from_secs(20), protocol(&state).serve_connection(stream, service)).await;
        assert!(served.expect("given up").is_err());
    });
}

#[test]
fn a_slow_reader_is_waited_for() {
    let (state, _seen) = state_with_engine(&Script::default());
    state.set_ready();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let (near, mut far) = tokio::io::duplex(256);
        let service = TowerToHyperService::new(assemble(routes(), &state));
        let stream = TokioIo::new(Patient::new(near, Duration::from_secs(1)));
        let request = b"GET /metrics HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";
        AsyncWriteExt::write_all(&mut far, request).await.expect("room");
        let read = async {
            let (mut all, mut piece) = (Vec::new(), [0; 512]);
            loop {
                sleep(Duration::from_millis(20)).await;
                match AsyncReadExt::read(&mut far, &mut piece).await.expect("open") {
                    0 => return all,
                    n => all.extend_from_slice(&piece[..n]),
                }
            }
        };
        let (served, all) = tokio::join!(protocol(&state).serve_connection(stream, service), read);
        assert!(served.is_ok());
        assert_eq!(parse_reply(&all).0.status, 200);
    });
}

/// Asks for a long answer and leaves; the engine must stop at once.
fn leave(script: Script, body: &Value, wait_for_bytes: usize) {
    let server = Server::start(script);
    let mut stream = server.connect();
    stream.write_all(request_bytes(TEXT, &body.to_string(), "").as_bytes()).expect("sent");
    if wait_for_bytes > 0 {
        stream.read_exact(&mut vec![0; wait_for_bytes]).expect("events");
    } else {
        server.wait_for("the request", || !server.seen.prompts.lock().expect("no panic").is_empty());
    }
    let n_before = server.seen.n_tokens.load(Ordering::Relaxed);
    drop(stream);
    server.wait_for("the cancellation", || server.seen.n_cancelled.load(Ordering::Relaxed) == 1);
    let n_after = server.seen.n_tokens.load(Ordering::Relaxed);
    assert!(n_after <= n_before + 4, "{} tokens were made for nobody", n_after - n_before);
    assert_eq!(server.state.service.metrics.aborted.get(), 1);
    assert_eq!(server.state.service.metrics.requests_running.load(Ordering::Relaxed), 0);
}

#[test]
fn a_client_that_leaves_a_stream_cancels_it() {
    let script = Script { step: Duration::from_millis(40), ..Script::default() };
    leave(script, &json!({ "prompt": "x", "max_tokens": 64, "ignore_eos": true, "stream": true }), 600);
}

#[test]
fn a_client_that_leaves_before_the_first_token_cancels_it() {
    let script = Script { step: Duration::from_millis(300), ..Script::default() };
    leave(script, &json!({ "prompt": "x", "max_tokens": 64, "ignore_eos": true, "stream": true }), 0);
}

#[test]
fn a_client_that_leaves_a_whole_answer_cancels_it() {
    let script = Script { step: Duration::from_millis(40), ..Script::default() };
    leave(script, &json!({ "prompt": "x", "max_tokens": 64, "ignore_eos": true }), 0);
}

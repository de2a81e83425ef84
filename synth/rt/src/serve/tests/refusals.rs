//! Requests that are refused: the status, the four keys, the field, and whether to try again.

use serde_json::json;

use super::*;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

#[test]
fn a_number_out_of_range_is_answered_with_the_range() {
    let server = Server::ready();
    let cases = [
        (json!({ "prompt": "x", "max_tokens": 0 }), "max_tokens must be between 1 and 64, not 0"),
        (json!({ "prompt": "x", "max_tokens": 0, "echo": true, "n": 0 }), "n must be between 1 and 4, not 0"),
        (json!({ "prompt": "x", "max_tokens": 1e30 }), "max_tokens must be between 1 and 64, not 1e+30"),
        (json!({ "prompt": "x", "max_tokens": 1.5 }), "max_tokens must be a whole number, not 1.5"),
        (json!({ "prompt": "x", "max_tokens": true }), "max_tokens must be a whole number, not true"),
        (
            json!({ "prompt": "x", "seed": u64::MAX }),
            "seed must be between -9223372036854775808 and 9223372036854775807, not 18446744073709551615",
        ),
    ];
    for (body, message) in cases {
        assert_eq!(server.post(TEXT, &body).error()["message"], message, "{body}");
    }
}

#[test]
fn every_wrong_field_is_named() {
    let server = Server::ready();
    let user = json!([{ "role": "user", "content": "x" }]);
    let chat = [
        (json!({ "messages": user, "temperature": 2.1 }), "temperature"),
        (json!({ "messages": user, "temperature": "hot" }), "temperature"),
        (json!({ "messages": user, "top_p": -0.1 }), "top_p"),
        (json!({ "messages": user, "top_k": -2 }), "top_k"),
        (json!({ "messages": user, "min_p": 2 }), "min_p"),
        (json!({ "messages": user, "n": 0 }), "n"),
        (json!({ "messages": user, "n": 5 }), "n"),
        (json!({ "messages": user, "n": 1.5 }), "n"),
        (json!({ "messages": user, "seed": 1e30 }), "seed"),
        (json!({ "messages": user, "max_tokens": 65 }), "max_tokens"),
        (json!({ "messages": user, "max_completion_tokens": 0 }), "max_completion_tokens"),
        (json!({ "messages": user, "max_completion_tokens": 5, "max_tokens": 6 }), "max_tokens"),
        (json!({ "messages": user, "min_tokens": 6, "max_tokens": 5 }), "min_tokens"),
        (json!({ "messages": user, "presence_penalty": 3 }), "presence_penalty"),
        (json!({ "messages": user, "repetition_penalty": 0 }), "repetition_penalty"),
        (json!({ "messages": user, "logit_bias": { "565": 1 } }), "logit_bias"),
        (json!({ "messages": user, "logit_bias": { "a": 1 } }), "logit_bias"),
        (json!({ "messages": user, "logit_bias": { "1": 101 } }), "logit_bias"),
        (json!({ "messages": user, "logit_bias": { "1": 1, "01": 1 } }), "logit_bias"),
        (json!({ "messages": user, "logit_bias": [1] }), "logit_bias"),
        (json!({ "messages": user, "stop": ["a", "b", "c", "d", "e"] }), "stop"),
        (json!({ "messages": user, "stop": "" }), "stop"),
        (json!({ "messages": user, "stop": [1] }), "stop"),
        (json!({ "messages": user, "stop_token_ids": [9999] }), "stop_token_ids"),
        (json!({ "messages": user, "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "messages": user, "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "messages": user, "logprobs": 3 }), "logprobs"),
        (json!({ "messages": user, "stream": "yes" }), "stream"),
        (json!({ "messages": user, "stream_options": { "include_usage": true } }), "stream_options"),
        (json!({}), "messages"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": "hi" }), "messages"),
        (json!({ "messages": [{ "role": "wizard", "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "tool", "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0].content"),
        (json!({ "messages": [{ "role": "user", "content": 1 }] }), "messages[0].content"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            "messages[0].content[0].type",
        ),
        (json!({ "messages": [{ "role": "user", "content": "x", "name": 1 }] }), "messages[0].name"),
        (json!({ "messages": user, "tools": [{}] }), "tools"),
        (json!({ "messages": user, "tool_choice": "auto" }), "tool_choice"),
        (json!({ "messages": user, "response_format": { "type": "json_object" } }), "response_format"),
        (json!({ "messages": user, "guided_json": {} }), "guided_json"),
        (json!({ "messages": user, "functions": [{}] }), "functions"),
        (json!({ "messages": user, "modalities": ["audio"] }), "modalities"),
        (json!({ "messages": user, "prediction": { "type": "content" } }), "prediction"),
        (json!({ "messages": user, "chat_template": "{{ 1 }}" }), "chat_template"),
        (json!({ "messages": user, "reasoning_effort": "high" }), "reasoning_effort"),
        (json!({ "messages": user, "echo": true }), "echo"),
    ];
    let text = [
        (json!({}), "prompt"),
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": "" }), "prompt"),
        (json!({ "prompt": {} }), "prompt"),
        (json!({ "prompt": [1, "a"] }), "prompt"),
        (json!({ "prompt": ["a", 1] }), "prompt"),
        (json!({ "prompt": [565] }), "prompt"),
        (json!({ "prompt": [-1] }), "prompt"),
        (json!({ "prompt": [[]] }), "prompt"),
        (json!({ "prompt": vec!["a"; 9] }), "prompt"),
        (json!({ "prompt": "x", "logprobs": 21 }), "logprobs"),
        (json!({ "prompt": "x", "best_of": 2 }), "best_of"),
        (json!({ "prompt": "x", "suffix": "y" }), "suffix"),
        (json!({ "prompt": vec![5; CONTEXT] }), "prompt"),
        (json!({ "prompt": vec![5; CONTEXT - 3], "max_tokens": 4 }), "max_tokens"),
        (json!({ "prompt": vec![5; CONTEXT - 3], "min_tokens": 4 }), "min_tokens"),
        (json!({ "prompt": "word ".repeat(2000) }), "prompt"),
    ];
    for (path, cases) in [(CHAT, &chat[..]), (TEXT, &text[..])] {
        for (body, param) in cases {
            let reply = server.post(path, body);
            assert_eq!(reply.status, 400, "{body}: {}", reply.text);
            let error = reply.error();
            assert_eq!(error["param"], *param, "{body}: {error}");
            assert_eq!(error["type"], "invalid_request_error");
            assert_eq!(reply.header("x-should-retry"), Some("false"));
        }
    }
    assert!(server.seen.prompts.lock().expect("no panic").is_empty(), "nothing reached the engine");
}

#[test]
fn prompts_are_counted_before_anything_is_made_of_them() {
    let server = Server::ready();
    // Tokenized first, the long prompt would be the error.
    let mut prompts = vec!["a".to_owned(); 8];
    prompts.push("word ".repeat(2000));
    let error = server.post(TEXT, &json!({ "prompt": prompts })).error();
    assert!(error["message"].as_str().expect("message").ends_with("split it"), "{error}");
    let error = server.post(TEXT, &json!({ "prompt": vec!["a"; 3], "n": 3 })).error();
    assert!(error["message"].as_str().expect("message").ends_with("split it"), "{error}");
}

#[test]
fn tokens_that_the_model_lacks_do_not_reach_the_engine() {
    let mut script = Script::default();
    script.limits.vocab = 300;
    let server = Server::start(script);
    let messages = json!([{ "role": "user", "content": "x" }]);
    for (path, body) in [
        (TEXT, json!({ "prompt": "Hello there" })),
        (TEXT, json!({ "prompt": "Hello there ".repeat(500) })),
        (CHAT, json!({ "messages": messages })),
    ] {
        let reply = server.post(path, &body);
        assert_eq!(reply.status, 400, "{}", reply.text);
        let error = reply.error();
        assert!(error["message"].as_str().expect("message").contains("the model does not know"), "{error}");
    }
    assert!(server.seen.prompts.lock().expect("no panic").is_empty());
}

#[test]
fn values_that_ask_for_nothing_pass() {
    let server = Server::ready();
    let body = json!({
        "messages": [{ "role": "user", "content": "x", "tool_calls": [] }], "tools": [], "tool_choice": "none",
        "response_format": { "type": "text" }, "modalities": ["text"], "best_of": 1, "prediction": null, "audio": null,
        "use_beam_search": false, "skip_special_tokens": true, "stream": false, "stop": null, "logit_bias": {},
        "reasoning_effort": "none", "top_logprobs": 0,
    });
    let reply = server.post(CHAT, &body);
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[test]
fn other_models_and_routes_and_methods_do_not_exist() {
    let server = Server::ready();
    let body = json!({ "model": "gpt-9", "prompt": "x" });
    for (reply, status, code, param) in [
        (server.post(TEXT, &body), 404, "model_not_found", json!("model")),
        (server.get("/v1/models/gpt-9"), 404, "model_not_found", json!("model")),
        (server.get("/v1/models/%ff"), 404, "model_not_found", json!("model")),
        (server.get("/v1/nowhere"), 404, "not_found", Value::Null),
        (server.get("/"), 404, "not_found", Value::Null),
        (server.get(CHAT), 405, "method_not_allowed", Value::Null),
        (server.post("/health", &json!({})), 405, "method_not_allowed", Value::Null),
    ] {
        assert_eq!(reply.status, status);
        assert_eq!((&reply.error()["code"], &reply.error()["param"]), (&json!(code), &param));
        assert_eq!(reply.header("x-should-retry"), Some("false"));
    }
}

#[test]
fn a_template_that_refuses_is_a_client_error() {
    let source = "{{ raise_exception('speak first') }}";
    let error = ApiError::from(
        ChatTemplate::new(source, "", "").expect("compiles").render(&[], true).expect_err("refused"),
    );
    assert_eq!(error.body()["error"]["param"], "messages");
    assert!(error.body()["error"]["message"].as_str().expect("message").ends_with("speak first"));
    assert_eq!(error.into_response().status(), 400);
}

#[test]
fn a_full_queue_answers_429_with_a_time() {
    let server = Server::start(Script {
        step: Duration::from_millis(20),
        n_sequences: 1,
        queue: QueueBound { n_requests: 1, n_prompt_tokens: 100 },
        ..Script::default()
    });
    let slow = json!({ "prompt": [5], "max_tokens": 64, "ignore_eos": true });
    let keep: Vec<TcpStream> = (0..2)
        .map(|at| {
            let mut stream = server.connect();
            stream.write_all(request_bytes(TEXT, &slow.to_string(), "").as_bytes()).expect("sent");
            server.wait_for("the request", || {
                let metrics = &server.state.service.metrics;
                let known = metrics.requests_running.load(Ordering::Relaxed)
                    + metrics.requests_waiting.load(Ordering::Relaxed);
                // The first must run before the second comes, or it is itself in the queue.
                known == at + 1 && metrics.requests_running.load(Ordering::Relaxed) == 1
            });
            stream
        })
        .collect();
    let reply = server.post(TEXT, &slow);
    assert_eq!(reply.status, 429);
    assert_eq!(reply.error()["code"], "overloaded");
    assert!(reply.header("retry-after").expect("header").parse::<u64>().expect("seconds") >= 1);
    assert_eq!(reply.header("x-should-retry"), None);
    assert_eq!(server.get("/health").status, 200);
    drop(keep);
    server.wait_for("room", || server.post(TEXT, &json!({ "prompt": [5], "max_tokens": 1 })).status == 200);
}

#[test]
fn a_panic_is_a_500_that_says_nothing() {
    let server = Server::ready();
    let reply = server.get("/panic");
    assert_eq!(reply.status, 500);
    let error = reply.error();
    assert_eq!(error["type"], "server_error");
    assert!(!reply.text.contains("secret"));
    assert_eq!(server.get("/health").status, 200);
}

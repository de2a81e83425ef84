//! Chat completions: shapes, streaming rules, stop strings.

use serde_json::json;

use super::*;

const PATH: &str = "/v1/chat/completions";
const TEXT: &str = "Hello 世界 🙂, said the fox.";

fn hello() -> Value {
    json!({ "model": MODEL, "messages": [{ "role": "user", "content": "Hello!" }] })
}

fn with(changes: Value) -> Value {
    let mut body = hello();
    for (key, value) in changes.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

fn n_answer() -> usize {
    tokenizer().encode(TEXT, false).expect("encodes").len() + 1
}

#[test]
fn a_whole_answer_has_openais_shape() {
    let server = Server::ready();
    let reply = server.post(PATH, &hello());
    assert_eq!(reply.status, 200);
    let body = reply.json();
    let keys: Vec<&str> = body.as_object().expect("object").keys().map(String::as_str).collect();
    assert_eq!(keys, ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]);
    assert!(body["id"].as_str().expect("id").starts_with("chatcmpl-"));
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!(MODEL)));
    assert_eq!(body["system_fingerprint"], "savile-p0123456789a");
    assert_eq!(
        body["choices"],
        json!([{
            "index": 0,
            "message": { "role": "assistant", "content": TEXT, "refusal": null },
            "logprobs": null, "finish_reason": "stop", "stop_reason": null,
        }])
    );
    let n_prompt = server.seen.prompts.lock().expect("no panic")[0].len();
    assert_eq!(body["usage"]["prompt_tokens"], n_prompt);
    assert_eq!(body["usage"]["completion_tokens"], n_answer());
    assert_eq!(body["usage"]["total_tokens"], n_prompt + n_answer());
    assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], n_prompt / 2);
    assert_eq!(body["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
}

#[test]
fn the_prompt_is_the_templates() {
    let server = Server::ready();
    let body = json!({ "messages": [
        { "role": "developer", "content": "Be brief." },
        { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
        { "role": "assistant", "content": null },
        { "role": "user", "content": "c", "name": "x" },
    ]});
    assert_eq!(server.post(PATH, &body).status, 200);
    let text = tokenizer().decode_with_special(&server.seen.prompts.lock().expect("no panic")[0]);
    assert_eq!(
        text,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n\
         <|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn a_stream_follows_the_rules() {
    let server = Server::ready();
    let events =
        server.events(PATH, &with(json!({ "stream": true, "stream_options": { "include_usage": true } })));
    let (usage, chunks) = events.split_last().expect("events");
    for chunk in &events {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["created"]), (&events[0]["id"], &events[0]["created"]));
        assert!(chunk.as_object().expect("object").contains_key("usage"));
    }
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], n_answer());
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null()));
    let choices: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
    let first = json!({ "index": 0, "delta": { "role": "assistant", "content": "" }, "logprobs": null,
        "finish_reason": null, "stop_reason": null });
    let last =
        json!({ "index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop", "stop_reason": null });
    assert_eq!((choices[0], *choices.last().expect("chunks")), (&first, &last));
    let middle = &choices[1..choices.len() - 1];
    assert!(middle.iter().all(|choice| choice["delta"].as_object().expect("delta").len() == 1));
    assert!(
        middle.iter().all(|choice| choice["finish_reason"].is_null() && choice["delta"]["content"] != "")
    );
    let text: String =
        middle.iter().map(|choice| choice["delta"]["content"].as_str().expect("text")).collect();
    assert_eq!(text, TEXT);
    assert!(!text.contains('\u{fffd}'));
    let bare = server.events(PATH, &with(json!({ "stream": true })));
    assert!(bare.iter().all(|chunk| !chunk.as_object().expect("object").contains_key("usage")));
}

#[test]
fn streamed_or_not_the_answer_is_the_same() {
    let server = Server::ready();
    for asked in [
        json!({}),
        json!({ "max_tokens": 5 }),
        json!({ "stop": ["世界 🙂", "the"] }),
        json!({ "stop": "o 世", "min_tokens": 2 }),
        json!({ "max_completion_tokens": 40, "ignore_eos": true }),
        json!({ "n": 3, "stop": ["fo", "fox"] }),
        json!({ "stop_token_ids": [EOS], "logprobs": true, "top_logprobs": 2 }),
    ] {
        let asked = with(asked);
        let whole = server.post(PATH, &asked).json();
        let mut streamed = asked.clone();
        streamed["stream"] = json!(true);
        let events = server.events(PATH, &streamed);
        for choice in whole["choices"].as_array().expect("choices") {
            let of_choice = |event: &&Value| event["choices"][0]["index"] == choice["index"];
            let chunks: Vec<&Value> =
                events.iter().filter(of_choice).map(|event| &event["choices"][0]).collect();
            let content = |chunk: &&Value| chunk["delta"]["content"].as_str().unwrap_or_default().to_owned();
            let text: String = chunks.iter().map(content).collect();
            assert_eq!(choice["message"]["content"], text, "{asked}");
            let last = chunks.last().expect("chunks");
            assert_eq!(
                (&choice["finish_reason"], &choice["stop_reason"]),
                (&last["finish_reason"], &last["stop_reason"])
            );
            assert!(chunks.iter().rev().skip(1).all(|chunk| chunk["finish_reason"].is_null()));
            let list = |chunk: &Value| chunk["logprobs"]["content"].as_array().cloned().unwrap_or_default();
            let logprobs: Vec<Value> = chunks.iter().flat_map(|chunk| list(chunk)).collect();
            assert_eq!(list(choice), logprobs, "{asked}");
        }
    }
}

#[test]
fn a_stop_string_is_cut_counted_and_ends_the_work() {
    let server = Server::start(Script { step: Duration::from_millis(10), ..Script::default() });
    let reply =
        server.post(PATH, &with(json!({ "stop": ["界", "fox"], "max_tokens": 64, "ignore_eos": true })));
    let body = reply.json();
    assert_eq!(body["choices"][0]["message"]["content"], "Hello 世");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["choices"][0]["stop_reason"], "界");
    let n_tokens = tokenizer().encode("Hello 世界", false).expect("encodes").len();
    assert_eq!(body["usage"]["completion_tokens"], n_tokens);
    server.wait_for("the cancellation", || server.seen.n_cancelled.load(Ordering::Relaxed) == 1);
    assert!(server.seen.n_tokens.load(Ordering::Relaxed) <= n_tokens + 3, "the engine went on");
    let metrics = &server.state.service.metrics;
    assert_eq!((metrics.finished_stop.get(), metrics.aborted.get()), (1, 0));
}

#[test]
fn a_choice_that_stops_early_keeps_its_end_while_others_go_on() {
    // Two sequences at once: the later choices still run when the first ones have found the stop string.
    let server =
        Server::start(Script { step: Duration::from_millis(3), n_sequences: 2, ..Script::default() });
    let body = server.post(PATH, &with(json!({ "n": 4, "stop": "fox" }))).json();
    for choice in body["choices"].as_array().expect("choices") {
        assert_eq!(choice["message"]["content"], "Hello 世界 🙂, said the ");
        assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!("fox")));
    }
}

#[test]
fn stop_tokens_are_reported_and_not_part_of_the_text() {
    let server = Server::ready();
    let comma = tokenizer()
        .encode(TEXT, false)
        .expect("encodes")
        .into_iter()
        .find(|&id| tokenizer().piece(id) == b",");
    let comma = comma.expect("a comma of its own");
    let body =
        server.post(PATH, &with(json!({ "stop_token_ids": [comma], "return_token_ids": true }))).json();
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["content"], "Hello 世界 🙂");
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!(comma)));
    assert_eq!(choice["token_ids"].as_array().expect("ids").last(), Some(&json!(comma)));
}

#[test]
fn logprobs_carry_names_bytes_and_alternatives() {
    let server = Server::ready();
    let body =
        server.post(PATH, &with(json!({ "logprobs": true, "top_logprobs": 2, "max_tokens": 9 }))).json();
    assert!(body["choices"][0]["logprobs"]["refusal"].is_null());
    let content = body["choices"][0]["logprobs"]["content"].as_array().expect("content").clone();
    assert_eq!(content.len(), 9);
    let mut bytes = Vec::new();
    for token in &content {
        let keys: Vec<&str> = token.as_object().expect("object").keys().map(String::as_str).collect();
        assert_eq!(keys, ["token", "logprob", "bytes", "top_logprobs"]);
        assert_eq!(token["logprob"], -0.5);
        assert_eq!(token["top_logprobs"].as_array().expect("top").len(), 2);
        assert_eq!(token["top_logprobs"][0]["token"], token["token"]);
        bytes.extend(
            token["bytes"].as_array().expect("bytes").iter().map(|byte| byte.as_u64().expect("byte") as u8),
        );
    }
    let text = body["choices"][0]["message"]["content"].as_str().expect("text").trim_end_matches('\u{fffd}');
    assert!(bytes.starts_with(text.as_bytes()));
    let named = json!({ "logprobs": true, "max_tokens": 1, "return_tokens_as_token_ids": true, "return_token_ids": true });
    let body = server.post(PATH, &with(named)).json();
    let id = &body["choices"][0]["token_ids"][0];
    assert_eq!(body["choices"][0]["logprobs"]["content"][0]["token"], format!("token_id:{id}"));
    assert_eq!(body["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
    assert_eq!(body["prompt_token_ids"], body["choices"][0]["prompt_token_ids"]);
}

#[test]
fn every_token_of_a_stream_has_an_event_when_ids_are_asked_for() {
    let server = Server::ready();
    let events =
        server.events(PATH, &with(json!({ "stream": true, "return_token_ids": true, "stop": "zzz" })));
    let prompt = server.seen.prompts.lock().expect("no panic")[0].clone();
    assert_eq!(events[0]["choices"][0]["prompt_token_ids"], json!(prompt));
    assert!(events[1..].iter().all(|event| event["choices"][0].get("prompt_token_ids").is_none()));
    let ids: Vec<u64> = events
        .iter()
        .flat_map(|event| event["choices"][0]["token_ids"].as_array().expect("ids").clone())
        .map(|id| id.as_u64().expect("id"))
        .collect();
    let mut expected: Vec<u64> =
        tokenizer().encode(TEXT, false).expect("encodes").into_iter().map(u64::from).collect();
    expected.push(EOS.into());
    assert_eq!(ids, expected);
}

#[test]
fn choices_differ_in_seed_and_repeat_with_it() {
    let server = Server::ready();
    for n in [3, 2] {
        let reply = server.post(PATH, &with(json!({ "n": n, "seed": -7, "temperature": 1.5 })));
        let body = reply.json();
        let indices: Vec<u64> = body["choices"]
            .as_array()
            .expect("choices")
            .iter()
            .map(|c| c["index"].as_u64().expect("index"))
            .collect();
        assert_eq!(indices, (0..n).collect::<Vec<u64>>());
    }
    let seeds: Vec<u64> = server.seen.samplings.lock().expect("no panic").iter().map(|s| s.seed).collect();
    let distinct: std::collections::BTreeSet<u64> = seeds.iter().copied().collect();
    assert_eq!(distinct.len(), 3, "{seeds:?}");
    for _ in 0..2 {
        assert_eq!(server.post(PATH, &hello()).status, 200);
    }
    let seeds: Vec<u64> =
        server.seen.samplings.lock().expect("no panic")[5..].iter().map(|s| s.seed).collect();
    assert_ne!(seeds[0], seeds[1], "without a seed every call has its own");
}

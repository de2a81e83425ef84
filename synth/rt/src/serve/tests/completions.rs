//! Completions: the forms of a prompt, echo, log probabilities; and the parameters of both routes.

use serde_json::json;

use super::*;

const PATH: &str = "/v1/completions";
const TEXT: &str = "Hello 世界 🙂, said the fox.";

#[test]
fn prompts_come_in_four_forms() {
    let server = Server::ready();
    let ids = tokenizer().encode("one two", true).expect("encodes");
    for (prompt, n_prompts) in [
        (json!("one two"), 1),
        (json!(["one two", "one two"]), 2),
        (json!(ids), 1),
        (json!([ids, ids, ids]), 3),
    ] {
        let body = server.post(PATH, &json!({ "prompt": prompt, "n": 2 })).json();
        assert_eq!(body["object"], "text_completion");
        assert!(body["id"].as_str().expect("id").starts_with("cmpl-"));
        let choices = body["choices"].as_array().expect("choices");
        assert_eq!(choices.len(), n_prompts * 2);
        for (index, choice) in choices.iter().enumerate() {
            assert_eq!(
                *choice,
                json!({ "index": index, "text": TEXT, "logprobs": null, "finish_reason": "stop", "stop_reason": null })
            );
        }
        assert_eq!(body["usage"]["prompt_tokens"], ids.len() * n_prompts);
    }
    assert!(server.seen.prompts.lock().expect("no panic").iter().all(|prompt| *prompt == ids));
}

#[test]
fn an_echo_comes_first_with_its_own_logprobs() {
    let server = Server::ready();
    let ids = tokenizer().encode("one two", true).expect("encodes");
    for stream in [false, true] {
        let asked = json!({ "prompt": "one two", "echo": true, "logprobs": 2, "max_tokens": 3, "stream": stream,
            "return_token_ids": true });
        let choices = if stream {
            server.events(PATH, &asked).iter().map(|event| event["choices"][0].clone()).collect()
        } else {
            vec![server.post(PATH, &asked).json()["choices"][0].clone()]
        };
        let text: String = choices.iter().map(|choice| choice["text"].as_str().expect("text")).collect();
        assert!(text.starts_with("one two"), "{text}");
        let joined = |key: &str| -> Vec<Value> {
            choices
                .iter()
                .flat_map(|choice| choice["logprobs"][key].as_array().cloned().unwrap_or_default())
                .collect()
        };
        let n_tokens = ids.len() + 3;
        for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(joined(key).len(), n_tokens, "{key}");
        }
        assert!(joined("token_logprobs")[0].is_null() && joined("top_logprobs")[0].is_null());
        assert!(joined("token_logprobs")[1..].iter().all(|logprob| *logprob == -0.5));
        assert_eq!(joined("text_offset")[0], 0);
        assert_eq!(joined("text_offset")[ids.len()], "one two".chars().count());
        let generated: Vec<Value> =
            choices.iter().flat_map(|choice| choice["token_ids"].as_array().expect("ids").clone()).collect();
        assert_eq!(generated.len(), 3, "the prompt is not counted among the answer's tokens");
        assert_eq!(choices[0]["prompt_token_ids"], json!(ids));
    }
}

#[test]
fn an_echo_alone_asks_for_no_token() {
    let server = Server::ready();
    let asked = json!({ "prompt": [5, 6, 7], "echo": true, "logprobs": 0, "max_tokens": 0 });
    let body = server.post(PATH, &asked).json();
    let choice = &body["choices"][0];
    assert_eq!(choice["text"], tokenizer().decode(&[5, 6, 7]));
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([null, -0.5, -0.5]));
    assert_eq!(
        choice["logprobs"]["top_logprobs"][1].as_object().expect("object").len(),
        1,
        "the token itself"
    );
    assert_eq!(body["usage"]["completion_tokens"], 0);
    assert_eq!(server.post(PATH, &json!({ "prompt": "x", "max_tokens": 0 })).error()["param"], "max_tokens");
}

#[test]
fn a_stream_of_several_choices_keeps_them_apart() {
    let server = Server::ready();
    let asked =
        json!({ "prompt": ["a", "b"], "n": 2, "stream": true, "return_token_ids": true, "max_tokens": 6 });
    let events = server.events(PATH, &asked);
    let whole = server.post(PATH, &json!({ "prompt": "a", "max_tokens": 6 })).json();
    for index in 0..4 {
        let choices: Vec<&Value> = events
            .iter()
            .map(|event| &event["choices"][0])
            .filter(|choice| choice["index"] == index)
            .collect();
        let text: String = choices.iter().map(|choice| choice["text"].as_str().expect("text")).collect();
        assert_eq!(whole["choices"][0]["text"], text);
        let last = choices.last().expect("chunks");
        assert_eq!((&last["finish_reason"], &last["text"]), (&json!("length"), &json!("")));
        let with_prompt = choices.iter().filter(|choice| choice.get("prompt_token_ids").is_some()).count();
        assert_eq!(with_prompt, 1);
    }
}

#[test]
fn parameters_reach_the_engine() {
    let server = Server::ready();
    let asked = json!({
        "prompt": "x", "temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "seed": 3,
        "presence_penalty": -2, "frequency_penalty": 2, "repetition_penalty": 1.5, "logit_bias": { "9": 1, "3": -100 },
        "max_tokens": 5, "min_tokens": 2, "ignore_eos": true, "stop_token_ids": [8], "logprobs": 4,
    });
    assert_eq!(server.post(PATH, &asked).status, 200);
    let sampling = server.seen.samplings.lock().expect("no panic")[0].clone();
    let expected = Sampling {
        temperature: 0.5,
        top_p: 0.25,
        top_k: Some(7),
        min_p: 0.125,
        seed: sampling.seed,
        presence_penalty: -2.0,
        frequency_penalty: 2.0,
        repetition_penalty: 1.5,
        logit_bias: vec![(3, -100.0), (9, 1.0)],
        max_tokens: 5,
        min_tokens: 2,
        ignore_eos: true,
        stop_token_ids: vec![8],
        n_logprobs: Some(4),
        prompt_logprobs: false,
    };
    assert_eq!(sampling, expected);
}

#[test]
fn what_a_request_leaves_open_is_sampled_as_the_model_s_makers_do() {
    let server = Server::ready();
    assert_eq!(server.post(PATH, &json!({ "prompt": "x" })).status, 200);
    assert_eq!(
        server.post(PATH, &json!({ "prompt": "x", "top_k": -1, "top_p": 1, "temperature": 0 })).status,
        200
    );
    let samplings = server.seen.samplings.lock().expect("no panic");
    let bent = |idx: usize| {
        let Sampling { temperature, top_p, top_k, min_p, repetition_penalty, .. } = samplings[idx];
        (temperature, top_p, top_k, min_p, repetition_penalty)
    };
    assert_eq!(bent(0), (0.75, 0.5, Some(9), 0.25, 1.25));
    assert_eq!(bent(1), (0.0, 1.0, None, 0.25, 1.25));
}

#[test]
fn without_max_tokens_the_rest_of_the_context_is_used() {
    let server = Server::ready();
    for (n_prompt, max_tokens) in [(10, 64), (CONTEXT - 3, 3)] {
        assert_eq!(server.post(PATH, &json!({ "prompt": vec![5; n_prompt] })).status, 200);
        assert_eq!(
            server.seen.samplings.lock().expect("no panic").last().expect("seen").max_tokens,
            max_tokens
        );
    }
    let defaults = server.seen.samplings.lock().expect("no panic")[0].clone();
    assert_eq!(
        (defaults.temperature, defaults.top_p, defaults.top_k, defaults.n_logprobs),
        (0.75, 0.5, Some(9), None)
    );
}

#[test]
fn unknown_fields_are_ignored_and_named() {
    let server = Server::ready();
    let reply = server
        .post(PATH, &json!({ "prompt": "x", "user": "u", "store": true, "my-field": 1, "bad\nname": 1 }));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-ignored-fields"), Some("user, store, my-field"));
    assert_eq!(server.post(PATH, &json!({ "prompt": "x" })).header("x-ignored-fields"), None);
}

//! What HF transformers answered about the committed model variants, held against the oracle.

use std::fs;
use std::path::Path;

use oracle::{Oracle, log_softmax};
use serde_json::Value;

/// Largest difference of a log-probability, nats. 7.7e-5 was measured; the goldens' six digits alone make it 5e-5 at -10.
const BOUND: f64 = 1e-4;

/// The families that the issue names, each with at least one variant.
const FAMILIES: [&str; 4] = ["llama", "qwen2", "qwen3", "mistral"];

#[test]
fn greedy_tokens_and_log_probabilities_equal_the_goldens() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let mut seen = Vec::new();
    for entry in fs::read_dir(fixtures.join("goldens")).expect("the goldens are there") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
        let golden = fs::read(&path).expect("it can be read");
        let golden: Value = serde_json::from_slice(&golden).expect("it is JSON");
        let oracle = Oracle::open(&fixtures.join("models").join(&name)).expect("the variant opens");
        let worst = greedy_rows(&oracle, &name, &golden).max(logprob_rows(&oracle, &name, &golden));
        assert!(worst <= BOUND, "{name}: a log-probability differs by {worst:e}");
        println!("{name}: log-probabilities differ by {worst:.1e} at most");
        seen.push(name);
    }
    for family in FAMILIES {
        assert!(seen.iter().any(|name| name.starts_with(family)), "no golden of {family} among {seen:?}");
    }
}

/// Every greedy token is equal; the result is the worst difference of the top log-probabilities.
fn greedy_rows(oracle: &Oracle, name: &str, golden: &Value) -> f64 {
    let mut worst = 0.0f64;
    for row in rows(golden, "greedy") {
        let (prompt, expected) = (ids(&row["prompt"]), ids(&row["ids"]));
        let steps = oracle.greedy(&prompt, expected.len()).expect("the prompt is in the vocabulary");
        let tokens: Vec<u32> = steps.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, expected, "{name}: greedy after {prompt:?}");
        for ((_, logits), top) in steps.iter().zip(row["top"].as_array().expect("top is a list")) {
            let logprobs = log_softmax(logits);
            for pair in top.as_array().expect("a step is a list") {
                let token = pair[0].as_u64().expect("an id") as usize;
                worst = worst.max((f64::from(logprobs[token]) - pair[1].as_f64().expect("a number")).abs());
            }
        }
    }
    worst
}

/// The worst difference of the log-probability of each token given those before it.
fn logprob_rows(oracle: &Oracle, name: &str, golden: &Value) -> f64 {
    let mut worst = 0.0f64;
    for row in rows(golden, "logprobs") {
        let ids = ids(&row["ids"]);
        let expected = row["logprobs"].as_array().expect("logprobs is a list");
        assert_eq!(
            expected.len() + 1,
            ids.len(),
            "{name}: one log-probability for each token after the first"
        );
        let logits = oracle.session().extend(&ids).expect("the ids are in the vocabulary");
        for ((logits, next), expected) in logits.iter().zip(&ids[1..]).zip(expected) {
            let logprob = f64::from(log_softmax(logits)[*next as usize]);
            worst = worst.max((logprob - expected.as_f64().expect("a number")).abs());
        }
    }
    worst
}

fn rows<'a>(golden: &'a Value, key: &str) -> &'a [Value] {
    let rows = golden[key].as_array().expect("the golden has this list");
    assert!(!rows.is_empty(), "the golden has no {key}");
    rows
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("ids are a list");
    ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

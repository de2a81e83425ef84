//! What holds of every decoder model, whatever its weights.

mod toy;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use oracle::{Oracle, OracleError, Rounding, argmax, log_softmax};
use safetensors::Dtype;
use serde_json::json;
use toy::{Toy, VOCAB};

const FAMILIES: [&str; 4] = ["llama", "qwen2", "qwen3", "mistral"];
const TOKENS: [u32; 12] = [3, 0, 36, 17, 17, 9, 28, 1, 30, 5, 5, 12];

fn open(folder: impl AsRef<Path>) -> Oracle {
    Oracle::open(folder.as_ref()).expect("the toy opens")
}

fn whole_pass(oracle: &Oracle, tokens: &[u32]) -> Vec<Vec<f32>> {
    oracle.session().extend(tokens).expect("the tokens are in the vocabulary")
}

/// The oracles of every family, and of Mistral with a window shorter than the test sequence.
fn every_toy(test: &str) -> Vec<Oracle> {
    let windowed =
        Toy::new("mistral").with("sliding_window", json!(4)).write(&format!("{test}-window"), Dtype::F32);
    let full = FAMILIES.map(|family| Toy::new(family).write(&format!("{test}-{family}"), Dtype::F32));
    full.iter().chain([&windowed]).map(open).collect()
}

#[test]
fn any_cut_of_a_sequence_gives_the_same_bits_as_the_whole_pass() {
    for oracle in every_toy("cut") {
        let whole = whole_pass(&oracle, &TOKENS);
        for cut in 1..TOKENS.len() {
            let mut session = oracle.session();
            let mut logits = session.extend(&TOKENS[..cut]).expect("in vocabulary");
            for token in &TOKENS[cut..] {
                logits.push(session.push(*token).expect("in vocabulary"));
            }
            assert_eq!(logits, whole, "cut at {cut} of {:?}", oracle.config());
            assert_eq!(session.n_tokens(), TOKENS.len());
        }
        assert_eq!(oracle.session().extend_last(&TOKENS).expect("in vocabulary"), whole[TOKENS.len() - 1]);
    }
}

#[test]
fn a_later_token_never_changes_earlier_logits() {
    for oracle in every_toy("causal") {
        let whole = whole_pass(&oracle, &TOKENS);
        for changed in 0..TOKENS.len() {
            let mut tokens = TOKENS;
            tokens[changed] = (tokens[changed] + 1) % VOCAB as u32;
            let logits = whole_pass(&oracle, &tokens);
            assert_eq!(logits[..changed], whole[..changed]);
            assert_ne!(logits[changed], whole[changed], "a token must change its own logits");
        }
    }
}

#[test]
fn the_first_token_is_seen_exactly_as_far_as_the_layers_pass_it_on() {
    let window = 3;
    let oracle = open(Toy::new("mistral").with("sliding_window", json!(window)).write("reach", Dtype::F32));
    let mut changed = TOKENS;
    changed[0] += 1;
    let (a, b) = (whole_pass(&oracle, &TOKENS), whole_pass(&oracle, &changed));
    // Each of the two layers carries a token `window - 1` positions further.
    let reach = 2 * (window - 1);
    for position in 0..TOKENS.len() {
        assert_eq!(a[position] != b[position], position <= reach, "position {position}");
    }
}

#[test]
fn a_window_as_long_as_the_sequence_is_full_attention() {
    let full = open(Toy::new("mistral").write("window-none", Dtype::F32));
    let long = open(
        Toy::new("mistral").with("sliding_window", json!(TOKENS.len())).write("window-long", Dtype::F32),
    );
    let short =
        Toy::new("mistral").with("sliding_window", json!(TOKENS.len() - 1)).write("window-short", Dtype::F32);
    assert_eq!(whole_pass(&full, &TOKENS), whole_pass(&long, &TOKENS));
    assert_ne!(whole_pass(&full, &TOKENS), whole_pass(&open(short), &TOKENS));
}

#[test]
fn grouped_heads_equal_repeated_heads() {
    for family in FAMILIES {
        let grouped = open(Toy::new(family).write(&format!("gqa-{family}"), Dtype::F32));
        let repeated = Toy::new(family).with_repeated_kv_heads().write(&format!("mha-{family}"), Dtype::F32);
        assert_eq!(whole_pass(&grouped, &TOKENS), whole_pass(&open(repeated), &TOKENS), "{family}");
    }
}

#[test]
fn each_family_switch_changes_the_answer() {
    let answers = FAMILIES.map(|family| {
        // The same weights under another name: only the family's switches differ.
        let toy = Toy::new("llama").with("model_type", json!(family));
        whole_pass(&open(toy.write(&format!("switch-{family}"), Dtype::F32)), &TOKENS)
    });
    let [llama, qwen2, qwen3, mistral] = answers;
    assert_eq!(llama, mistral);
    assert!(llama != qwen2 && llama != qwen3 && qwen2 != qwen3);
}

#[test]
fn storage_never_changes_the_answer() {
    let toy = Toy::new("qwen3").with_short_weights();
    let single = whole_pass(&open(toy.write("stored-f32", Dtype::F32)), &TOKENS);
    assert_eq!(whole_pass(&open(toy.write("stored-bf16", Dtype::BF16)), &TOKENS), single);
    assert_eq!(whole_pass(&open(toy.write("stored-f16", Dtype::F16)), &TOKENS), single);
    assert_eq!(whole_pass(&open(toy.write_sharded("stored-sharded")), &TOKENS), single);
}

#[test]
fn a_tied_head_is_the_embedding() {
    let mut untied = Toy::new("llama");
    let embedding = untied.tensors["model.embed_tokens.weight"].clone();
    untied.tensors.insert("lm_head.weight".to_owned(), embedding);
    let mut tied = untied.clone().with("tie_word_embeddings", json!(true));
    tied.tensors.remove("lm_head.weight");
    let (untied, tied) = (untied.write("untied", Dtype::F32), tied.write("tied", Dtype::F32));
    assert_eq!(whole_pass(&open(untied), &TOKENS), whole_pass(&open(tied), &TOKENS));
}

#[test]
fn both_spellings_of_the_rotary_parameters_mean_the_same() {
    let scaling = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64 });
    let mut newer = scaling.clone();
    newer["rope_theta"] = json!(500.0);
    let older = Toy::new("llama").with("rope_theta", json!(500.0)).with("rope_scaling", scaling);
    let newer = Toy::new("llama").with("rope_theta", json!(null)).with("rope_parameters", newer);
    let plain = Toy::new("llama").with("rope_theta", json!(500.0)).write("rope-plain", Dtype::F32);
    let older = whole_pass(&open(older.write("rope-older", Dtype::F32)), &TOKENS);
    assert_eq!(older, whole_pass(&open(newer.write("rope-newer", Dtype::F32)), &TOKENS));
    assert_ne!(older, whole_pass(&open(plain), &TOKENS));
}

#[test]
fn greedy_is_the_argmax_of_the_whole_pass_and_log_softmax_sums_to_one() {
    let oracle = open(Toy::new("qwen2").write("greedy", Dtype::F32));
    let steps = oracle.greedy(&TOKENS, 9).expect("in vocabulary");
    assert_eq!(steps.len(), 9);
    let mut tokens = TOKENS.to_vec();
    tokens.extend(steps.iter().map(|(token, _)| token));
    let whole = whole_pass(&oracle, &tokens);
    for (i, (token, logits)) in steps.iter().enumerate() {
        assert_eq!(*logits, whole[TOKENS.len() - 1 + i]);
        assert_eq!(*token, argmax(logits));
        let total: f64 = log_softmax(logits).iter().map(|logprob| f64::from(*logprob).exp()).sum();
        assert!((total - 1.0).abs() < 1e-6, "{total}");
    }
    assert_eq!(argmax(&[1.0, 4.0, 4.0, 2.0]), 1);
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let refused = [
        ("model_type", json!("gpt2")),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("use_sliding_window", json!(true)),
        ("num_key_value_heads", json!(4)),
        ("head_dim", json!(7)),
        ("hidden_size", json!(-1)),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 2.0 })),
        ("rope_scaling", json!({ "rope_type": "llama3", "factor": 2.0 })),
    ];
    for (i, (key, value)) in refused.into_iter().enumerate() {
        let folder = Toy::new("llama").with(key, value).write(&format!("refused-{i}"), Dtype::F32);
        let error = Oracle::open(&folder).err().expect("it is refused");
        assert!(
            matches!(&error, OracleError::Config { key: named, .. } if named.contains(key)),
            "{key}: {error}"
        );
    }
}

#[test]
fn broken_weights_and_tokens_are_errors_that_name_the_place() {
    let error = |folder: &Path| Oracle::open(folder).err().expect("it is refused").to_string();
    let mut missing = Toy::new("llama");
    missing.tensors.remove("model.layers.1.mlp.up_proj.weight");
    assert!(
        error(&missing.write("missing", Dtype::F32)).contains("model.layers.1.mlp.up_proj.weight: missing")
    );
    let wrong = Toy::new("llama").with("intermediate_size", json!(30));
    assert!(error(&wrong.write("wrong-shape", Dtype::F32)).contains("expected [30, 24]"));

    let folder = Toy::new("llama").write("truncated", Dtype::F32);
    let file = folder.join("model.safetensors");
    let bytes = fs::read(&file).expect("it was written");
    fs::write(&file, &bytes[..bytes.len() - 1]).expect("it is written");
    assert!(error(&folder).contains("model.safetensors"));

    let folder = Toy::new("llama").write_sharded("outside");
    let index = json!({ "weight_map": { "lm_head.weight": "../outside/model.safetensors" } }).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).expect("it is written");
    assert!(error(&folder).contains("lm_head.weight"));

    let oracle = open(Toy::new("llama").write("tokens", Dtype::F32));
    assert!(matches!(oracle.session().push(VOCAB as u32), Err(OracleError::Token { .. })));
    assert!(matches!(oracle.greedy(&[], 1), Err(OracleError::Empty)));
}

/// Counts the rows that are rounded, by the matrix they belong to.
#[derive(Clone, Default)]
struct Counting(Arc<Mutex<BTreeMap<String, usize>>>);

impl Counting {
    fn add(&self, what: &str, n: usize) {
        *self.0.lock().expect("no count panics").entry(what.to_owned()).or_default() += n;
    }
}

impl Rounding for Counting {
    fn weights(&self, name: &str, rows: &mut [f32], n_in: usize) {
        self.add(name, rows.len() / n_in);
    }

    fn layer_input(&self, rows: &mut [f32], n_in: usize) {
        self.add("layer inputs", rows.len() / n_in);
    }

    fn head_input(&self, rows: &mut [f32], n_in: usize) {
        self.add("head inputs", rows.len() / n_in);
    }
}

#[test]
fn every_row_of_every_matrix_is_rounded_once_and_every_input_of_a_product() {
    let folder = Toy::new("qwen3").write("counted", Dtype::F32);
    let counting = Counting::default();
    let oracle = Oracle::open_rounded(&folder, Box::new(counting.clone())).expect("the toy opens");
    let config = oracle.config().clone();
    let mut counts = counting.0.lock().expect("no count panics").clone();
    let (query, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    for layer in 0..config.n_layers {
        for (name, n_rows) in [
            ("self_attn.q_proj", query),
            ("self_attn.k_proj", kv),
            ("self_attn.v_proj", kv),
            ("self_attn.o_proj", config.hidden),
            ("mlp.gate_proj", config.intermediate),
            ("mlp.up_proj", config.intermediate),
            ("mlp.down_proj", config.hidden),
        ] {
            let name = format!("model.layers.{layer}.{name}.weight");
            assert_eq!(counts.remove(&name), Some(n_rows), "{name}");
        }
    }
    let tables = if config.tied { 1 } else { 2 };
    assert_eq!((counts.len(), counts.values().sum::<usize>()), (tables, tables * config.vocab));

    // Rounding that changes nothing changes nothing.
    let rounded = whole_pass(&oracle, &TOKENS);
    assert_eq!(rounded, whole_pass(&open(&folder), &TOKENS));
    let counts = counting.0.lock().expect("no count panics");
    // Before query, key and value; before the output; before gate and up; before down.
    assert_eq!(counts["layer inputs"], 4 * config.n_layers * TOKENS.len());
    assert_eq!(counts["head inputs"], TOKENS.len());
}

/// Halves what one of the hooks is shown.
struct Halving(&'static str);

impl Rounding for Halving {
    fn weights(&self, name: &str, rows: &mut [f32], _: usize) {
        if name == self.0 {
            rows.iter_mut().for_each(|weight| *weight *= 0.5);
        }
    }

    fn head_input(&self, rows: &mut [f32], _: usize) {
        if self.0 == "head input" {
            rows.iter_mut().for_each(|x| *x *= 0.5);
        }
    }

    fn kept(&self, heads: &mut [f32], _: usize) {
        if self.0 == "keys and values" {
            heads.iter_mut().for_each(|x| *x *= 0.5);
        }
    }

    fn attention(&self, x: &mut [f32]) {
        if self.0 == "attention" {
            x.iter_mut().for_each(|x| *x *= 0.5);
        }
    }
}

#[test]
fn what_is_rounded_is_what_is_computed_with() {
    let folder = Toy::new("llama").with("tie_word_embeddings", json!(false)).write("halved", Dtype::F32);
    let exact = whole_pass(&open(&folder), &TOKENS);
    let halved = |what| {
        let oracle = Oracle::open_rounded(&folder, Box::new(Halving(what))).expect("the toy opens");
        whole_pass(&oracle, &TOKENS)
    };
    let half: Vec<Vec<f32>> = exact.iter().map(|row| row.iter().map(|logit| logit * 0.5).collect()).collect();
    assert_eq!(halved("lm_head.weight"), half);
    assert_eq!(halved("head input"), half);
    for what in
        ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "keys and values", "attention"]
    {
        assert_ne!(halved(what), exact, "{what}");
    }
    assert_eq!(halved("nothing"), exact);
}

//! Model folders that are right, unsupported, wrong, and broken at random.

pub(crate) mod folder;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::folder::{Folder, entries, file, qwen3_tensors, safetensors, shard, tokenizer};
use super::*;

const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";

/// The errors of a folder, each without the folder it is in; reading them took little time.
fn errors(folder: &Folder) -> Vec<String> {
    let start = Instant::now();
    let errors = Model::read(folder.path()).expect_err("the folder is wrong").0;
    assert!(start.elapsed() < Duration::from_secs(10));
    let prefix = format!("{}/", folder.path().display());
    errors.iter().map(|error| error.to_string().replace(&prefix, "")).collect()
}

fn assert_error(folder: &Folder, expected: &str) {
    let found = errors(folder);
    assert!(found.iter().any(|error| error.contains(expected)), "{expected}\n{found:#?}");
}

/// The error of the valid folder with one key of `config.json` changed.
fn assert_config_error(key: &str, value: Value, expected: &str) {
    let folder = Folder::qwen3();
    folder.set("config.json", key, value);
    assert_error(&folder, &format!("config.json: {expected}"));
}

fn read(folder: &Folder) -> Model {
    Model::read(folder.path()).expect("the folder is valid")
}

#[test]
fn a_folder_becomes_facts() {
    let folder = Folder::qwen3();
    let model = read(&folder);
    assert_eq!(model.family, Family::Qwen3);
    let dims = Dims {
        hidden: 10,
        layers: 2,
        heads: 3,
        kv_heads: 1,
        head_dim: 6,
        intermediate: 7,
        vocab: 41,
        context: 96,
    };
    assert_eq!(model.dims, dims);
    assert_eq!(model.rope, Rope { theta: 1e6, scaling: None });
    assert!(model.qk_norm && !model.qkv_bias && model.tied && !model.add_bos);
    assert_eq!((model.eos.as_slice(), model.bos, model.stored), ([1, 3].as_slice(), Some(0), Dtype::Bf16));
    assert_eq!((model.eos_token.as_deref(), model.bos_token), (Some("<e>"), None));
    assert!(model.chat_template.is_some_and(|template| template.contains("m.role")));
}

#[test]
fn makers_say_how_their_model_is_sampled() {
    let folder = Folder::qwen3();
    assert_eq!(read(&folder).sampling, Sampling { temperature: 0.6, ..Sampling::default() });
    for (key, value) in [("top_k", json!(20)), ("top_p", json!(0.95)), ("repetition_penalty", json!(1.1))] {
        folder.set("generation_config.json", key, value);
    }
    let sampling = read(&folder).sampling;
    assert_eq!((sampling.top_k, sampling.top_p, sampling.repetition_penalty), (Some(20), 0.95, 1.1));
    folder.set("generation_config.json", "temperature", json!(-1));
    folder.set("generation_config.json", "top_p", json!("all"));
    let errors = Model::read(folder.path()).expect_err("refused").to_string();
    for message in
        ["temperature: expected a number from 0 to 2, found -1", "top_p: expected a number from 0 to 1"]
    {
        assert!(errors.contains(message), "{errors}");
    }
}

#[test]
fn every_fixture_is_read() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models");
    let mut families = Vec::new();
    for entry in std::fs::read_dir(models).expect("the repository has models") {
        let folder = entry.expect("the folder can be listed").path();
        if folder.join("config.json").exists() {
            families.push(Model::read(&folder).expect("the fixture is valid").family);
        }
    }
    for family in [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3] {
        assert!(families.contains(&family), "{family:?}");
    }
}

#[test]
fn counted_weights_are_those_of_the_file() {
    for (tied, dtype) in [(true, "BF16"), (false, "F32")] {
        let folder = Folder::qwen3();
        let mut tensors = qwen3_tensors(dtype);
        if !tied {
            folder.set("config.json", "tie_word_embeddings", json!(false));
            tensors.push(("lm_head.weight".to_owned(), dtype, vec![41, 10]));
        }
        folder.write(WEIGHTS, safetensors(&tensors));
        let model = read(&folder);
        let stored: u64 = model.weights[0]
            .tensors
            .iter()
            .map(|tensor| (tensor.end - tensor.begin) / tensor.dtype.bytes())
            .sum();
        assert_eq!(model.n_matrix_weights() + model.n_vector_weights(), stored);
    }
}

#[test]
fn both_spellings_say_the_same() {
    let scaling = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64 });
    let old = Folder::qwen3();
    old.set("config.json", "rope_scaling", scaling.clone());
    let new = Folder::qwen3();
    for key in ["rope_theta", "rope_scaling", "torch_dtype"] {
        new.unset("config.json", key);
    }
    let mut parameters = scaling;
    parameters["rope_theta"] = json!(1e6);
    new.set("config.json", "rope_parameters", parameters);
    new.set("config.json", "dtype", json!("bfloat16"));
    assert_eq!(read(&old).rope, read(&new).rope);
    assert_eq!(read(&old).rope.scaling.map(|scaling| scaling.original_context), Some(64));

    new.set("config.json", "rope_parameters", json!({ "rope_type": "default", "rope_theta": 5e5 }));
    assert_eq!(read(&new).rope, Rope { theta: 5e5, scaling: None });
    old.set("config.json", "rope_scaling", json!({ "type": "default" }));
    assert_eq!(read(&old).rope, Rope { theta: 1e6, scaling: None });
}

#[test]
fn shards_hold_what_one_file_holds() {
    let folder = Folder::qwen3();
    let whole = read(&folder);
    shard(&folder);
    let parts = read(&folder);
    let names = |model: &Model| {
        let mut names: Vec<_> = model
            .weights
            .iter()
            .flat_map(|shard| &shard.tensors)
            .map(|tensor| (tensor.name.clone(), tensor.shape.clone()))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&whole), names(&parts));
    assert_eq!(parts.weights.len(), 2);
}

#[test]
fn digests_follow_the_files() {
    let folder = Folder::qwen3();
    let digests = |folder: &Folder| read(folder).digests().expect("the files are there").clone();
    let before = digests(&folder);
    assert_eq!(before, digests(&folder));
    assert_eq!(before.weights.len(), 64);
    let mut bytes = folder.bytes(WEIGHTS);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    folder.write(WEIGHTS, bytes);
    let after = digests(&folder);
    assert_ne!(before.weights, after.weights);
    assert_eq!((before.tokenizer, before.config), (after.tokenizer, after.config));
}

#[test]
fn sliding_windows_are_uniform_or_refused() {
    let folder = Folder::qwen3();
    folder.set("config.json", "use_sliding_window", json!(true));
    folder.set("config.json", "sliding_window", json!(32));
    folder.set("config.json", "max_window_layers", json!(0));
    assert_eq!(read(&folder).sliding_window, Some(32));
    folder.set("config.json", "max_window_layers", json!(2));
    assert_eq!(read(&folder).sliding_window, None);
    folder.set("config.json", "max_window_layers", json!(1));
    assert_error(
        &folder,
        "config.json: max_window_layers: 1 full layers and 1 sliding ones; a mixture is not in the catalogue",
    );
    folder.set("config.json", "layer_types", json!(["sliding_attention", "full_attention"]));
    assert_error(&folder, "config.json: layer_types: 1 sliding and 1 full layers");
    folder.set("config.json", "layer_types", json!(["sliding_attention", "sliding_attention"]));
    assert_eq!(read(&folder).sliding_window, Some(32));
}

#[test]
fn what_is_not_in_the_catalogue_is_refused_by_key() {
    for (key, value, expected) in [
        ("model_type", json!("gpt2"), "model_type: \"gpt2\" is not in the catalogue"),
        ("model_type", json!(7), "model_type: expected text, found 7"),
        (
            "architectures",
            json!(["Qwen3ForTokenClassification"]),
            "architectures: expected [\"Qwen3ForCausalLM\"]",
        ),
        ("hidden_act", json!("gelu"), "hidden_act: \"gelu\" is not in the catalogue"),
        ("quantization_config", json!({ "bits": 4 }), "quantization_config: quantised weights"),
        ("attention_bias", json!(true), "attention_bias: a bias"),
        ("mlp_bias", json!(true), "mlp_bias: biases"),
        ("torch_dtype", json!("float8_e4m3fn"), "torch_dtype: expected `float32`"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor: rotating a part"),
        (
            "rope_scaling",
            json!({ "rope_type": "yarn", "factor": 4.0 }),
            "rope_scaling.rope_type: \"yarn\" is not in the catalogue",
        ),
        (
            "rope_scaling",
            json!({ "type": "linear", "factor": 2.0 }),
            "rope_scaling.type: \"linear\" is not in the catalogue",
        ),
        (
            "rope_scaling",
            json!({ "rope_type": "llama3", "factor": 8.0 }),
            "rope_scaling.low_freq_factor: is missing",
        ),
        ("rope_scaling", json!("yarn"), "rope_scaling: expected an object or null"),
        (
            "rope_parameters",
            json!({ "full_attention": { "rope_theta": 1.0 } }),
            "rope_parameters: RoPE that differs between layers",
        ),
        (
            "rope_parameters",
            json!({ "rope_theta": 5.0 }),
            "rope_theta: says 1000000 where rope_parameters.rope_theta says 5",
        ),
        ("rope_theta", json!(-1.0), "rope_theta: expected a number above zero"),
        ("rms_norm_eps", json!("small"), "rms_norm_eps: expected a number above zero"),
        // What f32 rounds to zero or to infinity would be served as another model.
        ("rms_norm_eps", json!(1e-46), "rms_norm_eps: expected a number above zero that f32 can hold"),
        ("rope_theta", json!(1e39), "rope_theta: expected a number above zero that f32 can hold"),
        ("eos_token_id", json!(41), "eos_token_id: expected token ids below vocab_size, 41, found 41"),
        ("eos_token_id", json!("</s>"), "eos_token_id: expected token ids"),
    ] {
        assert_config_error(key, value, expected);
    }
}

#[test]
fn sizes_are_checked() {
    for (key, value, expected) in [
        ("hidden_size", json!(0), "hidden_size: expected a whole number from 1"),
        ("hidden_size", json!(u64::MAX), "hidden_size: expected a whole number from 1"),
        ("hidden_size", json!(1e300), "hidden_size: expected a whole number from 1"),
        ("num_hidden_layers", json!(-2), "num_hidden_layers: expected a whole number"),
        ("intermediate_size", json!(1u64 << 62), "intermediate_size: expected a whole number"),
        ("vocab_size", json!(null), "vocab_size: is missing"),
        ("head_dim", json!(5), "head_dim: expected an even number"),
        ("num_attention_heads", json!(4096u64 * 4096), "num_attention_heads: expected a whole number"),
        (
            "num_key_value_heads",
            json!(2),
            "num_key_value_heads: expected a divisor of num_attention_heads, 3, found 2",
        ),
    ] {
        assert_config_error(key, value, expected);
    }
    let folder = Folder::qwen3();
    folder.set("config.json", "hidden_size", json!(12));
    assert_error(
        &folder,
        "model.safetensors: model.embed_tokens.weight: expected shape [41, 12] from vocab_size, hidden_size, found [41, 10]",
    );
}

#[test]
fn many_errors_come_at_once() {
    let folder = Folder::qwen3();
    folder.set("config.json", "hidden_act", json!("relu"));
    folder.set("config.json", "num_hidden_layers", json!(0));
    folder.write("tokenizer.json", [0x7b, 0xff]);
    folder.write(WEIGHTS, [1, 2, 3]);
    folder.set("tokenizer_config.json", "chat_template", json!("{% if %}"));
    let found = errors(&folder);
    for file in [
        "config.json: hidden_act",
        "config.json: num_hidden_layers",
        "model.safetensors: truncated",
        "tokenizer.json: expected UTF-8",
        "tokenizer_config.json: chat_template",
    ] {
        assert!(found.iter().any(|error| error.contains(file)), "{file}: {found:#?}");
    }
}

/// The error of the valid folder with one entry of the weight header replaced.
fn assert_entry_error(name: &str, entry: Value, expected: &str) {
    let folder = Folder::qwen3();
    let (mut map, n_data) = entries(&qwen3_tensors("BF16"));
    map.insert(name.to_owned(), entry);
    folder.write(WEIGHTS, file(&Value::Object(map).to_string(), n_data));
    assert_error(&folder, &format!("{WEIGHTS}: {name}: {expected}"));
}

#[test]
fn a_tensor_must_be_where_its_header_says() {
    let embed = "model.embed_tokens.weight";
    let entry = |dtype: &str, shape: Value, begin: u64, end: u64| json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
    for (value, expected) in [
        (entry("BF16", json!([41, 10]), 0, u64::MAX), "data_offsets [0, 18446744073709551615] are no range"),
        (
            entry("BF16", json!([41, 10]), u64::MAX - 4, 3),
            "data_offsets [18446744073709551611, 3] are no range",
        ),
        (entry("BF16", json!([41, 10]), 820, 0), "data_offsets [820, 0] are no range"),
        (
            entry("BF16", json!([41, 10]), 0, 821),
            "shape [41, 10] in BF16 takes 820 bytes, data_offsets give 821",
        ),
        (
            entry("BF16", json!([1u64 << 40, 1u64 << 40]), 0, 820),
            "shape [1099511627776, 1099511627776] overflows",
        ),
        (entry("BF16", json!([1u64 << 30, 1]), 0, 1 << 31), "ends at byte"),
        (entry("BF16", json!(vec![1; 9]), 0, 2), "expected at most 8 sizes, found 9"),
        (entry("F8_E4M3", json!([41, 20]), 0, 820), "number format F8_E4M3 is not in the catalogue"),
        (entry("I64", json!([41, 10]), 0, 3280), "number format I64"),
        (
            entry("BF16", json!([10, 41]), 0, 820),
            "expected shape [41, 10] from vocab_size, hidden_size, found [10, 41]",
        ),
    ] {
        assert_entry_error(embed, value, expected);
    }
    assert_entry_error("model.norm.weight", entry("BF16", json!([10]), 2, 22), "overlaps the data before it");
}

#[test]
fn a_weight_file_must_be_whole() {
    let folder = Folder::qwen3();
    let whole = folder.bytes(WEIGHTS);
    let (map, n_data) = entries(&qwen3_tensors("BF16"));
    let header = Value::Object(map.clone()).to_string();
    let twice = format!(
        "{{\"a\": {0}, \"a\": {0}}}",
        json!({ "dtype": "F32", "shape": [0], "data_offsets": [0, 0] })
    );
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend(&whole[8..]);
    let mut beyond = 99_999_999u64.to_le_bytes().to_vec();
    beyond.extend(&whole[8..]);
    for (bytes, expected) in [
        (Vec::new(), "truncated: 0 bytes hold no header"),
        (whole[..whole.len() - 1].to_vec(), "of a file of"),
        (whole[..whole.len() / 2].to_vec(), "fetch the file again"),
        ([whole.as_slice(), &[0; 16]].concat(), "bytes, found"),
        (huge, "the header says it has 18446744073709551615 bytes"),
        (beyond, "truncated: the header has 99999999 bytes"),
        (file("[]", 0), "the header is not as the format says"),
        (file("{\"a\": 1}", 0), "the header is not as the format says"),
        (file(&"[".repeat(100_000), 0), "the header is not as the format says"),
        (file(&twice, 0), "a is listed twice"),
        (file(&header.replace("\"shape\"", "\"sizes\""), n_data), "unknown field `sizes`"),
    ] {
        folder.write(WEIGHTS, bytes);
        assert_error(&folder, &format!("{WEIGHTS}: "));
        assert_error(&folder, expected);
    }
}

#[test]
fn tensors_are_those_of_the_configuration() {
    let folder = Folder::qwen3();
    let mut tensors = qwen3_tensors("F16");
    tensors.retain(|(name, _, _)| name != "model.layers.1.mlp.up_proj.weight");
    folder.write(WEIGHTS, safetensors(&tensors));
    assert_error(
        &folder,
        "model.safetensors: model.layers.1.mlp.up_proj.weight: is missing, expected shape [7, 10] from intermediate_size, hidden_size",
    );

    let mut tensors = qwen3_tensors("F16");
    tensors.push(("model.layers.0.self_attn.q_proj.bias".to_owned(), "F16", vec![18]));
    folder.write(WEIGHTS, safetensors(&tensors));
    assert_error(
        &folder,
        "model.safetensors: model.layers.0.self_attn.q_proj.bias: is not a tensor of a `qwen3` model",
    );

    folder.write(WEIGHTS, safetensors(&qwen3_tensors("F16")));
    assert_eq!(read(&folder).stored, Dtype::F16);
    folder.set("config.json", "tie_word_embeddings", json!(false));
    assert_error(
        &folder,
        "lm_head.weight: is missing, expected shape [41, 10] from vocab_size, hidden_size; is tie_word_embeddings meant to be true?",
    );
}

#[test]
fn an_index_names_files_of_the_folder() {
    for (name, expected) in [
        ("../model.safetensors", "`../model.safetensors` is no safetensors file of this folder"),
        ("/etc/passwd", "is no safetensors file of this folder"),
        (INDEX, "is no safetensors file of this folder"),
        ("absent.safetensors", "absent.safetensors: cannot be read"),
        ("model-00001-of-00002.safetensors", "does not hold it"),
    ] {
        let folder = Folder::qwen3();
        shard(&folder);
        let mut index: Value = serde_json::from_slice(&folder.bytes(INDEX)).expect("the index is JSON");
        index["weight_map"]["model.layers.1.mlp.down_proj.weight"] = json!(name);
        folder.write(INDEX, index.to_string());
        assert_error(&folder, expected);
    }
    let folder = Folder::qwen3();
    shard(&folder);
    let second = "model-00002-of-00002.safetensors";
    folder.write(second, safetensors(&qwen3_tensors("BF16")));
    assert_error(
        &folder,
        "model-00002-of-00002.safetensors: model.embed_tokens.weight: is in model-00001-of-00002.safetensors as well",
    );
    folder.write(INDEX, json!({ "weight_map": {} }).to_string());
    assert_error(&folder, "expected 1 to 1024 weight files, found 0");
    folder.write(INDEX, "[");
    assert_error(&folder, "is not a shard index");
    folder.remove(INDEX);
    assert_error(&folder, "has neither model.safetensors nor model.safetensors.index.json");
}

#[cfg(unix)]
#[test]
fn links_in_a_circle_and_pipes_end() {
    let folder = Folder::qwen3();
    shard(&folder);
    let second = "model-00002-of-00002.safetensors";
    folder.remove(second);
    std::os::unix::fs::symlink(folder.path().join(second), folder.path().join(second))
        .expect("a link can be made");
    assert_error(&folder, "model-00002-of-00002.safetensors: cannot be read");
    folder.remove(second);
    std::os::unix::fs::symlink("/dev/zero", folder.path().join(second)).expect("a link can be made");
    assert_error(&folder, "model-00002-of-00002.safetensors: expected a file, found something else");
}

#[test]
fn a_tokenizer_is_text_and_fits_the_model() {
    let folder = Folder::qwen3();
    let with = |path: [&str; 2], value: Value| {
        let mut root = tokenizer();
        root[path[0]][path[1]] = value;
        root.to_string().into_bytes()
    };
    let mut added = tokenizer();
    added["added_tokens"][0]["id"] = json!(41);
    for (bytes, expected) in [
        (
            b"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"\xff\": 0}}}".to_vec(),
            "expected UTF-8, found another byte at offset",
        ),
        (b"{".to_vec(), "is not a tokenizer: EOF"),
        (b"[]".to_vec(), "is not a tokenizer"),
        (b"{}".to_vec(), "is not a tokenizer: missing field `model`"),
        (
            with(["model", "type"], json!("Unigram")),
            "model.type: `Unigram` is not in the catalogue, which has `BPE`",
        ),
        (
            with(["model", "vocab"], json!({ "a": 99 })),
            "model.vocab: `a` has id 99, but vocab_size of config.json is 41",
        ),
        (with(["model", "vocab"], json!({ "a": -1 })), "is not a tokenizer"),
        (with(["model", "vocab"], json!([["a", 0.5]])), "model.vocab: expected a map"),
        (with(["model", "vocab"], json!({})), "model.vocab: expected at least one entry"),
        (added.to_string().into_bytes(), "added_tokens: `<e>` has id 41"),
        ("[".repeat(1_000_000).into_bytes(), "is not a tokenizer"),
    ] {
        folder.write("tokenizer.json", bytes);
        assert_error(&folder, &format!("tokenizer.json: {expected}"));
    }
    folder.remove("tokenizer.json");
    assert_error(&folder, "tokenizer.json: cannot be read");
}

#[test]
fn a_chat_template_must_work_within_bounds() {
    let folder = Folder::qwen3();
    for (template, expected) in [
        ("{% for m in messages %}", "the template does not work"),
        ("{{ messages[0].nothing.at_all }}", "the template does not work"),
        ("{% include '/etc/passwd' %}", "the template does not work"),
        (
            "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
            "the template takes more than",
        ),
        (
            "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "the template takes more than",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "the template does not work"),
        (&format!("{{{{ {}1 }}}}", "-".repeat(5000)), "expected at most 4096 operators, found 5000"),
        (&format!("{{{{ 'x'{} }}}}", "|upper".repeat(5000)), "expected at most 4096 operators, found 5000"),
        (
            &format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(5000)),
            "expected at most 4096 operators, found 5001",
        ),
        // As deep as may be is compiled on a stack that holds it.
        (&format!("{{{{ {}1 }}}}{{{{ x.y }}}}", "-".repeat(4095)), "the template does not work"),
        (&format!("{{{{ x{} }}}}", "()".repeat(4096)), "the template does not work"),
        (
            &format!("{{% if 0 %}}{}{{% endif %}}{{{{ x.y }}}}", "{% elif 0 %}".repeat(4094)),
            "the template does not work",
        ),
        ("(((((", ""),
        (&format!("{{{{ {}1{} }}}}", "(".repeat(2000), ")".repeat(2000)), "the template does not work"),
        (&"x".repeat(300_000), "expected at most 256 KiB"),
    ] {
        folder.write("chat_template.jinja", template);
        if expected.is_empty() {
            assert_eq!(read(&folder).chat_template.as_deref(), Some(template));
        } else {
            assert_error(&folder, &format!("chat_template.jinja: {expected}"));
        }
    }
    folder.write("chat_template.jinja", "{{ raise_exception('only with a system message') }}");
    assert!(read(&folder).chat_template.is_some());
    folder.write("chat_template.jinja", [0xff]);
    assert_error(&folder, "chat_template.jinja: expected UTF-8");
    folder.remove("chat_template.jinja");
    folder.set("tokenizer_config.json", "chat_template", json!([{ "name": "tool_use", "template": "x" }]));
    assert_error(&folder, "tokenizer_config.json: chat_template: expected a template named `default`");
    folder.set(
        "tokenizer_config.json",
        "chat_template",
        json!([{ "name": "tool_use", "template": "x" }, { "name": "default", "template": "y" }]),
    );
    assert_eq!(read(&folder).chat_template.as_deref(), Some("y"));
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let folder = Folder::qwen3();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", WEIGHTS]
    {
        let whole = folder.bytes(name);
        let step = (whole.len() / 199).max(1);
        for n_bytes in (0..whole.len()).step_by(step) {
            folder.write(name, &whole[..n_bytes]);
            assert!(errors(&folder).iter().any(|error| error.starts_with(name)), "{name} cut at {n_bytes}");
        }
        folder.write(name, whole);
    }
    read(&folder);
}

#[test]
fn no_flipped_byte_panics() {
    let mut random = 0x5eed_0002_u64;
    let folder = Folder::qwen3();
    shard(&folder);
    let header_bytes = 1500;
    for name in
        ["config.json", "tokenizer.json", "tokenizer_config.json", INDEX, "model-00001-of-00002.safetensors"]
    {
        let whole = folder.bytes(name);
        for _ in 0..300 {
            let mut bytes = whole.clone();
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = (random >> 16) as usize % bytes.len().min(header_bytes);
            bytes[at] = random as u8;
            folder.write(name, bytes);
            if let Err(ModelErrors(errors)) = Model::read(folder.path()) {
                assert!(!errors.is_empty() && errors.iter().all(|error| !error.message.is_empty()));
            }
        }
        folder.write(name, whole);
    }
}

//! Model folders that are wrong.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
};

use serde_json::{Value, json};

use super::{Case, SPEC, assert_refused, case, specs::make_pipe};
use crate::scratch::{Tensors, copy_fixture, edit, write_tensors};

/// The model with one key of its configuration set.
fn config(name: &'static str, key: &'static str, value: Value, says: &'static [&'static str]) -> Case {
    case(
        name,
        move |folder| edit(&folder.join("model/config.json"), |config| config[key] = value.clone()),
        says,
    )
}

/// The model with its weight file changed.
fn tensors(name: &'static str, harm: impl Fn(&mut Tensors) + 'static, says: &'static [&'static str]) -> Case {
    case(
        name,
        move |folder| {
            let file = folder.join("model/model.safetensors");
            let mut tensors = Tensors::read(&file);
            harm(&mut tensors);
            tensors.write(&file);
        },
        says,
    )
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    fs::write(folder.join("model").join(name), bytes).expect("a file of the model can be written");
}

const NORM: &str = "model.norm.weight";

#[test]
fn a_configuration_that_cannot_be_served_is_refused_at_its_key() {
    assert_refused(&[
        config(
            "odd head_dim",
            "head_dim",
            json!(9),
            &["config.json: head_dim: expected an even number", "found 9"],
        ),
        config(
            "negative",
            "hidden_size",
            json!(-40),
            &["config.json: hidden_size: expected a whole number from 1 to", "found -40"],
        ),
        config(
            "float",
            "hidden_size",
            json!(40.5),
            &["config.json: hidden_size: expected a whole number", "found 40.5"],
        ),
        config(
            "overflow",
            "hidden_size",
            json!(1_u64 << 62),
            &["config.json: hidden_size: expected a whole number from 1 to 131072"],
        ),
        config(
            "many layers",
            "num_hidden_layers",
            json!(1_000_000),
            &["config.json: num_hidden_layers: expected a whole number from 1 to 1024"],
        ),
        config(
            "no layers",
            "num_hidden_layers",
            json!(0),
            &["config.json: num_hidden_layers: expected a whole number from 1"],
        ),
        config(
            "text",
            "vocab_size",
            json!("515"),
            &["config.json: vocab_size: expected a whole number", "found \"515\""],
        ),
        config(
            "heads that do not divide",
            "num_key_value_heads",
            json!(3),
            &["config.json: num_key_value_heads: expected a divisor of num_attention_heads, 4"],
        ),
        config(
            "an end beyond the vocabulary",
            "eos_token_id",
            json!(515),
            &["config.json: eos_token_id: expected token ids below vocab_size, 515"],
        ),
        config(
            "no family",
            "model_type",
            json!("mamba"),
            &["config.json: model_type: \"mamba\" is not in the catalogue, which has `llama`"],
        ),
        config(
            "another class",
            "architectures",
            json!(["LlamaForSequenceClassification"]),
            &["config.json: architectures: expected [\"LlamaForCausalLM\"]"],
        ),
        config(
            "quantised",
            "quantization_config",
            json!({"bits": 4}),
            &["config.json: quantization_config:", "give the folder of the f32"],
        ),
        config("a base that f32 cannot hold", "rope_theta", json!(1e300), &["config.json: rope_theta:"]),
        config(
            "an epsilon that f32 cannot hold",
            "rms_norm_eps",
            json!(1e-60),
            &["config.json: rms_norm_eps: expected a number above zero that f32 can hold"],
        ),
        config("infinite", "rms_norm_eps", json!(1e39), &["config.json: rms_norm_eps: expected a number"]),
        config(
            "another activation",
            "hidden_act",
            json!("gelu"),
            &["config.json: hidden_act: \"gelu\" is not in the catalogue, which has `silu`"],
        ),
        config(
            "other dims than the weights",
            "intermediate_size",
            json!(69),
            &[
                "model.safetensors: model.layers.0.mlp.gate_proj.weight: expected shape [69, 40] from intermediate_size, hidden_size, found [68, 40]",
            ],
        ),
        case(
            "nested without end",
            |folder| write(folder, "config.json", format!("{{\"a\": {}", "[".repeat(3_000_000))),
            &["config.json: is not JSON: recursion limit exceeded"],
        ),
        case(
            "not an object",
            |folder| write(folder, "config.json", "[]"),
            &["config.json: expected a JSON object"],
        ),
        case(
            "no UTF-8",
            |folder| write(folder, "config.json", b"{\"\xff\": 1}"),
            &["config.json: expected UTF-8", "offset 2"],
        ),
        case(
            "a large one",
            |folder| write(folder, "config.json", vec![b' '; 5 << 20]),
            &["config.json: expected at most 4 MiB"],
        ),
        case(
            "none",
            |folder| fs::remove_file(folder.join("model/config.json")).expect("it is there"),
            &["config.json: cannot be read: No such file"],
        ),
        case(
            "several mistakes at once",
            |folder| {
                edit(&folder.join("model/config.json"), |config| {
                    config["head_dim"] = json!(0.5);
                    config["vocab_size"] = json!(-1);
                    config["hidden_act"] = json!("gelu");
                });
                write(folder, "tokenizer.json", "{");
            },
            &[
                "config.json: head_dim:",
                "config.json: vocab_size:",
                "config.json: hidden_act:",
                "tokenizer.json: is not a tokenizer",
            ],
        ),
    ]);
}

#[test]
fn weights_that_cannot_be_mapped_are_refused_at_their_tensor() {
    assert_refused(&[
        case(
            "truncated data",
            |folder| {
                let file = File::options().write(true).open(folder.join("model/model.safetensors"));
                file.and_then(|file| file.set_len(100_000)).expect("the file can be cut");
            },
            &["model.safetensors: ", "of a file of 100000; fetch the file again"],
        ),
        case(
            "truncated header",
            |folder| write(folder, "model.safetensors", [9, 0, 0]),
            &["model.safetensors: truncated: 3 bytes hold no header; fetch the file again"],
        ),
        case(
            "a header longer than the file",
            |folder| write(folder, "model.safetensors", 90_000_000_u64.to_le_bytes()),
            &[
                "model.safetensors: truncated: the header has 90000000 bytes, the file 8; fetch the file again",
            ],
        ),
        case(
            "a huge header length",
            |folder| write(folder, "model.safetensors", u64::MAX.to_le_bytes()),
            &["model.safetensors: the header says it has 18446744073709551615 bytes, more than the format's"],
        ),
        case(
            "a huge header of nothing",
            |folder| {
                write(folder, "model.safetensors", 99_000_000_u64.to_le_bytes());
                let file = File::options().write(true).open(folder.join("model/model.safetensors"));
                file.and_then(|file| file.set_len(100_000_000)).expect("the file can grow");
            },
            &["model.safetensors: the header is not as the format says: expected value at line 1"],
        ),
        case(
            "a header nested without end",
            |folder| write_tensors(&folder.join("model/model.safetensors"), &"{\"a\":".repeat(100_000), &[]),
            &["model.safetensors: the header is not as the format says:"],
        ),
        case(
            "a tensor of a million sizes",
            |folder| {
                let header = format!(
                    "{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{}1],\"data_offsets\":[0,4]}}}}",
                    "1,".repeat(1_000_000)
                );
                write_tensors(&folder.join("model/model.safetensors"), &header, &[0; 4]);
            },
            &["model.safetensors: a: expected at most 8 sizes, found 1000001"],
        ),
        case(
            "listed twice",
            |folder| {
                let file = folder.join("model/model.safetensors");
                let tensors = Tensors::read(&file);
                let norm = &tensors.header[NORM];
                let header = Value::Object(tensors.header.clone()).to_string();
                write_tensors(
                    &file,
                    &header.replacen('{', &format!("{{\"{NORM}\":{norm},"), 1),
                    &tensors.data,
                );
            },
            &["model.safetensors: ", "model.norm.weight is listed twice"],
        ),
        tensors(
            "offsets that overflow",
            |tensors| tensors.header[NORM]["data_offsets"] = json!([u64::MAX - 3, u64::MAX]),
            &["model.safetensors: model.norm.weight: data_offsets", "are no range"],
        ),
        tensors(
            "a shape that overflows",
            |tensors| tensors.header[NORM]["shape"] = json!([1_u64 << 40, 1_u64 << 40]),
            &["model.safetensors: model.norm.weight: shape [1099511627776, 1099511627776] overflows"],
        ),
        tensors(
            "a negative size",
            |tensors| tensors.header[NORM]["shape"] = json!([-40]),
            &["model.safetensors: the header is not as the format says: invalid value: integer `-40`"],
        ),
        tensors(
            "two tensors in one place",
            |tensors| tensors.header[NORM]["data_offsets"] = json!([0, 160]),
            &["model.safetensors: ", "overlaps the data before it"],
        ),
        tensors(
            "another number format",
            |tensors| tensors.header[NORM]["dtype"] = json!("I8"),
            &[
                "model.safetensors: model.norm.weight: number format I8 is not in the catalogue, which has F32, F16 and BF16",
            ],
        ),
        tensors(
            "another number format than its place",
            |tensors| tensors.header[NORM]["dtype"] = json!("BF16"),
            &[
                "model.safetensors: model.norm.weight: shape [40] in BF16 takes 80 bytes, data_offsets give 160",
            ],
        ),
        tensors(
            "another shape of as many elements",
            |tensors| tensors.header[NORM]["shape"] = json!([4, 10]),
            &["model.safetensors: model.norm.weight: expected shape [40] from hidden_size, found [4, 10]"],
        ),
        tensors(
            "a tensor under another name",
            |tensors| {
                let norm = tensors.header.remove(NORM).expect("it is there");
                tensors.header.insert("model.norm.weights".to_owned(), norm);
            },
            &[
                "model.safetensors: model.norm.weight: is missing, expected shape [40]",
                "model.safetensors: model.norm.weights: is not a tensor of a `llama` model",
            ],
        ),
        case(
            "a link to itself",
            |folder| {
                let file = folder.join("model/model.safetensors");
                fs::remove_file(&file).expect("it is there");
                symlink("model.safetensors", file).expect("a link can be made");
            },
            &["model.safetensors: cannot be read: Too many levels of symbolic links"],
        ),
        case(
            "a pipe",
            |folder| {
                fs::remove_file(folder.join("model/model.safetensors")).expect("it is there");
                make_pipe(&folder.join("model/model.safetensors"));
            },
            &["model.safetensors: expected a file, found something else"],
        ),
        case(
            "no weights",
            |folder| fs::remove_file(folder.join("model/model.safetensors")).expect("it is there"),
            &["has neither model.safetensors nor model.safetensors.index.json; convert the weights"],
        ),
    ]);
}

#[test]
fn an_index_that_leads_elsewhere_is_refused() {
    const INDEX: &str = "model.safetensors.index.json";
    /// Puts the sharded fixture in the place of the model and changes its index.
    fn index(
        name: &'static str,
        harm: impl Fn(&Path, &mut Value) + 'static,
        says: &'static [&'static str],
    ) -> Case {
        case(
            name,
            move |folder| {
                let model = folder.join("model");
                fs::remove_dir_all(&model).expect("the model is there");
                copy_fixture("qwen3", &model);
                edit(&model.join(INDEX), |index| harm(&model, index));
            },
            says,
        )
    }
    assert_refused(&[
        index(
            "outside the folder",
            |_, index| index["weight_map"][NORM] = json!("../../secret.safetensors"),
            &[
                "index.json: weight_map.model.norm.weight: `../../secret.safetensors` is no safetensors file of this folder",
            ],
        ),
        index(
            "an absolute path",
            |_, index| index["weight_map"][NORM] = json!("/etc/secret.safetensors"),
            &["index.json: weight_map.model.norm.weight: `/etc/secret.safetensors` is no"],
        ),
        index(
            "itself",
            |_, index| index["weight_map"][NORM] = json!(INDEX),
            &[
                "index.json: weight_map.model.norm.weight: `model.safetensors.index.json` is no safetensors file",
            ],
        ),
        index(
            "a shard that is a link to the index and back",
            |model, index| {
                index["weight_map"][NORM] = json!("circle.safetensors");
                symlink("circle.safetensors", model.join("circle.safetensors")).expect("a link can be made");
            },
            &["circle.safetensors: cannot be read: Too many levels"],
        ),
        index(
            "a shard that is not there",
            |_, index| index["weight_map"][NORM] = json!("model-00003-of-00002.safetensors"),
            &["model-00003-of-00002.safetensors: cannot be read: No such file"],
        ),
        index(
            "a tensor in two shards",
            |model, index| {
                fs::copy(
                    model.join("model-00002-of-00002.safetensors"),
                    model.join("model-00003.safetensors"),
                )
                .expect("it can be copied");
                index["weight_map"]["again"] = json!("model-00003.safetensors");
            },
            &[
                "model-00003.safetensors: model.",
                "is in model-00002-of-00002.safetensors as well; a tensor has one place",
            ],
        ),
        index(
            "a tensor in the other shard",
            |_, index| {
                let norm = index["weight_map"][NORM].as_str().expect("it is placed").to_owned();
                let other = if norm.contains("00001") {
                    "model-00002-of-00002.safetensors"
                } else {
                    "model-00001-of-00002.safetensors"
                };
                index["weight_map"][NORM] = json!(other);
            },
            &["index.json: weight_map.model.norm.weight: ", "does not hold it; fetch the folder again"],
        ),
        index(
            "without a map",
            |_, index| index["weight_map"] = json!([]),
            &["index.json: is not a shard index:"],
        ),
        index(
            "ten thousand shards",
            |_, index| {
                for n in 0..10_000 {
                    index["weight_map"][format!("t{n}")] = json!(format!("{n}.safetensors"));
                }
            },
            &["index.json: expected 1 to 1024 weight files, found 10002"],
        ),
    ]);
}

#[test]
fn a_tokenizer_that_would_not_load_is_refused() {
    fn tokenizer(
        name: &'static str,
        harm: impl Fn(&mut Value) + 'static,
        says: &'static [&'static str],
    ) -> Case {
        case(
            name,
            move |folder| edit(&folder.join("model/tokenizer.json"), |tokenizer| harm(tokenizer)),
            says,
        )
    }
    assert_refused(&[
        case(
            "garbage",
            |folder| write(folder, "tokenizer.json", "garbage"),
            &["tokenizer.json: is not a tokenizer: expected value at line 1"],
        ),
        case(
            "no UTF-8",
            |folder| write(folder, "tokenizer.json", b"{\"model\": \"\xff\"}"),
            &["tokenizer.json: expected UTF-8, found another byte at offset 11"],
        ),
        case(
            "none",
            |folder| fs::remove_file(folder.join("model/tokenizer.json")).expect("it is there"),
            &["tokenizer.json: cannot be read: No such file"],
        ),
        tokenizer(
            "another kind",
            |it| it["model"]["type"] = json!("WordPiece"),
            &["tokenizer.json: model.type: `WordPiece` is not in the catalogue, which has `BPE`"],
        ),
        tokenizer(
            "an empty vocabulary",
            |it| it["model"]["vocab"] = json!({}),
            &["tokenizer.json: model.vocab: expected at least one entry"],
        ),
        tokenizer(
            "an id beyond the model",
            |it| it["model"]["vocab"]["zzz"] = json!(9999),
            &["tokenizer.json: model.vocab: `zzz` has id 9999, but vocab_size of config.json is 515"],
        ),
        tokenizer(
            "a negative id",
            |it| it["model"]["vocab"]["zzz"] = json!(-1),
            &["tokenizer.json: is not a tokenizer: invalid value: integer `-1`"],
        ),
        tokenizer(
            "a merge of what is not there",
            |it| it["model"]["merges"] = json!([["no", "where"]]),
            &["tokenizer.json: ", "no"],
        ),
        tokenizer("a merge that is none", |it| it["model"]["merges"] = json!([7]), &["tokenizer.json: "]),
        tokenizer(
            "a splitter that is not known",
            |it| it["pre_tokenizer"] = json!({"type": "Telepathy"}),
            &["tokenizer.json: "],
        ),
        tokenizer(
            "a splitting expression that is none",
            |it| it["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated", "invert": false}),
            &["tokenizer.json: "],
        ),
        tokenizer(
            "a decoder that is not known",
            |it| it["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            &["tokenizer.json: "],
        ),
    ]);
}

#[test]
fn a_chat_template_that_cannot_run_is_refused() {
    /// A chat model with this template.
    fn template(name: &'static str, text: impl Into<String>, says: &'static [&'static str]) -> Case {
        let text = text.into();
        case(
            name,
            move |folder| {
                fs::write(folder.join("spec.yaml"), SPEC.replace("[completions]", "[chat]"))
                    .expect("the spec can be written");
                write(folder, "chat_template.jinja", &text);
            },
            says,
        )
    }
    const FUEL: &[&str] =
        &["chat_template.jinja: the template takes more than 100000 steps for one short message"];
    const ENDLESS: &[&str] =
        &["model: reading it takes more than 6 s; its chat template may never end: try another"];
    const DEEP: &[&str] = &["chat_template.jinja: expected at most 4096 operators, found "];
    const FAILS: &[&str] = &["chat_template.jinja: the template does not work"];
    assert_refused(&[
        template(
            "loops within loops",
            "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}",
            FUEL,
        ),
        template("a macro that calls itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", FAILS),
        template(
            "a loop that calls itself",
            "{% for m in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
            FAILS,
        ),
        template(
            "a macro that calls itself twice",
            "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
            FAILS,
        ),
        template("huge output of one step", "{{ 'x' * 9000000000000 }}", FUEL),
        template("large output of one step", "{{ 'x' * 4000000000 }}", FUEL),
        template(
            "output that doubles",
            "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
            &["chat_template.jinja: the template"],
        ),
        template(
            "a list that doubles",
            "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
            ENDLESS,
        ),
        template(
            "a list of itself, twice",
            "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
            ENDLESS,
        ),
        template(
            "a comparison of lists of themselves",
            "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
            ENDLESS,
        ),
        template(
            "padding without end",
            "{{ 'x'|indent(4000000000, true) }}",
            &["chat_template.jinja: the template"],
        ),
        template(
            "a format without end",
            "{{ '%4000000000d'|format(1) }}",
            &["chat_template.jinja: the template"],
        ),
        template(
            "a huge range",
            "{{ range(1000000000000)|list|length }}",
            &["chat_template.jinja: the template"],
        ),
        template("a huge power", "{{ 9 ** 999999999 }}", FAILS),
        template("a file of the machine", "{% include '/etc/passwd' %}", FAILS),
        template("a template of the machine", "{% extends '../../secret' %}", FAILS),
        template("nested parentheses", format!("{{{{ {}1{} }}}}", "(".repeat(3000), ")".repeat(3000)), FAILS),
        template("nested lists", format!("{{{{ {} }}}}", "[".repeat(3000)), FAILS),
        template("nested negations", format!("{{{{ {}1 }}}}", "not ".repeat(50_000)), DEEP),
        template(
            "as many negations as may be",
            format!("{{{{ {}1 }}}}{{{{ nothing.at.all }}}}", "-".repeat(4090)),
            &["the template does not work at line 1: undefined value"],
        ),
        template("a chain of filters", format!("{{{{ 'x'{} }}}}", "|upper".repeat(40_000)), DEEP),
        template("nested blocks", format!("{}x", "{% if 1 %}".repeat(3000)), FAILS),
        template(
            "unclosed",
            "{% for m in messages %}",
            &["chat_template.jinja: the template does not work at line 1: syntax error"],
        ),
        template(
            "an unknown filter",
            "{{ messages|explode }}",
            &["chat_template.jinja: the template does not work at line 1: unknown filter"],
        ),
        template(
            "too long",
            "x".repeat(300_000),
            &["chat_template.jinja: expected at most 256 KiB, found 300000 bytes"],
        ),
        case(
            "inline, and wrong",
            |folder| {
                edit(&folder.join("model/tokenizer_config.json"), |it| {
                    it["chat_template"] = json!("{{ messages|explode }}")
                });
            },
            &["tokenizer_config.json: chat_template: the template does not work at line 1: unknown filter"],
        ),
    ]);
}

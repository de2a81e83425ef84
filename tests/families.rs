//! Every family, from a spec outside the repository to a proven binary, by the command that a user types.
//!
//! The rows cover pairs of what may go wrong together (instruction sets, number formats, threads, lengths that no block
//! divides, windows shorter than a prompt), not every combination: each costs a release build.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    command::{self, Bounds, root},
    kernels,
    scratch::{copy_fixture, fixture, odd_model},
};

/// One workload.
struct Row<'a> {
    name: &'static str,
    model: Origin,
    /// The spec below `name` and `model`.
    spec: &'a str,
    /// Decisions made by hand before the crate is emitted: text of the plan, and what to put in its place.
    by_hand: &'static [(&'static str, &'static str)],
}

/// Where the model folder is.
enum Origin {
    /// In the repository, where what HF transformers says about it is recorded.
    Committed(&'static str),
    /// A copy beside the spec: nothing of the repository is named.
    Copied(&'static str),
    /// Made beside the spec, of sizes that no vector width divides.
    Odd,
}

/// Synthesises, builds and proves one row, and returns the names of the surfaces that were proven.
#[track_caller]
fn prove(row: &Row<'_>) -> Vec<String> {
    let folder = home(row.name);
    let model = match row.model {
        Origin::Committed(name) => fixture(name),
        Origin::Copied(name) => {
            copy_fixture(name, &folder.join("model"));
            PathBuf::from("model")
        }
        Origin::Odd => {
            odd_model(&folder.join("model"));
            PathBuf::from("model")
        }
    };
    let spec = format!("name: {}\nmodel: {{ path: {} }}\n{}", row.name, model.display(), row.spec);
    fs::write(folder.join("spec.yaml"), spec).expect("the spec can be written");
    if !row.by_hand.is_empty() {
        synthesise(&folder, "plan");
        let file = folder.join("spec.plan.yaml");
        let mut plan = fs::read_to_string(&file).expect("the plan was written");
        for (from, to) in row.by_hand {
            assert!(plan.contains(from), "{from:?} is not in\n{plan}");
            plan = plan.replace(from, to);
        }
        fs::write(file, plan).expect("the plan can be written");
    }
    let made = synthesise(&folder, "prove");
    assert_eq!(made["proof"]["verdict"], "pass", "{made}");
    let proof = fs::read(folder.join("crate/proof.json")).expect("the proof lies beside the crate");
    let proof: Value = serde_json::from_slice(&proof).expect("a proof is JSON");
    let surfaces = proof["surfaces"].as_array().expect("a proof has surfaces");
    surfaces.iter().filter_map(|surface| surface["name"].as_str()).map(str::to_owned).collect()
}

/// Runs `cargo xtask synth` up to a step and returns its JSON object.
#[track_caller]
fn synthesise(folder: &Path, stop: &str) -> Value {
    let arguments = ["synth", "spec.yaml", "--out", "crate", "--stop", stop, "--json"];
    let ran = command::xtask(folder, &arguments, Bounds { time: Duration::from_secs(900), memory: None });
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.json().expect("one JSON object")
}

/// The folder of a row: the same in every run, so that cargo builds anew only what has changed, and emptied of all
/// but the crate's sources.
fn home(name: &str) -> PathBuf {
    let checkout = root().display().to_string();
    let checkout =
        checkout.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let folder = std::env::temp_dir().join(format!("savile-families-{checkout:08x}")).join(name);
    fs::create_dir_all(folder.join("crate")).expect("a temporary folder can be made");
    for stale in ["spec.plan.yaml", "crate/proof.json", "crate/proof.md", "crate/Cargo.lock"] {
        fs::remove_file(folder.join(stale)).ok();
    }
    fs::remove_dir_all(folder.join("model")).ok();
    folder
}

/// Proves a row whose model is committed, and that what HF transformers says about it was among the surfaces.
#[track_caller]
fn prove_with_golden(row: &Row<'_>, golden: &[&str]) {
    let surfaces = prove(row);
    let absent: Vec<_> = golden.iter().filter(|name| !surfaces.iter().any(|it| it == *name)).collect();
    assert!(absent.is_empty(), "{absent:?} not proven, only {surfaces:?}");
}

#[test]
fn llama_as_hf_transformers_has_it() {
    let row = Row {
        name: "family-llama",
        model: Origin::Committed("llama"),
        spec: "\
target: { cpu: { isa: native, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 4.0 }
  concurrency: 4
  prompt: { p50: 40, p99: 90, max: 200 }
  output: { p50: 10, p99: 20, max: 50 }
",
        by_hand: &[],
    };
    prove_with_golden(&row, &["tokenizer", "chat_template", "golden"]);
}

#[test]
fn llama_tied_as_hf_transformers_has_it_on_any_processor() {
    let row = Row {
        name: "family-llama-tied",
        model: Origin::Committed("llama_tied"),
        spec: "\
target: { cpu: { isa: scalar, threads: 1, memory: 1GiB } }
traffic:
  arrivals: { closed: 1 }
  concurrency: 1
  prompt: { p50: 17, p99: 60, max: 131 }
  output: { p50: 5, p99: 9, max: 33 }
api: [completions]
",
        by_hand: &[],
    };
    prove_with_golden(&row, &["tokenizer", "golden"]);
}

#[test]
fn qwen2_as_hf_transformers_has_it_widened_from_f16() {
    let row = Row {
        name: "family-qwen2",
        model: Origin::Committed("qwen2"),
        spec: "\
target: { cpu: { isa: avx2, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 4.0 }
  concurrency: 3
  prompt: { p50: 31, p99: 99, max: 200 }
  output: { p50: 10, p99: 20, max: 50 }
",
        by_hand: &[],
    };
    prove_with_golden(&row, &["tokenizer", "chat_template", "golden"]);
}

#[test]
fn qwen3_as_hf_transformers_has_it_from_shards_widened_from_bf16() {
    let row = Row {
        name: "family-qwen3",
        model: Origin::Committed("qwen3"),
        spec: "\
weights: f32
target: { cpu: { isa: native, threads: 1, memory: 1GiB } }
traffic:
  arrivals: { poisson: 4.0 }
  concurrency: 2
  prompt: { p50: 40, p99: 90, max: 257 }
  output: { p50: 10, p99: 20, max: 50 }
",
        by_hand: &[],
    };
    prove_with_golden(&row, &["tokenizer", "chat_template", "golden"]);
}

#[test]
fn mistral_as_hf_transformers_has_it_behind_a_window_shorter_than_its_prompts() {
    let row = Row {
        name: "family-mistral",
        model: Origin::Committed("mistral"),
        spec: "\
target: { cpu: { isa: native, threads: 3, memory: 1GiB } }
traffic:
  arrivals: { poisson: 4.0 }
  concurrency: 5
  prompt: { p50: 40, p99: 90, max: 201 }
  output: { p50: 10, p99: 20, max: 50 }
",
        by_hand: &[],
    };
    prove_with_golden(&row, &["tokenizer", "chat_template", "golden"]);
}

#[test]
fn llama_outside_the_repository_rounded_to_its_tolerance_on_any_processor() {
    prove(&Row {
        name: "family-llama-outside",
        model: Origin::Copied("llama"),
        spec: "\
weights: bf16
target: { cpu: { isa: scalar, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { closed: 2 }
  concurrency: 2
  prompt: { p50: 33, p99: 65, max: 127 }
  output: { p50: 3, p99: 5, max: 7 }
api: [chat]
tolerance: { logprob_p99: 0.01 }
",
        by_hand: &[],
    });
}

#[test]
fn llama_tied_outside_the_repository_rounded_to_its_tolerance() {
    prove(&Row {
        name: "family-llama-tied-outside",
        model: Origin::Copied("llama_tied"),
        spec: "\
weights: bf16
target: { cpu: { isa: avx2, threads: 1, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 1
  prompt: { p50: 1, p99: 2, max: 3 }
  output: { p50: 1, p99: 1, max: 2 }
api: [completions]
tolerance: { logprob_p99: 0.5, same_top: 0.9, kl_mean: 0.02 }
",
        by_hand: &[],
    });
}

#[test]
fn qwen2_outside_the_repository_rounded_from_f16_on_any_processor() {
    prove(&Row {
        name: "family-qwen2-outside",
        model: Origin::Copied("qwen2"),
        spec: "\
weights: bf16
target: { cpu: { isa: scalar, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 3
  prompt: { p50: 15, p99: 47, max: 130 }
  output: { p50: 9, p99: 17, max: 18 }
tolerance: { logprob_p99: 0.5, same_top: 0.9, kl_mean: 0.02 }
",
        by_hand: &[],
    });
}

#[test]
fn qwen3_outside_the_repository_with_large_blocks_decided_by_hand() {
    prove(&Row {
        name: "family-qwen3-outside",
        model: Origin::Copied("qwen3"),
        spec: "\
target: { cpu: { isa: avx2, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 1
  prompt: { p50: 70, p99: 140, max: 301 }
  output: { p50: 9, p99: 17, max: 66 }
api: [completions]
",
        by_hand: &[("by: rule", "by: user"), ("block: 16", "block: 32"), ("rows: 128", "rows: 256")],
    });
}

#[test]
fn quickstart_outside_the_repository_with_activations_rounded_to_its_tolerance() {
    prove(&Row {
        name: "family-quickstart-outside",
        model: Origin::Copied("quickstart"),
        spec: "\
target: { cpu: { isa: native, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 12
  prompt: { p50: 50, p99: 99, max: 300 }
  output: { p50: 9, p99: 17, max: 51 }
weights: bf16
tolerance: { logprob_p99: 0.1, same_top: 0.97, kl_mean: 0.001 }
",
        by_hand: &[],
    });
}

#[test]
fn mistral_outside_the_repository_with_large_blocks_and_small_steps_decided_by_hand() {
    prove(&Row {
        name: "family-mistral-outside",
        model: Origin::Copied("mistral"),
        spec: "\
target: { cpu: { isa: avx2, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 7
  prompt: { p50: 50, p99: 99, max: 333 }
  output: { p50: 9, p99: 17, max: 51 }
api: [chat]
",
        by_hand: &[("by: rule", "by: user"), ("block: 16", "block: 64"), ("rows: 128", "rows: 32")],
    });
}

#[test]
fn odd_sizes_with_the_widest_vectors() {
    prove(&Row {
        name: "family-odd",
        model: Origin::Odd,
        spec: "\
target: { cpu: { isa: native, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 3
  prompt: { p50: 33, p99: 67, max: 201 }
  output: { p50: 9, p99: 17, max: 56 }
api: [completions]
",
        by_hand: &[],
    });
}

#[test]
fn odd_sizes_in_steps_of_three_on_any_processor() {
    prove(&Row {
        name: "family-odd-steps",
        model: Origin::Odd,
        spec: "\
weights: bf16
target: { cpu: { isa: scalar, threads: 3, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 3
  prompt: { p50: 33, p99: 67, max: 101 }
  output: { p50: 9, p99: 17, max: 56 }
api: [completions]
tolerance: { logprob_p99: 0.2, same_top: 0.8, kl_mean: 0.02 }
",
        by_hand: &[("by: rule", "by: user"), ("block: 16", "block: 32"), ("rows: 32", "rows: 3")],
    });
}

#[test]
fn quickstart_in_int8() {
    prove(&Row {
        name: "family-quickstart-int8",
        model: Origin::Copied("quickstart"),
        spec: "\
weights: int8
target: { cpu: { isa: native, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 12
  prompt: { p50: 50, p99: 99, max: 300 }
  output: { p50: 9, p99: 17, max: 51 }
tolerance: { logprob_p99: 0.5, same_top: 0.9, kl_mean: 0.01 }
",
        by_hand: &[],
    });
}

#[test]
fn quickstart_in_int8_beside_a_head_in_bf16_with_numbers_of_its_kernels_decided_by_hand() {
    let spec = "\
weights: { layers: int8, head: bf16 }
target: { cpu: { isa: ISA, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 12
  prompt: { p50: 50, p99: 99, max: 300 }
  output: { p50: 9, p99: 17, max: 51 }
tolerance: { logprob_p99: 0.5, same_top: 0.9, kl_mean: 0.01 }
";
    let name = "family-quickstart-tuned";
    let model = Origin::Copied("quickstart");
    if kernels::runs_tiles() {
        let by_hand = &[
            ("by: rule", "by: user"),
            ("few_rows: 8", "few_rows: 4"),
            ("pages: 8", "pages: 1"),
            ("panels: 8", "panels: 16"),
            ("strips: 16", "strips: 8"),
        ];
        prove(&Row { name, model, spec: &spec.replace("ISA", "amx"), by_hand });
    } else {
        let by_hand = &[("by: rule", "by: user"), ("pages: 8", "pages: 4")];
        prove(&Row { name, model, spec: &spec.replace("ISA", "avx2"), by_hand });
    }
}

#[test]
fn quickstart_with_keys_and_values_in_int8() {
    let spec = &INT8_KV.replace("ISA", "native");
    prove(&Row {
        name: "family-quickstart-int8-kv",
        model: Origin::Copied("quickstart"),
        spec,
        by_hand: &[],
    });
}

#[test]
fn quickstart_with_keys_and_values_in_int8_without_tiles() {
    let spec = &INT8_KV.replace("ISA", "avx2");
    let name = "family-quickstart-int8-kv-avx2";
    prove(&Row { name, model: Origin::Copied("quickstart"), spec, by_hand: &[] });
}

const INT8_KV: &str = "\
weights: bf16
kv: int8
target: { cpu: { isa: ISA, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 5
  prompt: { p50: 50, p99: 99, max: 300 }
  output: { p50: 9, p99: 17, max: 51 }
tolerance: { logprob_p99: 0.5, same_top: 0.9, kl_mean: 0.01 }
";

#[test]
fn quickstart_in_int4_beside_a_head_in_int8() {
    prove(&Row {
        name: "family-quickstart-int4",
        model: Origin::Copied("quickstart"),
        spec: "\
weights: { layers: int4, head: int8 }
target: { cpu: { isa: native, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 3
  prompt: { p50: 50, p99: 99, max: 300 }
  output: { p50: 9, p99: 17, max: 51 }
tolerance: { logprob_p99: 1.0, same_top: 0.6, kl_mean: 0.2 }
",
        by_hand: &[],
    });
}

#[test]
fn quickstart_in_int8_beside_a_head_in_bf16() {
    prove(&Row {
        name: "family-quickstart-int8-bf16",
        model: Origin::Copied("quickstart"),
        spec: "\
weights: { layers: int8, head: bf16 }
target: { cpu: { isa: avx2, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 3
  prompt: { p50: 50, p99: 99, max: 300 }
  output: { p50: 9, p99: 17, max: 51 }
api: [completions]
tolerance: { logprob_p99: 0.5, same_top: 0.9, kl_mean: 0.01 }
",
        by_hand: &[],
    });
}

#[test]
fn odd_sizes_in_int8_on_any_processor() {
    prove(&Row {
        name: "family-odd-int8",
        model: Origin::Odd,
        spec: "\
weights: int8
target: { cpu: { isa: scalar, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 1 }
  concurrency: 3
  prompt: { p50: 33, p99: 67, max: 101 }
  output: { p50: 9, p99: 17, max: 56 }
api: [completions]
tolerance: { logprob_p99: 0.5, same_top: 0.8, kl_mean: 0.02 }
",
        by_hand: &[],
    });
}

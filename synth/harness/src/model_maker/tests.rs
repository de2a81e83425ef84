//! Made folders are read by what reads a user's folder, and computed by the oracle.

use std::fs;

use synth::model::{Dtype, Model};

use super::*;

const TINY: Shape = Shape {
    name: "tiny",
    family: Family::Qwen3,
    hidden: 64,
    layers: 6,
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    intermediate: 96,
    vocab: 1000,
    context: 128,
    theta: 10_000.0,
    scaling: None,
    tied: true,
};

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/qwen3")
}

fn made(shape: &Shape, seed: u64, precision: Precision, name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("savile-{}-made-{name}", std::process::id()));
    let mut last = (0, 1);
    make(shape, seed, precision, &base(), &folder, &mut |written, total| last = (written, total))
        .expect("a folder");
    assert_eq!(last.0, last.1, "progress ends at the total");
    folder
}

#[test]
fn a_folder_of_each_family_reads_as_the_shape_it_was_made_from() {
    let families =
        [(Family::Llama, false), (Family::Mistral, true), (Family::Qwen2, true), (Family::Qwen3, false)];
    for (family, tied) in families {
        let shape = Shape { family, tied, head_dim: 16, ..TINY };
        let folder = made(&shape, 1, Precision::Bf16, family.name());
        let model = Model::read(&folder).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!((model.family, model.tied, model.stored), (family, tied, Dtype::Bf16));
        assert_eq!((model.dims.hidden, model.dims.vocab, model.dims.context), (64, 1000, 128));
        assert_eq!(model.eos, Model::read(&base()).expect("the base").eos);
    }
}

#[test]
fn the_llama3_scaling_is_written_where_a_shape_has_it() {
    let large = shape("llama3.2-1b").expect("a shape");
    let small = Shape { scaling: large.scaling, family: Family::Llama, head_dim: 16, ..TINY };
    let model =
        Model::read(&made(&small, 1, Precision::F32, "scaled")).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(model.rope.scaling, large.scaling);
}

#[test]
fn the_same_seed_makes_the_same_bytes_and_another_seed_others() {
    let weights = |seed, name| {
        fs::read(made(&TINY, seed, Precision::F32, name).join("model.safetensors")).expect("weights")
    };
    let first = weights(7, "seed-a");
    assert!(first == weights(7, "seed-b"));
    assert!(first != weights(8, "seed-c"));
}

#[test]
fn every_row_of_the_embedding_has_a_token_and_text_encodes_as_in_the_base() {
    let folder = made(&TINY, 1, Precision::Bf16, "tokens");
    let read = |folder: &Path| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(folder.join("tokenizer.json")).expect("a file"))
            .expect("JSON")
    };
    let (made, base) = (read(&folder), read(&base()));
    let added = made["added_tokens"].as_array().expect("added tokens").iter().map(|token| &token["id"]);
    let vocabulary = made["model"]["vocab"].as_object().expect("a vocabulary");
    let mut ids: Vec<_> = vocabulary.values().chain(added).filter_map(serde_json::Value::as_u64).collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.into_iter().eq(0..1000));
    assert_eq!(made["model"]["merges"], base["model"]["merges"]);
}

#[test]
fn a_vocabulary_smaller_than_the_tokenizer_is_refused() {
    let shape = Shape { vocab: 100, ..TINY };
    let folder = std::env::temp_dir().join(format!("savile-{}-made-small", std::process::id()));
    let error = make(&shape, 1, Precision::F32, &base(), &folder, &mut |_, _| ()).expect_err("refused");
    assert!(error.to_string().contains("tokenizer.json: has the id"), "{error}");
}

#[test]
fn an_unknown_shape_is_answered_with_those_that_there_are() {
    let error = shape("gpt-5").expect_err("unknown").to_string();
    assert!(SHAPES.iter().all(|shape| error.contains(shape.name)), "{error}");
}

//! Calibrations of the fixtures: what must hold of any, and what is known of the trained one.

use std::path::PathBuf;

use synth::calibration::{Calibration, Candidate, candidates};
use synth::held::{Format, Held};
use synth::model::Model;
use synth::workload::Precision;

use super::{CalibrateError, Text, Texts, calibrate, counted_once, extend, fit, positions};

fn fixture(name: &str) -> Model {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name);
    Model::read(&folder).unwrap_or_else(|errors| panic!("{errors}"))
}

fn calibrated(model: &Model) -> Calibration {
    calibrate(model, &Texts::new(model, 1 << 20, Vec::new()), &|_, _| ())
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn what_two_texts_begin_with_counts_once() {
    let texts = [vec![1, 2, 3, 4], vec![1, 2, 9, 9, 9], vec![1, 2, 3], vec![5], vec![1, 2, 3, 4]];
    let counted = counted_once(texts.into_iter());
    let expected =
        [Text { tokens: vec![1, 2, 3, 4], first: 0 }, Text { tokens: vec![1, 2, 9, 9, 9], first: 2 }];
    assert_eq!(counted, expected);
}

#[test]
fn no_text_counts_more_than_its_share() {
    let texts = [(50, 0), (3, 0), (20, 10), (50, 0), (50, 0)];
    let texts = texts.map(|(n, first)| Text { tokens: vec![0; n], first });
    let fitted = fit(texts.into_iter(), 16);
    let counted: Vec<usize> = fitted.iter().map(|text| text.tokens.len() - 1 - text.first).collect();
    assert_eq!(counted, [4, 2, 4, 4, 2]);
}

#[test]
fn samples_are_read_where_there_are_two_and_tell_their_digest() {
    let model = fixture("qwen3");
    let made_up = Texts::new(&model, 1 << 20, Vec::new());
    assert!(!made_up.from_samples && !made_up.measured.is_empty() && !made_up.held_out.is_empty());
    assert_eq!(made_up, Texts::new(&model, 1 << 20, vec![vec![1, 2, 3]]));
    let samples = vec![vec![1, 2, 3, 4], vec![4, 5, 6], vec![6, 7, 8], vec![model.dims.vocab as u32, 1, 1]];
    let sampled = Texts::new(&model, 1 << 20, samples.clone());
    assert!(sampled.from_samples);
    assert_eq!((sampled.measured.len(), sampled.held_out.len()), (2, 1));
    assert_eq!(sampled.digest(), Texts::new(&model, 1 << 20, samples[..3].to_vec()).digest());
    assert_ne!(sampled.digest(), made_up.digest());
    // No sequence of the spec is longer, so none is read that is.
    let short = Texts::new(&model, 5, Vec::new());
    assert!(short.measured.iter().all(|text| text.tokens.len() <= 5) && short.measured.len() > 100);
    let cut = Texts::new(&model, 3, samples[..3].to_vec());
    assert!(cut.from_samples && cut.measured.iter().chain(&cut.held_out).all(|text| text.tokens.len() == 3));
    assert!(positions(&model) > 500, "a small model can afford many");
}

#[test]
fn fewer_bits_are_further_from_the_model() {
    for name in ["qwen3", "llama_tied", "mistral"] {
        let model = fixture(name);
        let mut calibration = calibrated(&model);
        assert!(calibration.is_of(
            &synth::calibration::model_digest(model.digests().expect("it is readable")),
            &Texts::new(&model, 1 << 20, Vec::new()).digest(),
            &candidates(&model)
        ));
        let stored = Candidate::of(Held::as_stored(&model));
        let kept = [Precision::Bf16, Precision::Int8].map(|kv| Candidate { kv, ..stored });
        let texts = Texts::new(&model, 1 << 20, Vec::new());
        extend(&mut calibration, &model, &texts, &kept, &|_, _| ()).expect("it is measured");
        let kl = |candidate: Candidate| {
            let measured = calibration.of(&candidate).unwrap_or_else(|| panic!("{name}: {candidate:?}"));
            measured.divergence.kl_mean
        };
        let held = |layers, head| Candidate::of(Held { layers, head });
        let bf16 = Held::all(Format::Bf16);
        let int8 = kl(held(Format::Int8(128), Format::Int8(128)));
        let int4 = kl(held(Format::Int4(32), Format::Int8(128)));
        let rounded_inputs = kl(Candidate { bf16_activations: true, ..Candidate::of(bf16) });
        assert!(
            0.0 < rounded_inputs && rounded_inputs < int8 && int8 < int4,
            "{name}: {rounded_inputs} {int8} {int4}"
        );
        assert!(kl(held(Format::Int4(32), Format::Int4(32))) > int4, "{name}");
        let [bf16_kv, int8_kv] = kept.map(kl);
        assert!(0.0 < bf16_kv && bf16_kv < int8_kv && int8_kv < int4, "{name}: {bf16_kv} {int8_kv}");
        if Held::as_stored(&model) != bf16 {
            let weights = kl(Candidate::of(bf16));
            assert!(0.0 < weights && weights < int4, "{name}: {weights}");
        }
    }
}

#[test]
fn the_same_model_and_texts_give_the_same_numbers() {
    let model = fixture("qwen3");
    assert_eq!(calibrated(&model), calibrated(&model));
}

#[test]
fn a_weight_without_a_code_is_refused_by_its_tensor() {
    let folder = std::env::temp_dir().join(format!("savile-{}-not-finite", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let source = fixture("llama_tied").folder;
    for entry in std::fs::read_dir(source).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        std::fs::copy(&path, folder.join(path.file_name().expect("a file"))).expect("a copy");
    }
    let model = Model::read(&folder).expect("it is a model");
    let tensor = "model.layers.1.mlp.down_proj.weight";
    let fact = model.weights[0].tensors.iter().find(|fact| fact.name == tensor).expect("it is there");
    let mut bytes = std::fs::read(folder.join(&model.weights[0].name)).expect("weights");
    let at = fact.begin as usize;
    bytes[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(folder.join(&model.weights[0].name), bytes).expect("weights");
    let refused =
        calibrate(&model, &Texts::new(&model, 1 << 20, Vec::new()), &|_, _| ()).expect_err("it is refused");
    assert!(matches!(&refused, CalibrateError::NotFinite { tensor: found } if found == tensor), "{refused}");
    std::fs::remove_dir_all(&folder).expect("it can be removed");
}

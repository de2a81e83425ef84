//! The proof believes a server that answers with the oracle, and none that has a flaw.

use std::path::{Path, PathBuf};

use synth::image::Recipe;
use synth::model::Model;
use synth::workload::{Tolerance, Workload};

use super::stand_in::{Flaw, StandIn};
use super::{Measures, Proof, Recorded, Source, Verdict, question};
use crate::build::Artifact;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn workload(folder: &Path) -> Workload {
    let spec = format!(
        "name: stand_in\nmodel: {{ path: {} }}\ntarget: {{ cpu: {{ isa: native, threads: 2, memory: 1GiB }} }}\n\
         traffic:\n  arrivals: {{ closed: 4 }}\n  concurrency: 4\n  prompt: {{ p50: 8, p99: 20, max: 24 }}\n  \
         output: {{ p50: 8, p99: 32, max: 32 }}\noutput: text\napi: [completions]\n\
         slo: {{ minimise: tpot_p50 }}\ntolerance: {{ tokens: exact }}\n",
        folder.display()
    );
    Workload::parse(&folder.join("stand_in.yaml"), &spec).expect("the spec is valid")
}

/// A whole image of the model, though of no tensors: the stand-in reads the model folder.
fn image(model: &Model) -> PathBuf {
    let path = std::env::temp_dir().join(format!("savile-{}-stand-in.weights", std::process::id()));
    crate::image::ensure(model, &Recipe::default(), &[], &path, &|_, _| ()).expect("it can be written");
    path
}

async fn prove_stand_in(flaw: Flaw) -> Proof {
    let folder = fixtures().join("models/qwen2");
    let model = Model::read(&folder).expect("the fixture is a model");
    let workload = workload(&folder);
    let artifact = Artifact {
        name: "stand_in".into(),
        crate_dir: PathBuf::new(),
        binary: PathBuf::new(),
        binary_digest: "00".into(),
        model_dir: folder.clone(),
        weights: image(&model),
        spec_digest: workload.digest.clone(),
        plan_digest: "11".into(),
        weights_digest: model.digests().expect("the fixture can be read").weights.clone(),
        threads: 2,
    };
    let addr = StandIn::start(&artifact, &folder, flaw).await;
    question(addr, &artifact, (&workload, &model, &Recorded::default()), &|_| ())
        .await
        .expect("there is a proof")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_with_the_oracle_is_proven_and_its_proof_survives_a_file() {
    let proof = prove_stand_in(Flaw::Nothing).await;
    assert_eq!(proof.verdict, Verdict::Pass, "{}", proof.markdown());
    assert!(proof.measures.positions > 100 && proof.measures.logprob_max < 1e-12, "{:?}", proof.measures);
    assert!(proof.measures.same_top == 1.0 && proof.measures.kl_mean < 1e-9, "{:?}", proof.measures);

    let held_out = proof.held_out.expect("a server of completions scores text");
    assert_eq!(held_out.source, Source::Drawn);
    assert!((held_out.perplexity_ratio - 1.0).abs() < 1e-9 && held_out.positions > 100, "{held_out:?}");

    let dir = std::env::temp_dir().join(format!("savile-{}-proof", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    proof.write(&dir).expect("it is written");
    let read = Proof::read(&dir).expect("it reads back");
    assert_eq!((read.markdown(), read.surfaces), (proof.markdown(), proof.surfaces.clone()));
    let unknown = serde_json::to_string(&proof).expect("JSON").replacen('{', "{\"more\":1,", 1);
    std::fs::write(dir.join("proof.json"), unknown).expect("it is written");
    assert!(Proof::read(&dir).is_err(), "an unknown field is refused");
    let old = Proof { version: 1, held_out: None, ..proof.clone() };
    old.write(&dir).expect("it is written");
    assert_eq!(Proof::read(&dir).expect("a proof of version 1 still reads").markdown(), old.markdown());
    let newer = Proof { version: 3, ..proof };
    newer.write(&dir).expect("it is written");
    assert!(Proof::read(&dir).is_err(), "a newer version is refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_sure_of_less_has_a_larger_perplexity() {
    // It reports every log-probability a hundredth too large.
    let held_out = prove_stand_in(Flaw::Imprecise).await.held_out.expect("it scores text");
    assert!((held_out.perplexity_ratio - (-0.01f64).exp()).abs() < 1e-6, "{held_out:?}");
}

#[test]
fn every_bound_of_a_tolerance_is_held_against_its_measure() {
    let bounds = Tolerance::Bounded { logprob_p99: 0.1, same_top: 0.9, kl_mean: 0.01, kl_p999: 0.2 };
    let near = Measures {
        positions: 9,
        logprob_p99: 0.1,
        same_top: 0.9,
        kl_mean: 0.01,
        kl_p999: 0.2,
        ..Measures::default()
    };
    assert_eq!(near.broken(bounds), Vec::<String>::new());
    for (far, expected) in [
        (Measures { logprob_p99: 0.11, ..near }, "p99 |Δlogprob|"),
        (Measures { same_top: 0.89, ..near }, "same-top share"),
        (Measures { kl_mean: 0.011, ..near }, "mean KL divergence"),
        (Measures { kl_p999: 0.21, ..near }, "p99.9 KL divergence"),
        (Measures { positions: 0, ..near }, "no position was compared"),
    ] {
        let broken = far.broken(bounds);
        assert!(broken.len() == 1 && broken[0].starts_with(expected), "{broken:?}");
    }
    let exact = Measures { positions: 9, same_top: 1.0, logprob_p99: 1e-4, ..Measures::default() };
    assert_eq!(exact.broken(Tolerance::Exact), Vec::<String>::new());
    assert_eq!(Measures { logprob_p99: 2e-3, ..exact }.broken(Tolerance::Exact).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_flaw_fails_on_the_surface_that_it_breaks() {
    let flaws = [
        (Flaw::Echoes, "greedy"),
        (Flaw::Canned, "greedy"),
        (Flaw::Imprecise, "teacher_forced"),
        (Flaw::Batched, "batched"),
        (Flaw::StalePrefix, "prefix_near_miss"),
        (Flaw::OneDraw, "drawn"),
        (Flaw::Miscounts, "usage"),
        (Flaw::Leaks, "streamed"),
        (Flaw::Unstoppable, "usage"),
        (Flaw::Impostor, "identity"),
        (Flaw::Preempts, "overload"),
    ];
    for (flaw, surface) in flaws {
        let proof = prove_stand_in(flaw).await;
        assert_eq!(proof.verdict, Verdict::Fail, "{flaw:?} was believed");
        let failed: Vec<&str> = proof.failed().map(|surface| surface.name.as_str()).collect();
        assert!(failed.contains(&surface), "{flaw:?} failed on {failed:?}, not on {surface}");
    }
}

//! The proof believes a server that answers with the oracle, and none that has a flaw.

use std::path::{Path, PathBuf};

use synth::image::Recipe;
use synth::model::Model;
use synth::workload::Workload;

use super::stand_in::{Flaw, StandIn};
use super::{Proof, Verdict, question};
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
    crate::image::ensure(model, &Recipe::default(), &path, &|_, _| ()).expect("it can be written");
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
    question(addr, &artifact, (&workload, &model, None), &|_| ()).await.expect("there is a proof")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_with_the_oracle_is_proven_and_its_proof_survives_a_file() {
    let proof = prove_stand_in(Flaw::Nothing).await;
    assert_eq!(proof.verdict, Verdict::Pass, "{}", proof.markdown());
    assert!(proof.measures.positions > 100 && proof.measures.logprob_max < 1e-12, "{:?}", proof.measures);
    assert!(proof.measures.same_top == 1.0 && proof.measures.kl_mean < 1e-9, "{:?}", proof.measures);

    let dir = std::env::temp_dir().join(format!("savile-{}-proof", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    proof.write(&dir).expect("it is written");
    let read = Proof::read(&dir).expect("it reads back");
    assert_eq!((read.markdown(), read.surfaces), (proof.markdown(), proof.surfaces.clone()));
    let unknown = serde_json::to_string(&proof).expect("JSON").replacen('{', "{\"more\":1,", 1);
    std::fs::write(dir.join("proof.json"), unknown).expect("it is written");
    assert!(Proof::read(&dir).is_err(), "an unknown field is refused");
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

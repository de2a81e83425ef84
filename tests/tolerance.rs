//! From a tolerance to a precision: what is measured is what decides, and what was measured is kept.

use std::{fs, path::Path, time::Duration};

use synth::{
    axis::Axis,
    calibration::{self, Calibration, Candidate, Divergence, Measured},
    held::{Format, Held, ROW},
    mechanism::{Fit, Job},
    model::{Dtype, Model},
    planner::{self, PlanningError},
    target::Isa,
    workload::{Precision, Workload},
};
use templates::CATALOGUE;

use crate::{
    command::{self, Bounds, Ran},
    scratch::{Scratch, copy_fixture, fixture},
};

const SPEC: &str = "\
name: small
model: { path: MODEL }
target: { cpu: { isa: avx2, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 4.0 }
  concurrency: 3
  prompt: { p50: 40, p99: 90, max: 150 }
  output: { p50: 10, p99: 20, max: 50 }
api: [completions]
";

const BOUNDED: &str = "tolerance: { kl_mean: 0.01, same_top: 0.9, logprob_p99: 0.5 }\n";

/// A calibration in which a candidate diverges as `kl` says, whatever a plan may ask of keys and values.
pub fn calibration(model: &Model, kl: impl Fn(&Candidate) -> f64) -> Calibration {
    let measured = |candidate: Candidate| {
        let kl_mean = kl(&candidate);
        let divergence = Divergence { kl_mean, kl_p999: kl_mean, same_top: 1.0, logprob_p99: 0.0 };
        Measured { candidate, divergence, perplexity_ratio: 1.0 }
    };
    let mut candidates = calibration::candidates(model);
    let beside = [&candidates[..], &[Candidate::of(Held::as_stored(model))]].concat();
    let kept = [Precision::Bf16, Precision::Int8];
    candidates.extend(kept.into_iter().flat_map(|kv| beside.iter().map(move |it| Candidate { kv, ..*it })));
    Calibration {
        version: calibration::VERSION,
        model: String::new(),
        texts: String::new(),
        from_samples: false,
        positions: 1,
        held_out_positions: 1,
        measured: candidates.into_iter().map(measured).collect(),
    }
}

/// What a mechanism answers, in its own words, on `more` lines of a spec and this calibration.
fn answer(mechanism: &str, more: &str, model: &Model, calibration: Option<&Calibration>) -> String {
    let text = SPEC.replace("MODEL", &model.folder.display().to_string()) + more;
    let workload = Workload::parse(Path::new("spec.yaml"), &text).unwrap_or_else(|errors| panic!("{errors}"));
    let job =
        Job { workload: &workload, model, isa: Isa::Avx2, calibration, held: None, rate: None, kv: None };
    let answers = planner::ask(&job, CATALOGUE.mechanisms);
    let answer = answers.into_iter().find(|it| it.mechanism.name() == mechanism).expect("it is there");
    match answer.fit {
        Fit::No { why } => why,
        Fit::Yes { reason, knobs, .. } => {
            // What it reserves and what it says are one thing.
            let held = answer.mechanism.holds(&knobs).expect("its own knobs are ones it has");
            assert!(
                calibration
                    .is_none_or(|it| held == Held::as_stored(model) || it.of(&Candidate::of(held)).is_some())
            );
            reason.to_lowercase()
        }
    }
}

fn model(name: &str) -> Model {
    Model::read(&fixture(name)).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_cheapest_groups_and_head_that_keep_the_tolerance_are_taken() {
    let model = model("quickstart");
    assert_eq!(model.stored, Dtype::Bf16);
    // Groups cost little beside a head, so the head falls first where it may.
    let free = calibration(&model, |_| 0.0);
    for (mechanism, expected) in [
        ("int4_weights", "int4 with a scale for every 64 weights and an int4 head"),
        ("int8_weights", "int8 with a scale for every row and an int8 head"),
    ] {
        let found = answer(mechanism, BOUNDED, &model, Some(&free));
        assert!(found.contains(expected), "{found}");
    }
    // A head of codes breaks it, and so do large groups.
    let picky = calibration(&model, |candidate| match candidate.held {
        Held { layers: Format::Int4(32), head: Format::Int8(_) } => 0.009,
        Held { layers: Format::Int8(_), head: Format::Bf16 } => 0.009,
        _ => 0.011,
    });
    for (mechanism, expected) in [
        ("int4_weights", "int4 with a scale for every 32 weights and an int8 head"),
        ("int8_weights", "int8 with a scale for every 128 weights and a bf16 head"),
    ] {
        let found = answer(mechanism, BOUNDED, &model, Some(&picky));
        assert!(found.contains(expected), "{found}");
    }
    // The spec may say which head.
    let asked = format!("weights: {{ layers: int4, head: int8 }}\n{BOUNDED}");
    let found = answer("int4_weights", &asked, &model, Some(&free));
    assert!(found.contains("int4 with a scale for every 128 weights and an int8 head"), "{found}");
}

#[test]
fn what_is_not_allowed_is_said() {
    let model = model("quickstart");
    let far = calibration(&model, |candidate| match candidate.held.layers {
        Format::Int4(group) => group as f64,
        _ => 0.0,
    });
    for (mechanism, more, calibration, expected) in [
        (
            "int4_weights",
            BOUNDED,
            Some(&far),
            "it breaks the tolerance even with int4 with a scale for every 32 weights",
        ),
        ("int4_weights", BOUNDED, Some(&far), "mean KL divergence is 3.20e1, at most 1.00e-2 is allowed"),
        ("int4_weights", BOUNDED, None, "what int4 loses was not measured"),
        ("int4_weights", "", Some(&far), "int4 rounds weights, and the tolerance asks for exact tokens"),
        ("int8_weights", &format!("weights: int4\n{BOUNDED}"), Some(&far), "the spec asks for int4"),
        ("bf16_weights", &format!("weights: int4\n{BOUNDED}"), Some(&far), "the spec asks for int4"),
        ("f32_weights", BOUNDED, Some(&far), "bf16 holds the checkpoint without loss in half the bytes"),
    ] {
        let found = answer(mechanism, more, &model, calibration);
        assert!(found.contains(expected), "{mechanism} {more}: {found}");
    }
}

#[test]
fn a_checkpoint_of_f32_is_rounded_to_bf16_where_that_was_measured_to_be_allowed() {
    let model = model("llama_tied");
    assert_eq!(model.stored, Dtype::F32);
    let bf16 = Candidate::of(Held::all(Format::Bf16));
    let chosen = |more: &str, calibration: Option<&Calibration>| {
        let text = SPEC.replace("MODEL", &model.folder.display().to_string()) + more;
        let workload =
            Workload::parse(Path::new("spec.yaml"), &text).unwrap_or_else(|errors| panic!("{errors}"));
        let job = Job {
            workload: &workload,
            model: &model,
            isa: Isa::Avx2,
            calibration,
            held: None,
            rate: None,
            kv: None,
        };
        let plan =
            planner::plan(&job, "0", None, CATALOGUE.mechanisms).unwrap_or_else(|error| panic!("{error}"));
        planner::held(&plan, CATALOGUE.mechanisms).expect("a plan holds weights")
    };
    let near = calibration(&model, |candidate| if *candidate == bf16 { 0.001 } else { 1.0 });
    let far = calibration(&model, |_| 1.0);
    assert_eq!(chosen(BOUNDED, Some(&near)), Held::all(Format::Bf16));
    assert_eq!(chosen(BOUNDED, Some(&far)), Held::all(Format::F32));
    assert_eq!(chosen(BOUNDED, None), Held::all(Format::F32));
    assert_eq!(chosen("", Some(&near)), Held::all(Format::F32));
    assert_eq!(chosen(&format!("weights: f32\n{BOUNDED}"), Some(&near)), Held::all(Format::F32));
}

#[test]
fn keys_and_values_take_the_fewest_bits_that_were_measured_to_be_allowed() {
    let model = model("quickstart");
    let kept = |more: &str, loses: &dyn Fn(Precision) -> f64| {
        let text = SPEC.replace("MODEL", &model.folder.display().to_string()) + BOUNDED + more;
        let workload =
            Workload::parse(Path::new("spec.yaml"), &text).unwrap_or_else(|errors| panic!("{errors}"));
        let calibration = calibration(&model, |candidate| loses(candidate.kv));
        let job = Job {
            workload: &workload,
            model: &model,
            isa: Isa::Avx2,
            calibration: Some(&calibration),
            held: None,
            rate: None,
            kv: None,
        };
        planner::plan(&job, "0", None, CATALOGUE.mechanisms)
            .map(|plan| planner::kv(&plan, CATALOGUE.mechanisms).expect("a plan keeps keys and values"))
            .map_err(|error| error.to_string())
    };
    // What int8 loses, then what bf16 loses; 0.01 is allowed.
    for (int8, bf16, expected) in [
        (0.009, 0.009, Precision::Int8),
        (0.011, 0.009, Precision::Bf16),
        (0.011, 0.011, Precision::F32),
        (f64::NAN, f64::NAN, Precision::F32),
    ] {
        let loses = |kv| match kv {
            Precision::Int8 => int8,
            Precision::Bf16 => bf16,
            _ => 0.0,
        };
        assert_eq!(kept("weights: bf16\n", &loses), Ok(expected), "{int8} {bf16}");
        assert_eq!(kept("weights: bf16\nkv: f32\n", &loses), Ok(Precision::F32));
        let asked = kept("weights: bf16\nkv: int8\n", &loses);
        if int8 < 0.01 {
            assert_eq!(asked, Ok(Precision::Int8));
        } else {
            let why = asked.expect_err("it loses too much");
            let expected = "keys and values are rounded to int8: mean KL divergence is";
            assert!(why.contains(expected) && why.contains("at most 1.00e-2 is allowed"), "{why}");
        }
    }
}

#[test]
fn a_plan_asks_for_what_was_not_measured_and_then_takes_it() {
    let model = model("quickstart");
    let text = SPEC.replace("MODEL", &model.folder.display().to_string()) + BOUNDED + "weights: int8\n";
    let workload = Workload::parse(Path::new("spec.yaml"), &text).unwrap_or_else(|errors| panic!("{errors}"));
    let mut calibration = calibration(&model, |_| 0.0);
    let whole = std::mem::take(&mut calibration.measured);
    calibration.measured = whole.iter().filter(|it| it.candidate.kv == Precision::F32).copied().collect();
    let plan = |calibration: &Calibration| {
        let (workload, model, calibration) = (&workload, &model, Some(calibration));
        let job = Job { workload, model, isa: Isa::Avx2, calibration, held: None, rate: None, kv: None };
        planner::plan(&job, "0", None, CATALOGUE.mechanisms)
    };
    let Err(PlanningError::Unmeasured { axis: Axis::Kv, candidates }) = plan(&calibration) else {
        panic!("keys and values were not measured");
    };
    // The weights that the plan takes, and no others.
    let held = Held::all(Format::Int8(ROW));
    let beside = [Precision::Bf16, Precision::Int8].map(|kv| Candidate { kv, ..Candidate::of(held) });
    assert_eq!(candidates, beside);
    let asked = whole.iter().filter(|it| beside.contains(&it.candidate));
    calibration.measured.extend(asked);
    let plan = plan(&calibration).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(planner::kv(&plan, CATALOGUE.mechanisms), Some(Precision::Int8));
    assert!(calibration.is_of("", "", &calibration::candidates(&model)));
}

#[test]
fn what_was_measured_is_kept_beside_the_plan_and_never_measured_again() {
    let folder = Scratch::new("tolerance");
    copy_fixture("llama_tied", &folder.path().join("model"));
    folder.write("spec.yaml", SPEC.replace("MODEL", "model") + "weights: bf16\n" + BOUNDED);
    let run = |more: &[&str]| -> Ran {
        let arguments = [&["synth", "spec.yaml", "--out", "crate"], more].concat();
        command::xtask(folder.path(), &arguments, Bounds { time: Duration::from_secs(120), memory: None })
    };
    let file = folder.path().join("spec.calibration.json");
    let first = run(&["--stop", "emit"]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let kept = fs::read_to_string(&file).expect("it is beside the plan");
    let plan = fs::read_to_string(folder.path().join("spec.plan.yaml")).expect("a plan");
    assert!(plan.contains("mechanism: bf16_weights"), "{plan}");

    for more in [&["--stop", "emit"][..], &["--check"]] {
        let again = run(more);
        assert_eq!(again.code, Some(0), "{}", again.stderr);
        assert!(!again.stderr.contains("Calibrate"), "{}", again.stderr);
    }
    // A check measures nothing: what is gone, or of another model, is stale.
    for text in [
        None,
        Some(kept.replacen("\"model\": \"", "\"model\": \"0", 1)),
        Some(kept.replacen("int8", "int4", 1)),
    ] {
        match &text {
            None => fs::remove_file(&file).expect("it is there"),
            Some(text) => fs::write(&file, text).expect("it can be written"),
        }
        let stale = run(&["--check"]);
        assert_eq!(stale.code, Some(3), "{}", stale.stderr);
        assert!(
            stale.stderr.contains("spec.calibration.json is missing, or of another model"),
            "{}",
            stale.stderr
        );
    }
    fs::write(&file, "{").expect("it can be written");
    let broken = run(&["--check"]);
    assert_eq!(broken.code, Some(4), "{}", broken.stderr);
    assert!(broken.stderr.contains("delete the file to have it measured anew"), "{}", broken.stderr);
    fs::remove_file(&file).expect("it is there");
    assert_eq!(run(&["--stop", "plan"]).code, Some(0));
    assert_eq!(fs::read_to_string(&file).expect("it is written again"), kept);
}

//! Specs and model folders that are wrong, by mistake or on purpose, given to the program that users type.
//!
//! Whatever they hold, it ends in bounded time and memory, with the exit code that scripts rely on, and says where
//! the mistake is and what to write instead.

mod models;
mod plans;
mod specs;

use std::{fs, path::Path, time::Duration};

use crate::{
    command::{self, Bounds, Ran},
    scratch::{Scratch, copy_fixture},
};

/// A right spec beside a right model, for the cases to break.
const SPEC: &str = "\
name: small
model: { path: model }
target: { cpu: { isa: scalar, threads: 1, memory: 1GiB } }
traffic:
  arrivals: { poisson: 4.0 }
  concurrency: 2
  prompt: { p50: 20, p99: 40, max: 100 }
  output: { p50: 10, p99: 20, max: 50 }
api: [completions]
";

/// Refusing takes less than this. Most of it is the probe and the six seconds that a model folder has; the rest is
/// for a busy machine.
const TIME: Duration = Duration::from_secs(15);
/// The probe of a good run reads a buffer of up to 1 GiB; nothing that is refused needs 2 GiB beyond it.
const MEMORY: u64 = 3 << 30;

/// One thing that is wrong.
struct Case {
    name: &'static str,
    /// Breaks the folder, which holds `spec.yaml` and `model/`.
    harm: Box<dyn Fn(&Path)>,
    /// What the message holds: the place, the reason, the cure.
    says: &'static [&'static str],
}

fn case(name: &'static str, harm: impl Fn(&Path) + 'static, says: &'static [&'static str]) -> Case {
    Case { name, harm: Box::new(harm), says }
}

/// A folder with a right spec and a right model.
fn sound() -> Scratch {
    let folder = Scratch::new("hostile");
    folder.write("spec.yaml", SPEC);
    copy_fixture("llama_tied", &folder.path().join("model"));
    folder
}

fn plan(folder: &Path) -> Ran {
    let bounds = Bounds { time: 4 * TIME, memory: Some(MEMORY) };
    command::xtask(folder, &["synth", "spec.yaml", "--out", "crate", "--stop", "emit", "--json"], bounds)
}

/// Runs every case and reports all that are not refused as they should be.
#[track_caller]
fn assert_refused(cases: &[Case]) {
    let mut faults = Vec::new();
    for case in cases {
        let folder = sound();
        (case.harm)(folder.path());
        let ran = plan(folder.path());
        faults.extend(fault(&ran, case.says).map(|fault| format!("{}: {fault}\n{}", case.name, ran.stderr)));
    }
    assert!(faults.is_empty(), "{} of {} cases:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

/// What is wrong with a refusal, if anything.
fn fault(ran: &Ran, says: &[&str]) -> Option<String> {
    if !matches!(ran.code, Some(4 | 7)) {
        return Some(format!("exit code {:?} after {:?}", ran.code, ran.took));
    }
    if ran.stderr.contains("panicked at") {
        return Some("it panicked".to_owned());
    }
    if ran.took > TIME {
        return Some(format!("it took {:?}", ran.took));
    }
    if ran.stderr.len() > 16 << 10 {
        return Some(format!("{} bytes of message", ran.stderr.len()));
    }
    let object = match ran.json() {
        Ok(object) => object,
        Err(fault) => return Some(fault),
    };
    let message = object.pointer("/error/message").and_then(|it| it.as_str()).unwrap_or_default();
    if object["version"] != 1 || object["error"]["exit"] != ran.code.unwrap_or_default() {
        return Some(format!("the JSON object is {object}"));
    }
    if !ran.stderr.contains(&format!("error: {message}")) {
        return Some("text and JSON say different things".to_owned());
    }
    let unsaid: Vec<_> = says.iter().filter(|part| !message.contains(**part)).collect();
    (!unsaid.is_empty()).then(|| format!("does not say {unsaid:?}"))
}

#[test]
fn what_is_right_is_planned_within_the_same_bounds() {
    let folder = sound();
    let ran = plan(folder.path());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.json().expect("a JSON object")["name"], "small");
    assert!(folder.path().join("spec.plan.yaml").is_file());
    assert!(folder.path().join("crate/src/main.rs").is_file());
}

#[test]
fn far_more_threads_than_cores_are_planned_for_within_the_same_bounds() {
    let folder = sound();
    folder.write("spec.yaml", SPEC.replace("threads: 1", "threads: 256"));
    let ran = plan(folder.path());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn a_folder_of_somebody_elses_sources_is_left_alone() {
    let folder = sound();
    let theirs = folder.path().join("crate/src/precious.rs");
    fs::create_dir_all(folder.path().join("crate/src")).expect("a folder can be made");
    fs::write(&theirs, "fn precious() {}").expect("a file can be written");
    let ran = plan(folder.path());
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("holds a crate that Savile did not write"), "{}", ran.stderr);
    assert!(theirs.is_file());
}

#[test]
fn without_json_standard_output_stays_empty() {
    let folder = sound();
    folder.write("spec.yaml", "name: small\n");
    let bounds = Bounds { time: 4 * TIME, memory: Some(MEMORY) };
    let ran = command::xtask(folder.path(), &["synth", "spec.yaml", "--out", "crate"], bounds);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(4), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("spec.yaml:1:1: model: missing"), "{}", ran.stderr);
}

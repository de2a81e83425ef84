//! `cargo xtask synth`: from a spec to a proven, measured binary.

use std::{fs, path::Path};

use clap::{Parser, ValueEnum};
use harness::{build::Artifact, prove::Proof, report};
use serde_json::{Value, json};
use synth::source_tree::SourceTree;

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    pipeline::{self, Asked, Decided},
    race::{self, Raced, Rules},
    repo::{self, Named},
    ui::Ui,
};

/// Turn a workload spec into a proven, measured serving binary.
///
/// Reads the spec and the model it names, decides how to serve it (NAME.plan.yaml), emits the crate
/// (generated/NAME/), builds it, proves its answers against an independent oracle, races it against the reference
/// runtimes that are installed, and appends the result to the ledger.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo xtask synth quickstart                       all of it
  cargo xtask synth ../mine/chat.yaml --out ../chat  a spec outside the repository
  cargo xtask synth quickstart --stop plan           decide, and show what was decided
  cargo xtask synth quickstart --diff                what would change in the crate; writes nothing
  cargo xtask synth --check                          is every committed crate what the generator makes?
  cargo xtask synth quickstart --json | jq .bench.metrics.tpot_p50.ratio

Exit codes: 3 a checked crate is stale, 4 spec or model refused, 5 proof failed, 6 build failed, 7 something is missing.")]
pub struct Args {
    /// A workload of the repository, or the path of a spec; may be left out with --check.
    #[arg(required_unless_present = "check")]
    workload: Option<String>,
    /// Where the crate of a spec outside the repository is written.
    #[arg(long, value_name = "DIR", requires = "workload")]
    out: Option<std::path::PathBuf>,
    /// Stop after this step.
    #[arg(long, value_enum, value_name = "STEP")]
    stop: Option<Stop>,
    /// Show how the crate on disk differs from what would be emitted; write nothing.
    #[arg(long, conflicts_with = "stop")]
    diff: bool,
    /// Exit 3 unless plan and crate on disk are what the generator makes; write nothing, and ask nothing of this machine.
    #[arg(long, conflicts_with_all = ["stop", "diff"])]
    check: bool,
    #[command(flatten)]
    rules: Rules,
}

/// A step of synthesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Stop {
    /// Every axis decided, the plan written.
    Plan,
    /// The crate written.
    Emit,
    /// The crate built.
    Build,
    /// The binary proven.
    Prove,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    match &args.workload {
        None => check_all(ui),
        Some(workload) => {
            let asked =
                Asked::read(Named { workload: workload.clone(), out: args.out.clone() }.files()?, ui)?;
            if args.check {
                return check_all_of(&[asked], ui);
            }
            synthesise(&asked, args, ui)
        }
    }
}

/// What a run has come to so far, for the JSON object.
#[derive(Default)]
struct Made {
    artifact: Option<Artifact>,
    proof: Option<Proof>,
    raced: Option<Raced>,
}

fn synthesise(asked: &Asked, args: &Args, ui: &Ui) -> Outcome {
    let machine = pipeline::probe(asked, ui)?;
    let decided = Decided::here(asked, &machine, ui)?;
    if args.diff {
        return show_difference(asked, &decided.emit(asked)?, ui);
    }
    if let Some(calibration) = &decided.calibration {
        fs::write(&asked.files.calibration, calibration.to_json()).or_exit(Exit::Internal)?;
    }
    fs::write(&asked.files.plan, decided.plan.to_yaml()).or_exit(Exit::Internal)?;
    ui.say("Planned", repo::shown(&asked.files.plan));
    ui.say("Reserved", pipeline::reserved(asked, &decided.memory));
    let mut made = Made::default();
    let stop = |step| args.stop == Some(step);
    if stop(Stop::Plan) {
        decided.plan.decisions.iter().for_each(|(axis, decision)| {
            ui.print(format_args!("{axis:<9} {:<24} {}", decision.mechanism, decision.reason));
        });
        return done(asked, &decided, &made, ui);
    }
    let tree = decided.emit(asked)?;
    refuse_foreign(&asked.files.crate_dir)?;
    let written = tree.write_to(&asked.files.crate_dir).or_exit(Exit::Internal)?;
    ui.say(
        "Emitted",
        format_args!(
            "{}: {} files, {} lines, {} changed",
            repo::shown(&asked.files.crate_dir),
            tree.n_files(),
            tree.n_lines(),
            written.n_written + written.n_removed
        ),
    );
    if stop(Stop::Emit) {
        return done(asked, &decided, &made, ui);
    }
    let artifact = made.artifact.insert(decided.build(asked, ui)?);
    ui.say("Built", repo::shown(&artifact.binary));
    if stop(Stop::Build) {
        return done(asked, &decided, &made, ui);
    }
    let runtime = pipeline::runtime()?;
    let standing = pipeline::standing_proof(artifact);
    if let Some(proof) = &standing {
        if !artifact.crate_dir.join("proof.json").exists() {
            proof.write(&artifact.crate_dir).or_exit(Exit::Internal)?;
        }
        ui.say("Proven", format_args!("before, this very binary: {}", pipeline::proven(proof)));
    }
    let proof = match standing {
        Some(proof) => proof,
        None => pipeline::prove(asked, artifact, &runtime, ui)?,
    };
    let proof = made.proof.insert(proof);
    if stop(Stop::Prove) {
        return done(asked, &decided, &made, ui);
    }
    let raced = race::race(asked, &decided.memory, (artifact, proof), &machine, &args.rules, &runtime, ui)?;
    ui.print(format_args!("\n{}", report::terminal(&raced.comparison)));
    made.raced = Some(raced);
    ui.print(format_args!(
        "Report  {}\n\nServe it\n  {}\n  curl -N http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\\n       \
         -d '{{\"stream\": true, \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'",
        repo::shown(&asked.files.reports.join("report.html")),
        serve_command(asked)
    ));
    done(asked, &decided, &made, ui)
}

/// Refuses a folder with sources that Savile did not write: emission removes what it does not know.
fn refuse_foreign(folder: &Path) -> Outcome {
    let readme = fs::read_to_string(folder.join("README.md")).unwrap_or_default();
    let is_theirs = folder.join("src").exists() || folder.join("Cargo.toml").exists();
    if is_theirs && !readme.contains("Generated by `cargo xtask synth") {
        let folder = repo::shown(folder);
        return Err(Failure::new(
            Exit::Usage,
            format!("{folder} holds a crate that Savile did not write; name another folder with --out"),
        ));
    }
    Ok(())
}

/// How to start what was made.
fn serve_command(asked: &Asked) -> String {
    match asked.files.in_workspace() {
        true => format!("cargo xtask serve {}", asked.workload.name),
        false => format!(
            "cargo xtask serve {} --out {}",
            repo::shown(&asked.files.spec),
            repo::shown(&asked.files.crate_dir)
        ),
    }
}

/// Prints the object of a run that came as far as it was to.
fn done(asked: &Asked, decided: &Decided, made: &Made, ui: &Ui) -> Outcome {
    let proof = made.proof.as_ref().map(|proof| {
        json!({
            "verdict": proof.verdict, "surfaces": proof.surfaces.len(), "cases": proof.n_cases,
            "oracle_tokens": proof.n_oracle_tokens, "logprob_p99": proof.measures.logprob_p99,
        })
    });
    let bench = made.raced.as_ref().map(|raced| {
        let mut bench = report::json(&raced.comparison);
        if let Some(bench) = bench.as_object_mut() {
            // Whole, it is in the report beside the others.
            bench.remove("comparison");
            bench.insert("entry".into(), json!(raced.entry.id()));
            bench.insert("report".into(), json!(asked.files.reports.join("report.html")));
        }
        bench
    });
    ui.print_json(&json!({
        "version": 1,
        "name": asked.workload.name,
        "crate": asked.files.crate_dir,
        "binary": made.artifact.as_ref().map(|artifact| &artifact.binary),
        "plan": asked.files.plan,
        "plan_digest": decided.plan.digest(),
        "isa": decided.plan.isa.name(),
        "memory": decided.memory,
        "proof": proof,
        "bench": bench,
    }));
    Ok(())
}

/// Shows what [`SourceTree::write_to`] would change.
fn show_difference(asked: &Asked, tree: &SourceTree, ui: &Ui) -> Outcome {
    let differences = tree.diff(&asked.files.crate_dir).or_exit(Exit::Internal)?;
    for difference in &differences {
        ui.print(&difference.unified);
    }
    if differences.is_empty() {
        ui.print(format_args!("{} is what would be emitted", repo::shown(&asked.files.crate_dir)));
    }
    let files: Vec<_> = differences.iter().map(|it| &it.path).collect();
    ui.print_json(&json!({"version": 1, "name": asked.workload.name, "differs": files}));
    Ok(())
}

/// Checks every crate in `generated/`.
fn check_all(ui: &Ui) -> Outcome {
    let asked: Vec<_> = repo::crates()
        .iter()
        .map(|name| Asked::read(Named::ours(name).files()?, ui))
        .collect::<Outcome<_>>()?;
    check_all_of(&asked, ui)
}

fn check_all_of(all: &[Asked], ui: &Ui) -> Outcome {
    let mut stale = Vec::new();
    let mut checked: Vec<Value> = Vec::new();
    for asked in all {
        let decided = Decided::pinned(asked)?;
        let plan = fs::read_to_string(&asked.files.plan).or_exit(Exit::Internal)?;
        let mut differs: Vec<_> =
            decided.emit(asked)?.diff(&asked.files.crate_dir).or_exit(Exit::Internal)?;
        differs.iter().for_each(|difference| ui.print(&difference.unified));
        let mut files: Vec<_> = differs.drain(..).map(|it| it.path).collect();
        if plan != decided.plan.to_yaml() {
            files.push(repo::shown(&asked.files.plan));
        }
        checked.push(json!({"name": asked.workload.name, "differs": files}));
        match files.as_slice() {
            [] => ui.print(format_args!("{}: current", asked.workload.name)),
            files => stale.push(format!("{}: {}", asked.workload.name, files.join(", "))),
        }
    }
    ui.print_json(&json!({"version": 1, "checked": checked}));
    if stale.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Regression,
        format!(
            "not what the generator makes; run `cargo xtask synth NAME --stop emit`\n{}",
            stale.join("\n")
        ),
    ))
}

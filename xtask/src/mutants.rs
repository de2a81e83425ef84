//! `cargo xtask mutants`: does the proof catch what it must?

use clap::Parser;
use harness::{
    build::{self, Artifact},
    mutants::{MUTANTS, Mutant, Plant, copy_crate},
    prove::{self, Proof, Recorded, Verdict},
};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    pipeline::{self, Asked, Decided},
    repo::{self, Named},
    ui::Ui,
};

/// Plant faults in a workload's crate, one after another, and see that the proof catches each.
///
/// Works on copies under target/mutants. A fault that the proof lets pass ends with exit code 5: then the proof is not
/// worth its name.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask mutants quickstart\n  cargo xtask mutants quickstart --only wrong_rope_base\n  cargo xtask mutants --list"
)]
pub struct Args {
    /// A workload of the repository, or the path of a spec.
    #[arg(required_unless_present = "list")]
    workload: Option<String>,
    /// The crate of a spec outside the repository.
    #[arg(long, value_name = "DIR")]
    out: Option<std::path::PathBuf>,
    /// Plant this fault alone; may be given more than once.
    #[arg(long, value_name = "FAULT")]
    only: Vec<String>,
    /// Show the faults there are.
    #[arg(long)]
    list: bool,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let chosen = chosen(&args.only)?;
    let Some(workload) = args.workload.as_ref().filter(|_| !args.list) else {
        chosen
            .iter()
            .for_each(|it| ui.print(format_args!("{:<22} {}; {} fails", it.name, it.what, it.surface)));
        ui.print_json(&json!({"version": 1, "faults": chosen.iter().map(|it| it.name).collect::<Vec<_>>()}));
        return Ok(());
    };
    let asked = Asked::read(Named { workload: workload.clone(), out: args.out.clone() }.files()?, ui)?;
    let trial = Trial { decided: Decided::pinned(&asked)?, asked: &asked, runtime: pipeline::runtime()?, ui };
    trial.decided.lay_out(&asked, ui)?;
    trial.sound()?;
    let mut results = Vec::new();
    let mut alive = Vec::new();
    for (idx, mutant) in chosen.iter().enumerate() {
        let caught = trial.catches(mutant)?;
        let place = format!("{:>2}/{}", idx + 1, chosen.len());
        match &caught {
            Ok(surfaces) => {
                ui.print(format_args!("{place} {:<22} caught by {}", mutant.name, surfaces.join(", ")))
            }
            Err(why) => {
                ui.print(format_args!("{place} {:<22} LIVES: {why}", mutant.name));
                alive.push(mutant.name);
            }
        }
        results.push(
            json!({"fault": mutant.name, "caught_by": caught.as_ref().ok(), "lives": caught.as_ref().err()}),
        );
    }
    ui.print_json(&json!({"version": 1, "workload": asked.workload.name, "faults": results}));
    if alive.is_empty() {
        ui.print(format_args!("all {} faults are caught", chosen.len()));
        return Ok(());
    }
    Err(Failure::new(Exit::Proof, format!("the proof lets pass: {}", alive.join(", "))))
}

fn chosen(only: &[String]) -> Outcome<Vec<&'static Mutant>> {
    if let Some(unknown) = only.iter().find(|name| !MUTANTS.iter().any(|mutant| mutant.name == **name)) {
        return Err(Failure::new(
            Exit::Usage,
            format!("there is no fault {unknown}; `--list` shows those there are"),
        ));
    }
    let is_chosen = |mutant: &&Mutant| only.is_empty() || only.iter().any(|name| name == mutant.name);
    Ok(MUTANTS.iter().filter(is_chosen).collect())
}

/// A crate in which faults are planted, one at a time.
struct Trial<'a> {
    asked: &'a Asked,
    decided: Decided,
    runtime: Runtime,
    ui: &'a Ui,
}

impl Trial<'_> {
    fn folder(&self) -> std::path::PathBuf {
        repo::target().join("mutants").join(&self.asked.workload.name)
    }

    /// The copy without a fault passes: else catching one would mean nothing.
    fn sound(&self) -> Outcome {
        let copy = copy_crate(&self.asked.files.crate_dir, &self.folder()).or_exit(Exit::Internal)?;
        let proof = self.proof(&copy, &self.asked.image())?;
        match proof {
            Ok(proof) if proof.verdict == Verdict::Pass => Ok(()),
            Ok(proof) => Err(Failure::new(
                Exit::Proof,
                format!("the crate without a fault is not proven:\n{}", proof.markdown()),
            )),
            Err(why) => {
                Err(Failure::new(Exit::Proof, format!("the crate without a fault does not serve: {why}")))
            }
        }
    }

    /// The surfaces that failed, the expected one among them; or why the fault lives.
    fn catches(&self, mutant: &Mutant) -> Outcome<Result<Vec<String>, String>> {
        let planted = mutant
            .plant(&self.asked.files.crate_dir, &self.asked.image(), &self.folder())
            .or_exit(Exit::Internal)?;
        let proof = self.proof(&planted.crate_dir, &planted.weights)?;
        if let Plant::Source { .. } = mutant.plant {
            // The next fault starts from the crate as it is.
            copy_crate(&self.asked.files.crate_dir, &self.folder()).or_exit(Exit::Internal)?;
        }
        let proof = match proof {
            Ok(proof) => proof,
            Err(why) => return Ok(Err(format!("it does not serve at all: {why}"))),
        };
        let failed: Vec<_> = proof.failed().map(|surface| surface.name.clone()).collect();
        Ok(match failed.iter().any(|name| name == mutant.surface) {
            true => Ok(failed),
            false if failed.is_empty() => Err("the proof passed".to_owned()),
            false => Err(format!("{} failed, {} did not", failed.join(", "), mutant.surface)),
        })
    }

    /// Builds and proves a copy. A server that does not start is no proof, and says so.
    fn proof(
        &self,
        crate_dir: &std::path::Path,
        weights: &std::path::Path,
    ) -> Outcome<Result<Proof, String>> {
        let step = self.ui.step("Prove", repo::shown(crate_dir));
        let binary = build::build(crate_dir, &repo::target(), |name| step.note(name)).or_exit(Exit::Build)?;
        let artifact = Artifact {
            name: self.asked.workload.name.clone(),
            crate_dir: crate_dir.to_owned(),
            binary_digest: build::digest(&binary).or_exit(Exit::Build)?,
            binary,
            model_dir: self.asked.model.folder.clone(),
            weights: weights.to_owned(),
            spec_digest: self.asked.workload.digest.clone(),
            plan_digest: self.decided.plan.digest(),
            weights_digest: self.decided.plan.weights.clone(),
            threads: self.asked.workload.target.threads,
        };
        let note = |what: &str| step.note(what);
        let recorded = Recorded::default();
        let proving = prove::prove(&artifact, &self.asked.workload, &self.asked.model, &recorded, &note);
        let proof = self.runtime.block_on(proving).map_err(|error| error.to_string());
        step.done();
        Ok(proof)
    }
}

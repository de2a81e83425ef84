//! `cargo xtask serve`: run a workload's binary.

use std::{os::unix::process::CommandExt, process::Command};

use clap::Parser;

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    repo::{self, Files},
    ui::Ui,
};

/// Run a workload's binary.
///
/// Builds the emitted crate if it is not built, then replaces this process with it.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask serve quickstart\n  cargo xtask serve quickstart -- --listen 127.0.0.1:9000"
)]
pub struct Args {
    /// A workload of the repository, or the path of a spec.
    workload: String,
    /// The crate of a spec outside the repository.
    #[arg(long, value_name = "DIR")]
    out: Option<std::path::PathBuf>,
    /// Flags for the binary, after `--`.
    #[arg(last = true)]
    flags: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let files = Files::find(&args.workload, args.out.as_deref())?;
    if !files.crate_dir.join("Cargo.toml").exists() {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{} holds no crate yet; run `cargo xtask synth {}`",
                repo::shown(&files.crate_dir),
                args.workload
            ),
        ));
    }
    let step = ui.step("Build", repo::shown(&files.crate_dir));
    let binary = harness::build::build(&files.crate_dir, &repo::target(), |name| step.note(name))
        .or_exit(Exit::Build)?;
    step.done();
    let error = Command::new(binary).args(&args.flags).current_dir(repo::root()).exec();
    Err(Failure::new(Exit::Internal, format!("cannot run the binary: {error}")))
}

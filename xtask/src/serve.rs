//! `cargo xtask serve`: run a workload's binary.

use std::{os::unix::process::CommandExt, process::Command};

use clap::Parser;

use crate::{
    exit::{Exit, Failure, Outcome},
    pipeline::{Asked, Decided},
    repo::Named,
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
    #[command(flatten)]
    named: Named,
    /// Flags for the binary, after `--`.
    #[arg(last = true)]
    flags: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let asked = Asked::read(args.named.files()?, ui)?;
    let artifact = Decided::pinned(&asked)?.build(&asked, ui)?;
    let mut server = Command::new(&artifact.binary);
    if !args.flags.iter().any(|flag| flag == "--weights" || flag.starts_with("--weights=")) {
        // Its own default is a path from the root of the repository, and the user may be anywhere.
        server.arg("--weights").arg(&artifact.weights);
    }
    let error = server.args(&args.flags).exec();
    Err(Failure::new(Exit::Internal, format!("cannot run the binary: {error}")))
}

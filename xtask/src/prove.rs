//! `cargo xtask prove`: a binary's answers against the oracle, on every execution surface.

use clap::Parser;
use serde_json::json;

use crate::{
    exit::{Exit, OrExit, Outcome},
    pipeline::{self, Asked, Decided},
    repo::Named,
    ui::Ui,
};

/// Prove a workload's binary: against an independent oracle, and on every execution surface against itself.
///
/// Builds the emitted crate as it is on disk, starts it, and asks it over HTTP. Writes proof.json and proof.md beside
/// the crate. A binary that is not proven is not benched.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask prove quickstart\n  cargo xtask prove quickstart --json | jq .measures\n\nExit codes: 5 not proven, 6 build failed."
)]
pub struct Args {
    #[command(flatten)]
    named: Named,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let asked = Asked::read(args.named.files()?, ui)?;
    let artifact = Decided::pinned(&asked)?.build(&asked, ui)?;
    let proof = pipeline::prove(&asked, &artifact, &pipeline::runtime()?, ui)?;
    ui.print(proof.markdown());
    ui.print_json(&serde_json::to_value(&proof).or_exit(Exit::Internal).unwrap_or_else(|_| json!({})));
    Ok(())
}

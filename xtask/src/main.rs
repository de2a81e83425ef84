//! `cargo xtask`: the command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod docs;
mod exit;
mod explain;
mod pipeline;
mod repo;
mod serve;
mod ui;

/// LLM serving binaries that are made to measure.
///
/// A workload spec says which model is served, on what hardware, to what traffic, with which latency goal. Savile
/// decides how to serve it, emits a specialised crate, builds it, proves it against an independent oracle, and
/// races it against the runtime you would otherwise use.
#[derive(Parser)]
#[command(name = "cargo xtask", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object on standard output instead of text.
    #[arg(long, global = true)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask explain quickstart             each decision, its reason and its cost
  cargo xtask docs --check                   are the documents what the code says?

Exit codes:
  0 ok   1 internal error   2 usage   3 regression, or a stale file   4 spec or model refused
  5 proof failed   6 build failed   7 something is missing on this machine";

#[derive(Subcommand)]
enum Command {
    /// Show each decision of a workload's plan: its reason, its rivals, its predicted cost.
    Explain(explain::Args),
    /// Run a workload's binary.
    Serve(serve::Args),
    /// Write the documents that are made from the code, or check that they are current.
    Docs(docs::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = ui::Ui::new(cli.json);
    let outcome = match cli.command {
        Command::Explain(args) => explain::run(&args, &ui),
        Command::Serve(args) => serve::run(&args, &ui),
        Command::Docs(args) => docs::run(&args, &ui),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ui.fail(&failure),
    }
}

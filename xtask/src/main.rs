//! `cargo xtask`: the command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod calibration;
mod counters;
mod docs;
mod doctor;
mod exit;
mod explain;
mod model;
mod mutants;
mod pipeline;
mod profile;
mod prove;
mod race;
mod reference;
mod repo;
mod report;
mod serve;
mod suite;
mod synth;
mod ui;

/// LLM serving binaries that are made to measure.
///
/// A workload spec says which model is served, on what hardware, to what traffic, with which latency goal. Savile
/// decides how to serve it, emits a specialised crate, builds it, proves it against an independent oracle, and
/// races it against the runtime you would otherwise use.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object on standard output instead of text.
    #[arg(long, global = true)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask synth quickstart               spec to proven, measured binary
  cargo xtask serve quickstart               run it
  cargo xtask explain quickstart             each decision, its reason and its cost
  cargo xtask synth mine.yaml --out mine/    a spec and a crate outside the repository

Exit codes:
  0 ok   1 internal error   2 usage   3 regression, or a stale file   4 spec or model refused
  5 proof failed   6 build failed   7 something is missing on this machine";

#[derive(Subcommand)]
enum Command {
    Synth(synth::Args),
    Explain(explain::Args),
    Prove(prove::Args),
    Bench(bench::Args),
    Report(report::Args),
    Serve(serve::Args),
    Model(model::Args),
    Reference(reference::Args),
    Doctor(doctor::Args),
    Mutants(mutants::Args),
    Counters(counters::Args),
    Profile(profile::Args),
    Docs(docs::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = ui::Ui::new(cli.json);
    let outcome = match cli.command {
        Command::Synth(args) => synth::run(&args, &ui),
        Command::Explain(args) => explain::run(&args, &ui),
        Command::Prove(args) => prove::run(&args, &ui),
        Command::Bench(args) => bench::run(&args, &ui),
        Command::Report(args) => report::run(&args, &ui),
        Command::Serve(args) => serve::run(&args, &ui),
        Command::Model(args) => model::run(&args, &ui),
        Command::Reference(args) => reference::run(&args, &ui),
        Command::Doctor(args) => doctor::run(&args, &ui),
        Command::Mutants(args) => mutants::run(&args, &ui),
        Command::Counters(args) => counters::run(&args, &ui),
        Command::Profile(args) => profile::run(&args, &ui),
        Command::Docs(args) => docs::run(&args, &ui),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ui.fail(&failure),
    }
}

//! `cargo xtask bench`: a proven binary against the reference runtimes.

use clap::Parser;
use harness::report;

use crate::{
    exit::{Exit, Failure, Outcome},
    pipeline::{self, Asked, Decided},
    race::{self, Rules},
    repo::{self, Named},
    ui::Ui,
};

/// Race a workload's proven binary against the reference runtimes that are installed.
///
/// Both sides run on this machine, in interleaved pairs of blocks; ratios come with bootstrap intervals. The result is
/// appended to the ledger whatever it is, and written as text, Markdown, JSON and one HTML page.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo xtask bench quickstart                                seconds: a look
  cargo xtask bench quickstart --length full                  minutes: prefill, full concurrency, the curve
  cargo xtask bench quickstart --reference llama.cpp --json   one reference, for a program

Exit codes: 5 the binary is not proven, 7 no reference runtime.")]
pub struct Args {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    rules: Rules,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let asked = Asked::read(args.named.files()?, ui)?;
    let machine = pipeline::probe(&asked, ui)?;
    let decided = Decided::pinned(&asked)?;
    let artifact = decided.build(&asked, ui)?;
    let proof = pipeline::standing_proof(&artifact).ok_or_else(|| {
        let name = &asked.workload.name;
        Failure::new(
            Exit::Proof,
            format!("{name} as built now is not proven; run `cargo xtask prove {name}`"),
        )
    })?;
    let runtime = pipeline::runtime()?;
    let raced =
        race::race(&asked, &decided.memory, (&artifact, &proof), &machine, &args.rules, &runtime, ui)?;
    ui.print(report::terminal(&raced.comparison));
    ui.print(format_args!("Report  {}", repo::shown(&asked.files.reports.join("report.html"))));
    ui.print_json(&report::json(&raced.comparison));
    Ok(())
}

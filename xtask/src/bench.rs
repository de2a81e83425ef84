//! `cargo xtask bench`: a proven binary against the reference runtimes, or a suite of them.

use std::path::PathBuf;

use clap::Parser;
use harness::report;

use crate::{
    exit::{Exit, Failure, Outcome},
    pipeline::{self, Asked, Decided},
    race::{self, Rules},
    repo::{self, Named},
    suite::{self, Part},
    ui::Ui,
};

/// Race a workload's proven binary against the reference runtimes that are installed, or run a suite.
///
/// Both sides run on this machine, in interleaved pairs of blocks; ratios come with bootstrap intervals. The result is
/// appended to the ledger whatever it is, and written as text, Markdown, JSON and one HTML page.
///
/// A suite makes and proves the binaries of `workloads/suite/` itself, and races each row against all engines in rounds.
/// Every cell is appended to `workloads/ledger/suite-NAME.jsonl` as soon as it is done, so a suite may be run in parts.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo xtask bench quickstart                                seconds: a look
  cargo xtask bench quickstart --length full                  minutes: prefill, full concurrency, the curve
  cargo xtask bench quickstart --reference llama.cpp --json   one reference, for a program
  cargo xtask bench --suite cpu --length full                 hours: the whole table
  cargo xtask bench --suite cpu --model llama-100m --precision bf16 --row decode_b1
  cargo xtask report --suite cpu                              the table, from what was recorded

Exit codes: 5 the binary is not proven, 7 no reference runtime.")]
pub struct Args {
    /// A workload of the repository, or the path of a spec.
    #[arg(required_unless_present = "suite")]
    workload: Option<String>,
    /// Where the crate of a spec outside the repository is written, or was.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    part: Part,
    #[command(flatten)]
    rules: Rules,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    match (&args.part.suite, &args.workload) {
        (Some(name), _) => suite::run(name, &args.part, &args.rules, ui),
        (None, Some(workload)) => {
            race_one(Named { workload: workload.clone(), out: args.out.clone() }, args, ui)
        }
        (None, None) => Err(Failure::new(Exit::Usage, "name a workload, or a suite with --suite")),
    }
}

fn race_one(named: Named, args: &Args, ui: &Ui) -> Outcome {
    let asked = Asked::read(named.files()?, ui)?;
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

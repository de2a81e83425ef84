//! `cargo xtask report`: what the ledger holds of a workload, and where the last comparison is.

use std::path::PathBuf;

use clap::Parser;
use harness::{ledger, stats::Verdict};
use serde_json::json;

use crate::{
    exit::{Exit, OrExit, Outcome},
    repo::{self, Named},
    suite,
    ui::Ui,
};

/// Show every race of a workload that was recorded, and where the last one's report is.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask report quickstart\n  cargo xtask report quickstart --json | jq '.entries[-1]'\n  cargo xtask report --suite cpu"
)]
pub struct Args {
    /// A workload of the repository, or the path of a spec.
    #[arg(required_unless_present = "suite")]
    workload: Option<String>,
    /// Where the crate of a spec outside the repository was written.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Show the table of this suite, the newest line of each cell: `cpu`.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["workload", "out"])]
    suite: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    if let Some(name) = &args.suite {
        return suite::report(name, ui);
    }
    let workload = args.workload.clone().unwrap_or_default();
    let files = Named { workload, out: args.out.clone() }.files()?;
    let entries = ledger::read(&files.ledger).or_exit(Exit::Internal)?;
    if entries.is_empty() {
        ui.print(format_args!("{} holds nothing yet", repo::shown(&files.ledger)));
    } else {
        ui.print(format_args!(
            "{:>4}  {:<20}  {:<12}  {:<24}  verdict",
            "id", "at", "reference", "own ÷ reference"
        ));
    }
    for entry in &entries {
        let (reference, ratio) = match entry.ratio() {
            Some((reference, [lo, mid, hi])) => (reference, format!("{mid:.3} [{lo:.3} … {hi:.3}]")),
            None => ("", String::new()),
        };
        ui.print(format_args!(
            "{:>4}  {:<20}  {reference:<12}  {ratio:<24}  {}",
            entry.id(),
            entry.at(),
            entry.verdict().map_or("void", Verdict::words)
        ));
    }
    let report = files.reports.join("report.html");
    if report.is_file() {
        ui.print(format_args!(
            "\nThe last comparison: {}, and .md, .txt, .json beside it",
            repo::shown(&report)
        ));
    }
    ui.print_json(&json!({"version": 1, "ledger": files.ledger, "entries": entries, "report": report.is_file().then_some(report)}));
    Ok(())
}

//! `cargo xtask report`: what the ledger holds of a workload, and where the last comparison is.

use clap::Parser;
use harness::{ledger, stats::Verdict};
use serde_json::json;

use crate::{
    exit::{Exit, OrExit, Outcome},
    repo::{self, Named},
    ui::Ui,
};

/// Show every race of a workload that was recorded, and where the last one's report is.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask report quickstart\n  cargo xtask report quickstart --json | jq '.entries[-1]'"
)]
pub struct Args {
    #[command(flatten)]
    named: Named,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let files = args.named.files()?;
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

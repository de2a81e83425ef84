//! `cargo xtask docs`: the documents that are made from the code.

use std::{fmt::Write as _, fs, path::PathBuf};

use clap::Parser;
use harness::ledger;
use serde_json::json;
use synth::{axis::Axis, workload::schema};
use templates::CATALOGUE;

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    repo::{self, Named},
    suite,
    ui::Ui,
};

/// Write the documents that are made from the code, or check that they are current.
///
/// `docs/workload.md` and `workloads/schema.json` come from the types of a spec, `docs/catalogue.md` from the
/// mechanisms, and the tables of results in `README.md` from the last full race of each workload and the last full cells of the
/// suite.
#[derive(Parser)]
#[command(after_help = "Examples:\n  cargo xtask docs\n  cargo xtask docs --check")]
pub struct Args {
    /// Write nothing; exit 3 if a document is stale.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let mut stale = Vec::new();
    for (path, text) in documents()? {
        let file = repo::root().join(path);
        if fs::read_to_string(&file).is_ok_and(|found| found == text) {
            continue;
        }
        stale.push(path);
        if !args.check {
            fs::write(&file, text).or_exit(Exit::Internal)?;
            ui.say("Write", path);
        }
    }
    ui.print_json(&json!({"version": 1, "stale": stale, "written": !args.check}));
    if args.check && !stale.is_empty() {
        return Err(Failure::new(
            Exit::Regression,
            format!("stale: {}; run `cargo xtask docs`", stale.join(", ")),
        ));
    }
    ui.print(if args.check { "documents are current" } else { "documents are written" });
    Ok(())
}

/// Each document with its text.
fn documents() -> Outcome<[(&'static str, String); 4]> {
    Ok([
        ("docs/workload.md", schema::markdown()),
        ("workloads/schema.json", schema::json()),
        ("docs/catalogue.md", catalogue()),
        ("README.md", readme()?),
    ])
}

/// What stands around the table of results in the README.
const RESULTS: [&str; 2] = ["<!-- made from the ledgers by `cargo xtask docs` -->\n", "<!-- end -->\n"];

/// What stands around the table of the suite in the README.
const SUITE: [&str; 2] =
    ["<!-- made from the suite's ledger by `cargo xtask docs` -->\n", "<!-- end of the suite -->\n"];

/// The README as it is, with its tables made anew.
fn readme() -> Outcome<String> {
    let text = fs::read_to_string(repo::root().join("README.md")).or_exit(Exit::Internal)?;
    let ledgers: Vec<_> = repo::workloads()
        .iter()
        .map(|name| ledger::read(&Named::ours(name).files()?.ledger).or_exit(Exit::Internal))
        .collect::<Outcome<_>>()?;
    let text = between(&text, SUITE, &suite::markdown()?)?;
    between(&text, RESULTS, &ledger::results(&ledgers))
}

/// The text with other words between two marks.
fn between(text: &str, [before, after]: [&str; 2], words: &str) -> Outcome<String> {
    let parts = text.split_once(before).and_then(|(head, rest)| Some((head, rest.split_once(after)?.1)));
    let (head, tail) = parts
        .ok_or_else(|| Failure::new(Exit::Internal, format!("README.md: `{}` is gone", before.trim())))?;
    Ok(format!("{head}{before}{words}{after}{tail}"))
}

/// The catalogue, one row per mechanism, axis by axis.
fn catalogue() -> String {
    let mut text = String::from(
        "# The catalogue\n\nMade from `templates/` by `cargo xtask docs`. An axis is a question; a plan answers each with one mechanism.\n\n\
         | axis | mechanism | what it is | guarantee | knobs |\n|---|---|---|---|---|\n",
    );
    for axis in Axis::ALL {
        for mechanism in CATALOGUE.mechanisms.iter().filter(|mechanism| mechanism.axis() == axis) {
            let knobs: Vec<_> = mechanism
                .knobs()
                .iter()
                .map(|knob| {
                    let values: Vec<_> = knob.values.iter().map(ToString::to_string).collect();
                    format!("`{}`: {} ({})", knob.name, knob.doc, values.join(", "))
                })
                .collect();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {axis} | [`{name}`](../{folder}/README.md) | {} | {} | {} |",
                mechanism.summary(),
                mechanism.guarantee(),
                knobs.join("; "),
                name = mechanism.name(),
                folder = folder(mechanism.name()).display(),
            );
        }
    }
    text
}

/// Where a mechanism lives, from the root of the repository.
fn folder(name: &str) -> PathBuf {
    let family = PathBuf::from("templates/families").join(name);
    if repo::root().join(&family).exists() { family } else { PathBuf::from("templates").join(name) }
}

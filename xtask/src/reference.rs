//! `cargo xtask reference`: fetch and build a runtime to race against.

use clap::Parser;
use harness::reference::{build_candle, install_llama_cpp};
use serde_json::json;

use crate::{
    exit::{Exit, Failure, Outcome},
    race, repo,
    ui::Ui,
};

/// Fetch and build a reference runtime, under target/references/NAME and nowhere else.
///
/// candle needs nothing but cargo, and is built on demand. llama.cpp is built from a source package on PyPI, with every
/// download pinned by hash; it needs Python with venv and a C++ compiler, and about ten minutes of CPU.
#[derive(Parser)]
#[command(after_help = "Examples:\n  cargo xtask reference llama.cpp\n  cargo xtask reference candle")]
pub struct Args {
    /// `candle` or `llama.cpp`.
    name: String,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let reference = race::by_name(&args.name)?;
    let step = ui.step("Install", reference.name());
    let note = |what: &str| step.note(what);
    let installed = match reference.name() {
        "candle" => build_candle(&repo::target(), &note),
        _ => install_llama_cpp(&repo::target(), &note),
    };
    let program = installed.map_err(|error| {
        let exit = if error.is_environment() { Exit::Environment } else { Exit::Build };
        Failure::new(exit, error)
    })?;
    step.done();
    ui.print(format_args!("{} {}: {}", reference.name(), reference.version(), repo::shown(&program)));
    ui.print_json(&json!({
        "version": 1, "name": reference.name(), "reference_version": reference.version(), "program": program,
    }));
    Ok(())
}

//! `cargo xtask reference`: fetch and build a runtime to race against, and look at what it does with a model.

use std::path::{Path, PathBuf};

use clap::Parser;
use harness::reference::{
    Format, Job, Reference, ReferenceError, Settings, agreement, survey::survey, sweep,
};
use serde_json::json;
use synth::{model::Model, workload::Bytes};

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    pipeline, race, repo,
    ui::Ui,
};

/// Fetch and build a reference runtime, under target/references/NAME and nowhere else.
///
/// candle needs nothing but cargo, and is built on demand. llama.cpp is built from a source package on PyPI; it needs
/// Python with venv and a C++ compiler, and about ten minutes of CPU. openvino, vllm and onnxruntime are wheels from PyPI;
/// they need Python 3.11 or 3.12 with venv and a C compiler, and 2 to 3 GB of disk. Every download is pinned by hash.
///
/// With a model, says also how fast the runtime is with it on this machine, how much memory it takes and how long it
/// takes to start: a first look, and no race.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo xtask reference llama.cpp
  cargo xtask reference openvino --model target/models/qwen3-0.6b --format int8
  cargo xtask reference openvino --model target/models/qwen3-0.6b --format int8 --tune

Exit codes: 7 something that installing takes is missing.")]
pub struct Args {
    /// `candle`, `llama.cpp`, `openvino`, `vllm` or `onnxruntime`.
    name: String,
    /// Hugging Face model folder to look at it with.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Format of the weights: `f32`, `bf16`, `int8` or `int4`.
    #[arg(long, default_value = "bf16", requires = "model")]
    format: String,
    /// Most positions of one sequence.
    #[arg(long, default_value_t = 1280, requires = "model")]
    context: usize,
    /// Most sequences in flight.
    #[arg(long, default_value_t = 8, requires = "model")]
    concurrency: usize,
    /// Tune it first, as a race does; else its usual settings.
    #[arg(long, requires = "model")]
    tune: bool,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let reference = race::by_name(&args.name)?;
    let step = ui.step("Install", reference.name());
    let program = reference.install(&repo::target(), &|what| step.note(what)).map_err(failure)?;
    step.done();
    ui.print(format_args!("{} {}: {}", reference.name(), reference.version(), repo::shown(&program)));
    let seen = match &args.model {
        Some(model) => look(args, reference, model, ui)?,
        None => json!(null),
    };
    ui.print_json(&json!({
        "version": 2, "name": reference.name(), "reference_version": reference.version(), "program": program,
        "survey": seen,
    }));
    Ok(())
}

/// Prepares the model, starts the reference with it and says what it does.
fn look(args: &Args, reference: &dyn Reference, folder: &Path, ui: &Ui) -> Outcome<serde_json::Value> {
    let format = Format::by_name(&args.format).ok_or_else(|| {
        let known = Format::ALL.map(Format::name).join(", ");
        Failure::new(Exit::Usage, format!("there is no format {}; there are {known}", args.format))
    })?;
    let model = Model::read(folder).or_exit(Exit::Usage)?;
    let job = Job {
        model_dir: folder.to_owned(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        context: args.context,
        concurrency: args.concurrency,
        format,
        target_dir: repo::target(),
        tuning_dir: None,
    };
    let runtime = pipeline::runtime()?;
    let step = ui.step("Look", format!("{} at {} in {format}", reference.name(), repo::shown(folder)));
    let note = |what: &str| step.note(what);
    let prepared = race::prepare(reference, &job, &note).map_err(failure)?;
    let settings = if args.tune {
        runtime.block_on(sweep::tune(reference, &prepared, &job, &note)).map_err(failure)?.chosen
    } else {
        Settings::first(&reference.knobs(&job))
    };
    note("starting it and asking");
    let seen = runtime
        .block_on(survey(reference, &prepared, &job, &settings, model.dims.vocab))
        .or_exit(Exit::Internal)?;
    note("asking it what the oracle was asked");
    let expected = race::expected(&model).or_exit(Exit::Internal)?;
    let agreement = runtime
        .block_on(agreement::check(reference, &prepared, &job, &settings, &expected))
        .or_exit(Exit::Internal)?;
    step.done();
    ui.print(format_args!(
        "{format}: prefill {:.0}, decode {:.1} alone, {:.1} with {} in flight, tokens/s; ready after {:.1} s, first \
         token after {:.1} s, {} at the peak; {} of {} answers as the oracle's ({settings})",
        seen.prefill,
        seen.decode_one,
        seen.decode_all,
        args.concurrency,
        seen.ready_s,
        seen.first_token_s,
        Bytes(seen.peak_rss_bytes),
        agreement.n_agreeing,
        agreement.n_asked,
    ));
    Ok(json!({
        "format": format, "settings": settings, "seen": seen,
        "agreement": { "asked": agreement.n_asked, "agreeing": agreement.n_agreeing },
    }))
}

fn failure(error: ReferenceError) -> Failure {
    let exit = if error.is_environment() { Exit::Environment } else { Exit::Build };
    Failure::new(exit, error)
}

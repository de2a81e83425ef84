//! `cargo xtask model`: a model folder of real shape with seeded random weights.

use clap::{Parser, ValueEnum};
use harness::model_maker::{self, MakeError, SHAPES};
use serde_json::json;
use synth::{model::Model, workload::Precision};

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    repo,
    ui::Ui,
};

/// Write a model folder of a published shape with seeded random weights, for benches at real size.
///
/// The weights are a function of shape and seed alone, the same on every machine. Answers are noise.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask model                    which shapes there are\n  cargo xtask model llama-100m         into target/models/llama-100m\n  cargo xtask model qwen3-0.6b --seed 7 --dir elsewhere"
)]
pub struct Args {
    /// A shape; without one, those that there are.
    name: Option<String>,
    /// Another seed gives other weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number format of the matrices.
    #[arg(long, value_enum, default_value_t = Format::Bf16)]
    weights: Format,
    /// Where to put the folder; target/models/NAME unless given.
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
}

/// Number format of the matrices on disk.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// bfloat16.
    Bf16,
    /// IEEE single precision.
    F32,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let Some(name) = &args.name else {
        for shape in &SHAPES {
            ui.print(format_args!(
                "{:<14} {:>3} layers, width {}, vocabulary {}",
                shape.name, shape.layers, shape.hidden, shape.vocab
            ));
        }
        ui.print_json(&json!({"version": 1, "shapes": SHAPES.map(|shape| shape.name)}));
        return Ok(());
    };
    let shape = model_maker::shape(name).or_exit(Exit::Usage)?;
    let folder = args.dir.clone().unwrap_or_else(|| repo::target().join("models").join(name));
    let precision = match args.weights {
        Format::Bf16 => Precision::Bf16,
        Format::F32 => Precision::F32,
    };
    let base = repo::root().join("tests/fixtures/models/quickstart");
    let step = ui.bar("Write", repo::shown(&folder));
    model_maker::make(shape, args.seed, precision, &base, &folder, &mut |written, total| {
        step.reached(written, total)
    })
    .map_err(|error| {
        let exit = if matches!(error, MakeError::File { .. }) { Exit::Environment } else { Exit::Internal };
        Failure::new(exit, error)
    })?;
    let took = step.done();
    // What was made is read as anybody's folder would be.
    let model = Model::read(&folder).or_exit(Exit::Internal)?;
    let n_weights = model.n_matrix_weights() + model.n_vector_weights();
    ui.print(format_args!(
        "{}: {:.1} M weights in {} in {:.1} s",
        repo::shown(&folder),
        n_weights as f64 / 1e6,
        precision.name(),
        took.as_secs_f64()
    ));
    ui.print_json(&json!({
        "version": 1, "name": name, "folder": folder, "weights": n_weights, "precision": precision.name(),
        "seed": args.seed,
    }));
    Ok(())
}

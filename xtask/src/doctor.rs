//! `cargo xtask doctor`: what this machine has, what it reaches, and what is missing.

use std::process::Command;

use clap::Parser;
use harness::{probe, reference};
use serde_json::json;
use synth::workload::Bytes;

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    repo,
    ui::Ui,
};

/// Say what this machine has, what it reaches, and what is missing.
///
/// The probe measures read bandwidth and f32 multiply-adds, on which every predicted cost and every distance to the
/// roofline stands. Takes about a second.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask doctor\n  cargo xtask doctor --threads 1 --json\n\nExit code 7 if something is missing that synthesis needs."
)]
pub struct Args {
    /// Threads that measure together; all cores unless given.
    #[arg(long)]
    threads: Option<usize>,
}

/// A program that may be there.
struct Tool {
    name: &'static str,
    args: &'static [&'static str],
    needed_for: &'static str,
    /// Synthesis does not work without it.
    is_required: bool,
}

const TOOLS: [Tool; 5] = [
    Tool { name: "cargo", args: &["--version"], needed_for: "building emitted crates", is_required: true },
    Tool {
        name: "rustfmt",
        args: &["--version"],
        needed_for: "formatting emitted crates",
        is_required: true,
    },
    Tool {
        name: "cc",
        args: &["--version"],
        needed_for: "linking, and the tokenizer's C code",
        is_required: true,
    },
    Tool {
        name: "c++",
        args: &["--version"],
        needed_for: "building llama.cpp, and what vLLM compiles",
        is_required: false,
    },
    Tool {
        name: "python3",
        args: &[
            "-c",
            "import venv, ensurepip, sys; print('Python', sys.version.split()[0], 'with venv and pip')",
        ],
        needed_for: "fetching every reference but candle",
        is_required: false,
    },
];

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let step = ui.step("Probe", format!("this machine with {threads} threads"));
    let machine = probe::probe(threads).or_exit(Exit::Environment)?;
    step.done();
    let isas: Vec<_> = machine.isas.iter().map(|isa| isa.name()).collect();
    ui.print(format_args!(
        "processor   {}, {} cores, kernels for {}",
        machine.cpu,
        machine.n_cores,
        isas.join(", ")
    ));
    ui.print(format_args!(
        "memory      {}, last cache {}",
        Bytes(machine.memory_bytes),
        Bytes(machine.cache_bytes as u64)
    ));
    ui.print(format_args!(
        "reaches     {:.1} GB/s read, {:.0} GFLOP/s f32, {threads} threads together",
        machine.read_gb_s, machine.fma_gflops
    ));
    ui.print(format_args!(
        "noise       load {:.2}, a constant loop varies by {:.1} %{}",
        machine.noise.load_average,
        100.0 * machine.noise.spin_variation,
        machine.noise.disturbance().map_or(String::new(), |it| format!(", {it}"))
    ));
    let mut missing = Vec::new();
    let mut tools = serde_json::Map::new();
    for tool in &TOOLS {
        let version = version(tool);
        let state = version.clone().unwrap_or_else(|| format!("missing; needed for {}", tool.needed_for));
        ui.print(format_args!("{:<11} {state}", tool.name));
        if version.is_none() && tool.is_required {
            missing.push(tool.name);
        }
        tools.insert(tool.name.to_owned(), json!(version));
    }
    let mut references = serde_json::Map::new();
    for reference in reference::ALL {
        let is_installed = reference.is_installed(&repo::target());
        let state = match is_installed {
            true => format!("{} is installed", reference.version()),
            false => {
                format!("{} is missing; `cargo xtask reference {}`", reference.version(), reference.name())
            }
        };
        ui.print(format_args!("{:<11} {state}", reference.name()));
        references.insert(reference.name().to_owned(), json!(is_installed));
    }
    ui.print_json(&json!({
        "version": 1, "machine": machine, "tools": tools, "references": references, "missing": missing,
    }));
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Environment, format!("missing: {}", missing.join(", "))))
}

/// What a tool says it is, if it works.
fn version(tool: &Tool) -> Option<String> {
    let output =
        Command::new(tool.name).args(tool.args).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

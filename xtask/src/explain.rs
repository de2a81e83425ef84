//! `cargo xtask explain`: each decision, its reason, its rivals and what it is predicted to cost.

use clap::Parser;
use harness::ledger;
use serde_json::json;
use synth::{
    mechanism::{Cost, Fit},
    planner::{self, Answer},
    target::Isa,
};
use templates::CATALOGUE;

use crate::{
    exit::{Exit, OrExit, Outcome},
    pipeline::{self, Asked, Decided},
    repo::Named,
    ui::Ui,
};

/// Show each decision of a workload's plan: its reason, its rivals, its predicted cost.
#[derive(Parser)]
#[command(after_help = "Example:\n  cargo xtask explain quickstart")]
pub struct Args {
    #[command(flatten)]
    named: Named,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let asked = Asked::read(args.named.files()?, ui)?;
    let machine = pipeline::probe(&asked, ui)?;
    let decided = Decided::here(&asked, &machine, ui)?;
    let answers = planner::ask(&decided.job(&asked), CATALOGUE.mechanisms);
    let bytes_per_second = machine.read_gb_s * 1e9;
    let instructions_per_second = machine.fma_gflops * 1e9 / 2.0 / lanes(&machine.isas);
    let milliseconds = |cost: Cost| cost.seconds(bytes_per_second, instructions_per_second) * 1e3;

    let mut axes = Vec::new();
    for (axis, decision) in &decided.plan.decisions {
        ui.print(format_args!("{axis:<9} {}", decision.mechanism));
        ui.print(format_args!("          {} (by {})", decision.reason, decision.by));
        let mut rivals = Vec::new();
        for Answer { mechanism, fit } in answers.iter().filter(|answer| answer.mechanism.axis() == *axis) {
            let is_chosen = mechanism.name() == decision.mechanism;
            match fit {
                // What costs nothing by itself is predicted nowhere.
                Fit::Yes { cost, .. } if is_chosen && *cost == Cost::default() => {}
                Fit::Yes { cost, .. } if is_chosen => ui.print(format_args!(
                    "          predicted {:.3} ms a token: {:.2} MB read, {:.2} M instructions",
                    milliseconds(*cost),
                    cost.bytes / 1e6,
                    cost.instructions / 1e6
                )),
                Fit::Yes { cost, .. } => {
                    ui.print(format_args!(
                        "          not {}: {:.3} ms a token",
                        mechanism.name(),
                        milliseconds(*cost)
                    ));
                }
                Fit::No { why } => ui.print(format_args!("          not {}: {why}", mechanism.name())),
            }
            rivals.push(match fit {
                Fit::Yes { cost, .. } => json!({
                    "mechanism": mechanism.name(), "guarantee": mechanism.guarantee().to_string(), "fits": true,
                    "ms_per_token": milliseconds(*cost), "bytes": cost.bytes, "instructions": cost.instructions,
                }),
                Fit::No { why } => json!({"mechanism": mechanism.name(), "fits": false, "why": why}),
            });
        }
        axes.push(json!({
            "axis": axis.name(), "mechanism": decision.mechanism, "knobs": decision.knobs, "reason": decision.reason,
            "by": decision.by.to_string(), "answers": rivals,
        }));
    }
    let whole = planner::cost(&decided.job(&asked), &decided.plan, CATALOGUE.mechanisms);
    ui.print(format_args!(
        "\npredicted {:.3} ms a token alone, at {:.1} GB/s and {:.0} GFLOP/s measured here",
        milliseconds(whole),
        machine.read_gb_s,
        machine.fma_gflops
    ));
    let entries = ledger::read(&asked.files.ledger).or_exit(Exit::Internal)?;
    let measured = entries.last().and_then(|entry| Some((entry.id(), entry.decode_ms()?)));
    if let Some((id, ms)) = measured {
        ui.print(format_args!("measured  {ms:.3} ms a token alone, by entry {id} of the ledger"));
    }
    ui.print(format_args!("reserved  {}", pipeline::reserved(&asked, &decided.memory)));
    ui.print_json(&json!({
        "version": 1, "name": asked.workload.name, "plan_digest": decided.plan.digest(),
        "isa": decided.plan.isa.name(), "axes": axes, "predicted_ms_per_token": milliseconds(whole),
        "measured_ms_per_token": measured.map(|(_, ms)| ms),
        "machine": {"read_gb_s": machine.read_gb_s, "fma_gflops": machine.fma_gflops},
    }));
    Ok(())
}

/// f32 lanes of the widest instructions that the probe's multiply-adds used.
fn lanes(isas: &[Isa]) -> f64 {
    match isas.iter().max() {
        Some(Isa::Avx512 | Isa::Amx) => 16.0,
        Some(Isa::Avx2) => 8.0,
        _ => 1.0,
    }
}

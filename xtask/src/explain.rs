//! `cargo xtask explain`: each decision, its reason, its rivals and what it is predicted to cost.

use clap::Parser;
use harness::{
    counters::{Count, Counters},
    ledger::{self, SuiteEntry},
    suite::{Quantity, Row, operations},
};
use serde::Serialize;
use serde_json::{Value, json};
use synth::{
    axis::Axis,
    calibration::{Calibration, Candidate, Measured},
    feasibility::MemoryPlan,
    held::{Format, Held},
    mechanism::{Cost, Fit, Guarantee},
    planner::{self, Answer},
};
use templates::CATALOGUE;

use crate::{
    counters,
    exit::{Exit, Failure, OrExit, Outcome},
    pipeline::{self, Asked, Decided},
    repo::Named,
    suite,
    ui::Ui,
};

/// Show each decision of a workload's plan: its reason, its rivals, its predicted cost beside what was counted and measured.
///
/// What is counted is what `cargo xtask counters NAME --one-by-one` counted last; what is measured is in the ledgers. Where the spec tolerates rounding: also how far each way to round the model is from it, as measured by the oracle.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo xtask explain quickstart
  cargo xtask explain quickstart --check    exit 3 where a prediction is off by more than 15 %

Exit codes: 3 a prediction is off, or what it predicts was not counted.")]
pub struct Args {
    #[command(flatten)]
    named: Named,
    /// Exit 3 unless all that is predicted was counted, and is within 15 % of it.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let asked = Asked::read(args.named.files()?, ui)?;
    let machine = pipeline::probe(&asked, ui)?;
    let decided = Decided::here(&asked, &machine, ui)?;
    let answers = planner::ask(&decided.job(&asked), CATALOGUE.mechanisms);
    let threads = asked.workload.target.threads;
    let milliseconds = |cost: Cost| cost.seconds(machine.read_gb_s * 1e9, threads) * 1e3;

    let counted = counters::kept(&asked.workload.name, &decided.plan.digest());
    let positions = asked.workload.median_context();
    let timed = Timed::read(&asked, &decided)?;
    let mut off = Vec::new();
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
                    "          predicted {:.3} ms a token: {:.2} MB read, {:.3} M instructions that multiply",
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
        let chosen = answers.iter().find_map(|answer| match &answer.fit {
            Fit::Yes { cost, .. } if answer.mechanism.name() == decision.mechanism => Some(*cost),
            _ => None,
        });
        let compared =
            chosen.map_or(vec![], |cost| compare(*axis, cost, positions, &decided.memory, &counted));
        compared.iter().for_each(|it| ui.print(format_args!("          {}", it.words())));
        off.extend(compared.iter().filter(|it| !it.is_within()).map(Compared::words));
        if *axis == Axis::Schedule
            && let Some(words) = timed.prompt_words(threads)
        {
            ui.print(format_args!("          {words}"));
        }
        axes.push(json!({
            "compared": compared,
            "axis": axis.name(), "mechanism": decision.mechanism, "knobs": decision.knobs, "reason": decision.reason,
            "by": decision.by.to_string(), "answers": rivals,
        }));
    }
    let whole = planner::cost(&decided.job(&asked), &decided.plan, CATALOGUE.mechanisms);
    ui.print(format_args!(
        "\npredicted {:.3} ms a token alone, at {:.1} GB/s measured here",
        milliseconds(whole),
        machine.read_gb_s,
    ));
    if let Some(words) = timed.token_words(whole, threads) {
        ui.print(words);
    }
    let entries = ledger::read(&asked.files.ledger).or_exit(Exit::Internal)?;
    let measured = entries.last().and_then(|entry| Some((entry.id(), entry.decode_ms()?)));
    if let Some((id, ms)) = measured {
        ui.print(format_args!("measured  {ms:.3} ms a token alone, by entry {id} of the ledger"));
    }
    ui.print(format_args!("reserved  {}", pipeline::reserved(&asked, &decided.memory)));
    let candidates = decided.calibration.as_ref().map(|it| candidates(&asked, &chosen(&decided), it, ui));
    ui.print_json(&json!({
        "version": 1, "name": asked.workload.name, "plan_digest": decided.plan.digest(),
        "isa": decided.plan.isa.name(), "axes": axes, "predicted_ms_per_token": milliseconds(whole),
        "measured_ms_per_token": measured.map(|(_, ms)| ms),
        "candidates": candidates, "off": off,
        "machine": {"read_gb_s": machine.read_gb_s},
    }));
    if args.check && !off.is_empty() {
        return Err(Failure::new(Exit::Regression, format!("not as predicted:\n{}", off.join("\n"))));
    }
    Ok(())
}

/// What the ledger of the suite has measured of this very plan, and what is predicted of it.
struct Timed {
    cells: Vec<SuiteEntry>,
    /// Operations to read a prompt of 512, and how many a thread does in a second.
    prompt: Option<(f64, f64)>,
}

impl Timed {
    fn read(asked: &Asked, decided: &Decided) -> Outcome<Self> {
        let mut cells = ledger::read_suite(&suite::ledger_of("cpu")).or_exit(Exit::Internal)?;
        cells.retain(|cell| cell.plan_digest() == Some(decided.plan.digest().as_str()));
        let rate = planner::rate(&decided.plan, CATALOGUE.mechanisms);
        let prompt = rate.map(|rate| (operations(&asked.model, 512), rate));
        Ok(Self { cells, prompt })
    }

    /// The newest cell of a row.
    fn newest(&self, row: Row) -> Option<&SuiteEntry> {
        self.cells.iter().rev().find(|cell| cell.cell().2 == Some(row))
    }

    fn prompt_words(&self, threads: usize) -> Option<String> {
        let (operations, rate) = self.prompt?;
        let predicted = operations / (rate * threads as f64) * 1e3;
        let cell = self.newest(Row::Prefill512);
        let measured = cell.and_then(|cell| Some((cell.measured(Quantity::TtftP50)?, cell.id())));
        Some(match measured {
            Some((ms, id)) => {
                format!(
                    "measured {ms:.1} ms to read 512 tokens by cell {id} of the suite, {predicted:.1} predicted"
                )
            }
            None => format!("predicted {predicted:.1} ms to read 512 tokens"),
        })
    }

    /// A token alone, at the bandwidth that was measured between its rounds.
    fn token_words(&self, cost: Cost, threads: usize) -> Option<String> {
        let cell = self.newest(Row::DecodeB1)?;
        let (ms, peak) = (cell.measured(Quantity::TpotP50)?, cell.limit()?.peak);
        let predicted = cost.seconds(peak * 1e9, threads) * 1e3;
        Some(format!(
            "measured  {ms:.3} ms a token alone, by cell {} of the suite; {predicted:.3} predicted at its {peak:.1} GB/s",
            cell.id()
        ))
    }
}

/// What the plan rounds: how it holds weights and keeps keys and values, and whether its kernels round activations of bf16.
fn chosen(decided: &Decided) -> Candidate {
    let MemoryPlan { held, kv, .. } = decided.memory;
    let kernels = planner::on_axis(&decided.plan, Axis::Kernels, CATALOGUE.mechanisms);
    let rounds = kernels.is_some_and(|it| it.guarantee() == Guarantee::Bounded);
    Candidate { held, bf16_activations: held.layers == Format::Bf16 && rounds, kv }
}

/// How far what was counted may be from what was predicted before it is called off.
const WITHIN: f64 = 0.15;

/// A prediction of the cost model beside what was counted of the binary.
#[derive(Debug, PartialEq, Serialize)]
struct Compared {
    what: &'static str,
    predicted: f64,
    counted: Result<f64, String>,
}

impl Compared {
    /// Predicted and counted agree.
    fn is_within(&self) -> bool {
        self.counted.as_ref().is_ok_and(|counted| (self.predicted / counted - 1.0).abs() <= WITHIN)
    }

    fn words(&self) -> String {
        let Self { what, predicted, counted } = self;
        match counted {
            Ok(counted) if self.is_within() => {
                format!("counted {counted:.4e} {what}, {predicted:.4e} predicted")
            }
            Ok(counted) => {
                let off = 100.0 * (predicted / counted - 1.0);
                format!("OFF BY {off:+.0} %: {predicted:.4e} {what} predicted, {counted:.4e} counted")
            }
            Err(why) => format!("{predicted:.4e} {what} predicted, not counted: {why}"),
        }
    }
}

/// What is predicted of a decision, against what was counted: bytes of weights, bytes of keys and values of the positions that
/// the median token sees, instructions that multiply, and what is reserved for as many sequences and rows as a step may have. A
/// decision that predicts nothing is not compared.
fn compare(
    axis: Axis,
    cost: Cost,
    positions: usize,
    memory: &MemoryPlan,
    counted: &Result<Counters, String>,
) -> Vec<Compared> {
    let of = |read: &dyn Fn(&Counters) -> Count| counted.as_ref().map_err(Clone::clone).and_then(read);
    match axis {
        Axis::Weights => vec![Compared {
            what: "bytes of weights a token",
            predicted: cost.bytes,
            counted: of(&|it| it.weight_bytes_per_token.clone()),
        }],
        Axis::Kv => vec![Compared {
            what: "bytes of keys and values a token",
            predicted: cost.bytes,
            counted: of(&|it| it.kv_bytes_per_position.clone().map(|bytes| bytes * positions as f64)),
        }],
        Axis::Schedule => vec![Compared {
            what: "bytes reserved beside weights",
            predicted: (memory.kv_bytes + memory.scratch) as f64,
            counted: of(&|it| it.reserved_bytes.clone()),
        }],
        // Plain Rust has none.
        Axis::Kernels if cost.instructions > 0.0 => vec![Compared {
            what: "multiplying instructions a token",
            predicted: cost.instructions,
            counted: of(&|it| it.multiplications_per_token.clone()),
        }],
        _ => vec![],
    }
}

/// Shows what each way to round the model was measured to cost, and which one the plan holds. The rows, for programs.
fn candidates(asked: &Asked, chosen: &Candidate, calibration: &Calibration, ui: &Ui) -> Vec<Value> {
    let text = if calibration.from_samples { "the spec's samples" } else { "made-up tokens" };
    ui.print(format_args!(
        "\ncandidates, by the oracle at {} positions of {text}; perplexity at {} others",
        calibration.positions, calibration.held_out_positions
    ));
    ui.print("  layers   head     products kv   MB/token  KL mean  KL p99.9 same top  p99 |Δ|  perplexity");
    let stored = Held::as_stored(&asked.model);
    let megabytes = |held: Held| held.bytes_per_pass(&asked.model) as f64 / 1e6;
    let mark = |is_chosen| if is_chosen { "→" } else { " " };
    ui.print(format_args!(
        "{} {:<8} {:<8} {:<8} {:<4} {:>8.1}  as stored",
        mark(*chosen == Candidate::of(stored)),
        stored.layers,
        stored.head,
        "f32",
        "f32",
        megabytes(stored)
    ));
    let row = |Measured { candidate, divergence, perplexity_ratio }: &Measured| {
        let Candidate { held, bf16_activations, kv } = *candidate;
        let products = match held.layers {
            Format::Int8(_) | Format::Int4(_) => "int8",
            Format::F32 | Format::Bf16 if bf16_activations => "bf16",
            Format::F32 | Format::Bf16 => "f32",
        };
        let kv = kv.name();
        let broken = divergence.broken(asked.workload.tolerance);
        let is_chosen = candidate == chosen;
        let bounds: Vec<_> = broken.iter().map(|it| it.bound).collect();
        ui.print(format_args!(
            "{} {:<8} {:<8} {products:<8} {kv:<4} {:>8.1}  {:.1e}  {:.1e}  {:>6.2} %  {:.1e}  × {perplexity_ratio:<7.4} {}",
            mark(is_chosen),
            held.layers,
            held.head,
            megabytes(held),
            divergence.kl_mean,
            divergence.kl_p999,
            100.0 * divergence.same_top,
            divergence.logprob_p99,
            if bounds.is_empty() { "keeps the tolerance".to_owned() } else { format!("breaks {}", bounds.join(", ")) }
        ));
        json!({
            "layers": held.layers.to_string(), "head": held.head.to_string(), "products": products, "kv": kv,
            "bytes_per_token": held.bytes_per_pass(&asked.model), "kl_mean": divergence.kl_mean,
            "kl_p999": divergence.kl_p999, "same_top": divergence.same_top, "logprob_p99": divergence.logprob_p99,
            "perplexity_ratio": perplexity_ratio, "keeps": broken.is_empty(),
            "broken": broken.iter().map(|it| &it.why).collect::<Vec<_>>(), "chosen": is_chosen,
        })
    };
    let rows = calibration.measured.iter().map(row).collect();
    if *chosen != Candidate::of(stored) && calibration.of(chosen).is_none() {
        let Held { layers, head } = chosen.held;
        ui.print(format_args!(
            "→ {layers:<8} {head:<8} {:>22.1}  decided by hand, not measured",
            megabytes(chosen.held)
        ));
    }
    rows
}

#[cfg(test)]
mod tests {
    use synth::workload::Precision;

    use super::*;

    fn counted() -> Counters {
        Counters {
            allocations_per_token: Ok(0.0),
            system_calls_per_token: Ok(0.0),
            switches_per_token: Ok(0.0),
            instructions_per_token: Ok(1e6),
            multiplications_per_token: Ok(3e5),
            instructions_per_prompt_token: Ok(1e6),
            weight_bytes_per_token: Ok(1e7),
            kv_bytes_per_position: Ok(4096.0),
            reserved_bytes: Ok(5e7),
        }
    }

    fn memory(kv_bytes: u64, scratch: u64) -> MemoryPlan {
        MemoryPlan {
            held: Held::all(Format::Bf16),
            weights: 10_000_000,
            block: 16,
            kv_blocks: 640,
            kv: Precision::F32,
            kv_bytes,
            scratch,
            total: 10_000_000 + kv_bytes + scratch,
        }
    }

    #[test]
    fn a_planted_wrong_cost_is_shown_as_off() {
        let right = [
            (Axis::Weights, Cost { bytes: 1.1e7, ..Cost::default() }),
            (Axis::Kv, Cost { bytes: 4000.0 * 152.0, ..Cost::default() }),
            (Axis::Kernels, Cost { instructions: 2.8e5, ..Cost::default() }),
            (Axis::Schedule, Cost::default()),
        ];
        let compared = |axis, cost, memory: MemoryPlan| -> Compared {
            let [one] = compare(axis, cost, 152, &memory, &Ok(counted())).try_into().expect("one comparison");
            one
        };
        for (axis, cost) in right {
            let fits = compared(axis, cost, memory(42_000_000, 7_000_000));
            assert!(fits.is_within() && fits.words().starts_with("counted"), "{fits:?}");
            for (factor, scratch) in [(0.7, 300_000), (1.3, 17_000_000)] {
                let wrong = Cost {
                    bytes: factor * cost.bytes,
                    instructions: factor * cost.instructions,
                    ..Cost::default()
                };
                let off = compared(axis, wrong, memory(42_000_000, scratch));
                assert!(!off.is_within() && off.words().starts_with("OFF BY"), "{off:?}");
            }
        }
    }

    #[test]
    fn what_was_not_counted_is_not_called_right() {
        let cost = Cost { bytes: 1e7, ..Cost::default() };
        let memory = memory(42_000_000, 7_000_000);
        let [none] = compare(Axis::Weights, cost, 152, &memory, &Err("not counted here".into()))
            .try_into()
            .expect("one");
        assert!(!none.is_within() && none.words().contains("not counted here"), "{none:?}");
        for axis in [Axis::Sample, Axis::Prefix, Axis::Family, Axis::Kernels] {
            assert_eq!(compare(axis, Cost::default(), 152, &memory, &Ok(counted())), []);
        }
    }
}

//! `cargo xtask counters`: what a token of a workload's server costs, and whether that is what it may.

use std::path::{Path, PathBuf};

use clap::Parser;
use harness::{
    bench::Contender,
    build::{self, Artifact},
    counters::{self, Bounds, Counters, Instructions},
    mutants::{Mutant, Plant, copy_crate},
    process::free_port,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use synth::axis::Axis;
use tokio::runtime::Runtime;

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    pipeline::{self, Asked, Decided},
    repo::{self, Named},
    suite,
    ui::Ui,
};

/// Count what a served token costs: allocations, system calls, instructions, bytes of weights and of keys and values.
///
/// These numbers do not depend on the clock or on neighbours, so that a change which makes a token dearer is seen on any
/// machine. Bounds are committed in `workloads/NAME.counters.json`. What the system does not let us count is named.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo xtask counters quickstart            count and show
  cargo xtask counters quickstart --check    exit 3 where a bound is broken
  cargo xtask counters quickstart --one-by-one   instructions too, where the processor's counter is hidden
  cargo xtask counters quickstart --write    take what is counted now as the bounds
  cargo xtask counters quickstart --faults   do the bounds catch what they must?

Exit codes: 3 a bound is broken, 5 a planted fault keeps its bounds.")]
pub struct Args {
    #[command(flatten)]
    named: Named,
    /// Exit 3 unless every bound is kept.
    #[arg(long)]
    check: bool,
    /// Write the bounds anew.
    #[arg(long, conflicts_with = "check")]
    write: bool,
    /// Count instructions one at a time, where the processor's counter is hidden: a minute for the quickstart.
    #[arg(long)]
    one_by_one: bool,
    /// Plant a fault for each bound in copies of the crate, and see that it is broken.
    #[arg(long, conflicts_with_all = ["check", "write"])]
    faults: bool,
}

/// A fault for each bound, `surface` being the bound that it must break.
const FAULTS: [Mutant; 3] = [
    Mutant {
        name: "allocates",
        what: "allocates in every step",
        plant: Plant::Source {
            file: "src/engine.rs",
            from: "self.batch.schedule(&self.running);",
            to: "std::hint::black_box(vec![0_u8; 64]);\n        self.batch.schedule(&self.running);",
        },
        surface: "allocations_per_token",
    },
    Mutant {
        name: "yields",
        what: "asks the system for something in every step",
        plant: Plant::Source {
            file: "src/engine.rs",
            from: "self.batch.schedule(&self.running);",
            to: "std::thread::yield_now();\n        self.batch.schedule(&self.running);",
        },
        surface: "system_calls_per_token",
    },
    Mutant {
        name: "reads_twice",
        what: "reads all weights twice in every step",
        plant: Plant::Source {
            file: "src/engine.rs",
            from: "self.model.forward(&self.batch.rows, &self.running);",
            to: "self.model.forward(&self.batch.rows, &self.running);\n        \
                 self.model.forward(&self.batch.rows, &self.running);",
        },
        surface: "instructions_per_token",
    },
];

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let asked = Asked::read(args.named.files()?, ui)?;
    let decided = Decided::pinned(&asked)?;
    let reads = suite::reads(&asked, &decided.memory);
    let bench = Bench {
        asked: &asked,
        runtime: pipeline::runtime()?,
        planned: (reads.weights, reads.kv_per_position),
        context: counted_context(&asked, &decided),
        ui,
    };
    if args.faults {
        decided.lay_out(&asked, ui)?;
        return bench.faults(&decided);
    }
    let artifact = decided.build(&asked, ui)?;
    let by = if args.one_by_one { Instructions::OneByOne } else { Instructions::Processor };
    let counted = bench.count(&artifact, by)?;
    keep(&asked.workload.name, &decided.plan.digest(), &counted)?;
    let file = bounds_of(&asked.files.spec);
    if args.write {
        std::fs::write(&file, Bounds::of(&counted, bench.planned).to_json()).or_exit(Exit::Internal)?;
        ui.say("Wrote", repo::shown(&file));
    }
    // Without bounds there is still what was counted.
    let bounds = match Bounds::read(&file) {
        Err(_) if !args.check && !file.exists() => None,
        read => Some(read.or_exit(if args.check { Exit::Regression } else { Exit::Usage })?),
    };
    bench.show(&counted, bounds.as_ref());
    let findings = bounds.as_ref().map(|it| it.check(&counted, bench.planned)).unwrap_or_default();
    for (name, why) in &findings.uncounted {
        ui.print(format_args!("NOT COUNTED {name}: {why}"));
    }
    let broken: Vec<String> = findings.broken.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    ui.print_json(&json!({
        "version": 1, "name": asked.workload.name, "counted": counted, "bounds": bounds,
        "planned": {"weight_bytes_per_token": reads.weights, "kv_bytes_per_position": reads.kv_per_position},
        "broken": broken, "uncounted": findings.uncounted,
    }));
    if !broken.is_empty() && args.check {
        return Err(Failure::new(
            Exit::Regression,
            format!(
                "a token costs more than it may; {} says what it may\n{}",
                repo::shown(&file),
                broken.join("\n")
            ),
        ));
    }
    broken.iter().for_each(|line| ui.print(format_args!("BROKEN {line}")));
    Ok(())
}

/// Keeps what was counted, for `explain`; where nothing was, what was counted of the same plan before stays.
fn keep(name: &str, plan_digest: &str, counted: &Counters) -> Outcome {
    let mut counted = counted.clone();
    if let Ok(before) = kept(name, plan_digest) {
        for (now, before) in [
            (&mut counted.instructions_per_token, before.instructions_per_token),
            (&mut counted.multiplications_per_token, before.multiplications_per_token),
        ] {
            *now = now.clone().or(before);
        }
    }
    let kept = Kept { plan_digest: plan_digest.to_owned(), counted };
    std::fs::write(kept_at(name), serde_json::to_string(&kept).or_exit(Exit::Internal)?)
        .or_exit(Exit::Internal)
}

fn kept_at(name: &str) -> PathBuf {
    repo::target().join("counters").join(format!("{name}.json"))
}

/// The positions of the prompt whose last token is counted: whole blocks, and one more, at the median context. None where the
/// plan does not keep the blocks.
fn counted_context(asked: &Asked, decided: &Decided) -> Option<usize> {
    let keeps = decided.plan.on(Axis::Prefix).is_some_and(|decision| !decision.is_none());
    let block = decided.memory.block;
    keeps.then(|| (asked.workload.median_context() - 1) / block * block + 1)
}

/// What was counted here of a binary with this plan; a reason, where there is nothing.
pub fn kept(name: &str, plan_digest: &str) -> Result<Counters, String> {
    let cure = format!("`cargo xtask counters {name}` counts it");
    let text = std::fs::read_to_string(kept_at(name)).map_err(|_| format!("not counted here; {cure}"))?;
    let kept: Kept =
        serde_json::from_str(&text).map_err(|_| format!("counted by another version; {cure}"))?;
    match kept.plan_digest == plan_digest {
        true => Ok(kept.counted),
        false => Err(format!("counted of another plan; {cure}")),
    }
}

/// What was counted, and of which plan.
#[derive(Serialize, Deserialize)]
struct Kept {
    plan_digest: String,
    counted: Counters,
}

/// Where the bounds of a spec are kept.
pub fn bounds_of(spec: &Path) -> PathBuf {
    spec.with_extension("counters.json")
}

/// Counts one binary after another.
struct Bench<'a> {
    asked: &'a Asked,
    runtime: Runtime,
    planned: (u64, u64),
    context: Option<usize>,
    ui: &'a Ui,
}

impl Bench<'_> {
    fn count(&self, artifact: &Artifact, by: Instructions) -> Outcome<Counters> {
        let listen = free_port().or_exit(Exit::Environment)?;
        let home = repo::target().join("counters");
        std::fs::create_dir_all(&home).or_exit(Exit::Internal)?;
        let contender = Contender::own(artifact, listen, home.join(format!("{}.log", artifact.name)));
        let step = self.ui.step("Count", artifact.name.clone());
        let note = |what: &str| step.note(what);
        let vocab = self.asked.model.dims.vocab;
        let counted = self
            .runtime
            .block_on(counters::count(&contender, vocab, &home, by, self.context, &note))
            .or_exit(Exit::Internal)?;
        let took = step.done();
        self.ui.say("Counted", format_args!("in {:.1} s", took.as_secs_f64()));
        Ok(counted)
    }

    fn show(&self, counted: &Counters, bounds: Option<&Bounds>) {
        let line = |name: &str, count: &counters::Count, most: Option<f64>| {
            let count = count.as_ref().map_or("–".to_owned(), |count| format!("{count:.2}"));
            let most = most.map_or("no bound".to_owned(), |most| format!("at most {most:.2}"));
            self.ui.print(format_args!("{name:<30} {count:>14}  {most}"));
        };
        line(
            "allocations per token",
            &counted.allocations_per_token,
            bounds.map(|it| it.allocations_per_token),
        );
        line(
            "system calls per token",
            &counted.system_calls_per_token,
            bounds.map(|it| it.system_calls_per_token),
        );
        line(
            "instructions per token",
            &counted.instructions_per_token,
            bounds.and_then(|it| it.instructions_per_token),
        );
        let multiplications = counted.multiplications_per_token.as_ref();
        let multiplications = multiplications.map_or("–".to_owned(), |count| format!("{count:.2}"));
        self.ui.print(format_args!("{:<30} {multiplications:>14}", "those that multiply"));
        line(
            "instructions per prompt token",
            &counted.instructions_per_prompt_token,
            bounds.and_then(|it| it.instructions_per_prompt_token),
        );
        line(
            "weight bytes per token",
            &counted.weight_bytes_per_token,
            bounds.map(|it| it.weight_bytes_per_token as f64),
        );
        line(
            "KV bytes per position",
            &counted.kv_bytes_per_position,
            bounds.map(|it| it.kv_bytes_per_position as f64),
        );
        line("bytes reserved", &counted.reserved_bytes, None);
        let switches = counted.switches_per_token.as_ref().map_or("–".to_owned(), |it| format!("{it:.2}"));
        self.ui.print(format_args!("{:<30} {switches:>14}", "core given up per token"));
    }

    /// A copy without a fault sets the bounds; each fault must break its own.
    fn faults(&self, decided: &Decided) -> Outcome {
        let from = &self.asked.files.crate_dir;
        // Where all faults are planted: cargo takes two copies of one name inside its folder for the same crate, and looks for
        // what changed in the first alone.
        let into = repo::target().join("mutants").join(&self.asked.workload.name);
        let sound = copy_crate(from, &into).or_exit(Exit::Internal)?;
        let by = |surface: &str| match surface {
            "instructions_per_token" => Instructions::OneByOne,
            _ => Instructions::Processor,
        };
        let bounds =
            Bounds::of(&self.count(&self.built(decided, &sound)?, Instructions::OneByOne)?, self.planned);
        let mut alive = Vec::new();
        for fault in &FAULTS {
            let planted = fault.plant(from, &self.asked.image(), &into).or_exit(Exit::Internal)?;
            let counted = self.count(&self.built(decided, &planted.crate_dir)?, by(fault.surface))?;
            copy_crate(from, &into).or_exit(Exit::Internal)?;
            let findings = bounds.check(&counted, self.planned);
            let uncounted = findings.uncounted.iter().find(|(name, _)| *name == fault.surface);
            let broken: Vec<&str> = findings.broken.iter().map(|(name, _)| *name).collect();
            match uncounted {
                Some((name, why)) => self.ui.print(format_args!("NOT TRIED {}: {name}: {why}", fault.name)),
                None if broken.contains(&fault.surface) => {
                    self.ui.print(format_args!("{:<12} breaks {}", fault.name, broken.join(", ")));
                }
                None => {
                    self.ui.print(format_args!("{:<12} LIVES: {}", fault.name, fault.what));
                    alive.push(fault.name);
                }
            }
        }
        match alive.as_slice() {
            [] => Ok(()),
            alive => Err(Failure::new(Exit::Proof, format!("the bounds let pass: {}", alive.join(", ")))),
        }
    }

    fn built(&self, decided: &Decided, crate_dir: &Path) -> Outcome<Artifact> {
        let step = self.ui.step("Build", repo::shown(crate_dir));
        let binary = build::build(crate_dir, &repo::target(), |name| step.note(name)).or_exit(Exit::Build)?;
        step.done();
        Ok(Artifact {
            name: self.asked.workload.name.clone(),
            crate_dir: crate_dir.to_owned(),
            binary_digest: build::digest(&binary).or_exit(Exit::Build)?,
            binary,
            model_dir: self.asked.model.folder.clone(),
            weights: self.asked.image(),
            spec_digest: self.asked.workload.digest.clone(),
            plan_digest: decided.plan.digest(),
            weights_digest: decided.plan.weights.clone(),
            threads: self.asked.workload.target.threads,
        })
    }
}

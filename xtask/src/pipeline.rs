//! The arrows that most commands share: spec, model, plan, crate.

use harness::probe::Machine;
use synth::{
    axis::Axis,
    feasibility::{self, MemoryPlan},
    mechanism::Job,
    model::Model,
    plan::Plan,
    planner,
    target::{Isa, MachineFacts},
    workload::{ModelSource, Workload},
};
use templates::CATALOGUE;

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    repo::{self, Files},
    ui::Ui,
};

/// A spec that was read and found sound, and the model it names.
pub struct Asked {
    /// Where everything is.
    pub files: Files,
    /// What is asked.
    pub workload: Workload,
    /// What is to be served.
    pub model: Model,
}

impl Asked {
    /// Reads a spec and the model folder it names.
    pub fn read(files: Files, ui: &Ui) -> Outcome<Self> {
        let workload = Workload::read(&files.spec).or_exit(Exit::Spec)?;
        let folder = match &workload.model {
            ModelSource::Path(folder) => folder.clone(),
            ModelSource::Hub { repo, revision } => {
                ui.say("Fetch", format_args!("{repo} ({})", revision));
                harness::hub::fetch(repo, Some(revision), &repo::target(), &|note| ui.say("Fetch", note))
                    .or_exit(Exit::Environment)?
            }
        };
        let model = Model::read(&folder).or_exit(Exit::Spec)?;
        Ok(Self { files, workload, model })
    }
}

/// What the planner may know of this machine.
pub fn facts(machine: &Machine) -> MachineFacts {
    MachineFacts {
        bandwidth_bytes_per_s: machine.read_gb_s * 1e9,
        flops: machine.fma_gflops * 1e9,
        isas: machine.isas.clone(),
    }
}

/// A plan and the crate it describes, in memory.
pub struct Decided {
    /// Every decision.
    pub plan: Plan,
    /// Blocks and bytes reserved.
    pub memory: MemoryPlan,
}

impl Decided {
    /// Plans for this machine: checks that the job is feasible on it, then decides each axis.
    pub fn here(asked: &Asked, machine: &Machine, ui: &Ui) -> Outcome<Self> {
        let facts = facts(machine);
        let errors = feasibility::check(&asked.workload, &asked.model, &facts);
        if !errors.is_empty() {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            return Err(Failure::new(Exit::Spec, lines.join("\n")));
        }
        let earlier = Plan::read(&asked.files.plan).or_exit(Exit::Spec)?;
        let wanted = asked.workload.target.isa;
        let isa = match &earlier {
            Some(plan) if stands(wanted, plan.isa) && facts.isas.contains(&plan.isa) => plan.isa,
            _ => facts.resolve(wanted).ok_or_else(|| {
                Failure::new(
                    Exit::Environment,
                    format!(
                        "target.cpu.isa is {}, which this machine does not have; it has {}",
                        wanted.name(),
                        facts.isas.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
                    ),
                )
            })?,
        };
        if let Some(plan) = earlier.as_ref().filter(|plan| plan.isa != isa) {
            ui.say(
                "Replan",
                format_args!("the plan is for {}, this machine runs {}", plan.isa.name(), isa.name()),
            );
        }
        Self::with(asked, isa, earlier)
    }

    fn with(asked: &Asked, isa: Isa, earlier: Option<Plan>) -> Outcome<Self> {
        let job = Job { workload: &asked.workload, model: &asked.model, isa };
        let weights = asked.model.digests().or_exit(Exit::Spec)?.weights.clone();
        let plan =
            planner::plan(&job, &weights, earlier.as_ref(), CATALOGUE.mechanisms).or_exit(Exit::Spec)?;
        let memory = feasibility::memory(
            &asked.workload,
            &asked.model,
            knob(&plan, Axis::Kv, "block"),
            knob(&plan, Axis::Schedule, "rows"),
        );
        Ok(Self { plan, memory })
    }

    /// The job that the plan answers.
    pub fn job<'a>(&self, asked: &'a Asked) -> Job<'a> {
        Job { workload: &asked.workload, model: &asked.model, isa: self.plan.isa }
    }
}

/// Whether a plan's instruction set is one that the spec allows.
fn stands(wanted: Isa, planned: Isa) -> bool {
    wanted == Isa::Native || wanted == planned
}

/// A number that a plan sets; 1 where it sets none.
fn knob(plan: &Plan, axis: Axis, name: &str) -> usize {
    plan.on(axis).and_then(|decision| decision.knobs.get(name)).map_or(1, |value| *value as usize)
}

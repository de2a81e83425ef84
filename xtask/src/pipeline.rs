//! The arrows that most commands share, each from one thing to the next: spec, plan, crate, binary, proof.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use harness::{
    build::{self, Artifact, BuildError},
    image::Image,
    model_maker::SHAPES,
    probe::Machine,
    prove::{self, Proof, ProveError, Recorded, Verdict},
};
use rt::tokenizer::{self, Tokenizer};
use synth::{
    axis::Axis,
    calibration::Calibration,
    emit::{self, EmitError, Place},
    feasibility::{self, MemoryPlan},
    mechanism::Job,
    model::Model,
    plan::Plan,
    planner::{self, PlanningError},
    reading,
    source_tree::{FormatError, SourceTree},
    target::{Isa, MachineFacts},
    workload::{Bytes, ModelSource, SpecError, SpecErrors, Workload},
};
use templates::CATALOGUE;
use tokio::runtime::Runtime;

use crate::{
    calibration,
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
        let workload = Workload::read(&files.spec).map_err(|errors| refused(&errors))?;
        let stem = files.spec.file_stem().unwrap_or_default();
        if files.is_ours && stem != workload.name.as_str() {
            let message = format!("the file is called {}; call both alike", stem.display());
            return Err(Failure::new(Exit::Spec, workload.error("name", message)));
        }
        let folder = match &workload.model {
            ModelSource::Path(folder) => folder.clone(),
            ModelSource::Hub { repo, revision } => {
                let step = ui.step("Fetch", format!("{repo} ({revision})"));
                let fetched =
                    harness::hub::fetch(repo, Some(revision), &repo::target(), &|note| step.note(note));
                step.done();
                fetched.map_err(|error| {
                    let exit = if error.is_environment() { Exit::Environment } else { Exit::Spec };
                    Failure::new(exit, error)
                })?
            }
        };
        let model = read_model(&folder)?;
        Ok(Self { files, workload, model })
    }

    /// Where the weight image is kept: with what is built in this repository, else beside the crate.
    pub fn image(&self) -> PathBuf {
        let file = format!("{}.weights", self.workload.name);
        match self.files.in_workspace() {
            true => repo::target().join("images").join(file),
            false => self.files.crate_dir.join(file),
        }
    }

    /// The weight image as the emitted binary names it by default: from the root of the repository for a crate in it,
    /// else in full.
    fn image_named(&self) -> String {
        match self.files.in_workspace() {
            true => format!("target/images/{}.weights", self.workload.name),
            false => std::path::absolute(self.image()).unwrap_or_else(|_| self.image()).display().to_string(),
        }
    }
}

/// How long reading a model folder may take. Some megabytes are read, so it is over in no time, unless the chat
/// template computes for ever within a few steps.
const READ_WITHIN: Duration = Duration::from_secs(6);

/// Reads a model folder, and its tokenizer with the code that will serve it.
fn read_model(folder: &Path) -> Outcome<Model> {
    let (done, reading) = mpsc::channel();
    let path = folder.to_owned();
    // Nobody waits for the thread if it never ends: it goes when the process does.
    thread::spawn(move || {
        // Without a receiver the answer came too late.
        done.send(Model::read(&path).or_exit(Exit::Spec)).ok();
    });
    let tokenizer = folder.join("tokenizer.json");
    let (folder, limit) = (repo::shown(folder), READ_WITHIN.as_secs());
    let read = reading.recv_timeout(READ_WITHIN).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err(Failure::new(
            Exit::Spec,
            format!(
                "{folder}: reading it takes more than {limit} s; its chat template may never end: try another"
            ),
        )),
        RecvTimeoutError::Disconnected => {
            Err(Failure::new(Exit::Internal, format!("{folder}: reading it failed")))
        }
    })?;
    Tokenizer::open(tokenizer).or_exit(Exit::Spec)?;
    Ok(read)
}

/// The folder of a made model that is not there yet is no mistake in the spec: it has to be made.
fn refused(errors: &SpecErrors) -> Failure {
    if let [error] = errors.0.as_slice()
        && error.field == "model.path"
        && let Some(shape) = SHAPES.iter().find(|it| error.message.contains(&format!("/models/{};", it.name)))
    {
        let cure = format!("{error}\nit is made on demand; run `cargo xtask model {}`", shape.name);
        return Failure::new(Exit::Environment, cure);
    }
    Failure::new(Exit::Spec, errors)
}

/// What the planner may know of this machine.
pub fn facts(machine: &Machine) -> MachineFacts {
    MachineFacts {
        bandwidth_bytes_per_s: machine.read_gb_s * 1e9,
        flops: machine.fma_gflops * 1e9,
        isas: machine.isas.clone(),
    }
}

/// Measures this machine with the threads that a spec gives.
pub fn probe(asked: &Asked, ui: &Ui) -> Outcome<Machine> {
    let step = ui.step("Probe", "this machine");
    let machine = harness::probe::probe(asked.workload.target.threads).or_exit(Exit::Environment)?;
    step.done();
    Ok(machine)
}

/// A plan, what it rests on, and what it reserves.
pub struct Decided {
    /// Every decision.
    pub plan: Plan,
    /// What rounding costs, where the spec tolerates any.
    pub calibration: Option<Calibration>,
    /// Blocks and bytes reserved.
    pub memory: MemoryPlan,
}

impl Decided {
    /// Plans for this machine: checks that the job is feasible on it, then decides each axis.
    pub fn here(asked: &Asked, machine: &Machine, ui: &Ui) -> Outcome<Self> {
        let facts = facts(machine);
        let errors = feasibility::check(&asked.workload, &asked.model, &facts);
        if !errors.is_empty() {
            let mut lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            let disturbed = machine.noise.disturbance().filter(|_| errors.iter().any(rests_on_the_probe));
            lines.extend(disturbed.map(|disturbed| {
                format!("while the machine was measured {disturbed}: it may allow more, so try again when it is quiet")
            }));
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
        let mut calibration = calibration::here(asked, ui)?;
        loop {
            let planned = Self::planned(asked, isa, earlier.as_ref(), calibration.as_ref())?;
            match (planned, calibration) {
                (Err(PlanningError::Unmeasured { candidates, .. }), Some(before)) => {
                    calibration = Some(calibration::extended(asked, before, &candidates, ui)?);
                }
                (planned, calibration) => return Self::with(asked, planned, calibration),
            }
        }
    }

    /// Decides each axis as on the machine that planned first. Nothing of this machine is asked.
    pub fn pinned(asked: &Asked) -> Outcome<Self> {
        let earlier = Plan::read(&asked.files.plan).or_exit(Exit::Spec)?.ok_or_else(|| {
            let plan = repo::shown(&asked.files.plan);
            Failure::new(Exit::Regression, format!("{plan} is missing: nothing was decided yet"))
        })?;
        let calibration = calibration::pinned(asked)?;
        let planned = Self::planned(asked, earlier.isa, Some(&earlier), calibration.as_ref())?;
        Self::with(asked, planned, calibration)
    }

    fn planned(
        asked: &Asked,
        isa: Isa,
        earlier: Option<&Plan>,
        calibration: Option<&Calibration>,
    ) -> Outcome<Result<Plan, PlanningError>> {
        let (workload, model) = (&asked.workload, &asked.model);
        let job = Job { workload, model, isa, calibration, held: None, rate: None, kv: None };
        let weights = asked.model.digests().or_exit(Exit::Spec)?.weights.clone();
        Ok(planner::plan(&job, &weights, earlier, CATALOGUE.mechanisms))
    }

    fn with(
        asked: &Asked,
        planned: Result<Plan, PlanningError>,
        calibration: Option<Calibration>,
    ) -> Outcome<Self> {
        let plan = planned.map_err(|error| {
            let (exit, file) = match error {
                PlanningError::Unanswered { .. } => (Exit::Spec, &asked.files.spec),
                PlanningError::Unmeasured { .. } => (Exit::Regression, &asked.files.calibration),
                _ => (Exit::Spec, &asked.files.plan),
            };
            Failure::new(exit, format_args!("{}: {error}", repo::shown(file)))
        })?;
        let held = planner::held(&plan, CATALOGUE.mechanisms)
            .ok_or_else(|| Failure::new(Exit::Internal, "the plan does not say how weights are held"))?;
        let kv = planner::kv(&plan, CATALOGUE.mechanisms).ok_or_else(|| {
            Failure::new(Exit::Internal, "the plan does not say how keys and values are kept")
        })?;
        let kernels = planner::on_axis(&plan, Axis::Kernels, CATALOGUE.mechanisms)
            .ok_or_else(|| Failure::new(Exit::Internal, "the plan does not say what computes"))?;
        let memory = feasibility::memory(
            &asked.workload,
            &asked.model,
            held,
            kv,
            knob(&plan, Axis::Kv, "block"),
            knob(&plan, Axis::Schedule, "rows"),
            |format, rows, k| kernels.operand_bytes(format, rows, k),
        );
        match feasibility::check_plan(&asked.workload, &asked.model, &memory) {
            Some(error) => Err(Failure::new(Exit::Spec, error)),
            None => Ok(Self { plan, calibration, memory }),
        }
    }

    /// The job that the plan answers.
    pub fn job<'a>(&'a self, asked: &'a Asked) -> Job<'a> {
        Job {
            workload: &asked.workload,
            model: &asked.model,
            isa: self.plan.isa,
            calibration: self.calibration.as_ref(),
            held: Some(self.memory.held),
            rate: planner::rate(&self.plan, CATALOGUE.mechanisms),
            kv: Some(self.memory.kv),
        }
    }

    /// Writes the crate in memory, and reads it as a person would.
    pub fn emit(&self, asked: &Asked) -> Outcome<SourceTree> {
        let place = match asked.files.in_workspace() {
            true => Place::Workspace,
            false => Place::Elsewhere { savile: repo::root().display().to_string() },
        };
        let weights = asked.image_named();
        let tree = emit::emit(self.job(asked), &self.plan, &self.memory, &place, &weights, &CATALOGUE);
        let tree = tree.map_err(|error| not_emitted(asked, error))?;
        let findings = reading::check(&tree);
        if findings.is_empty() {
            return Ok(tree);
        }
        let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
        Err(Failure::new(
            Exit::Internal,
            format!("the emitted crate is not fit to be read:\n{}", lines.join("\n")),
        ))
    }

    /// Sees to it that the weight image holds what the crate reads.
    pub fn lay_out(&self, asked: &Asked, ui: &Ui) -> Outcome {
        let recipe = emit::recipe(self.job(asked), &self.plan, &self.memory, &CATALOGUE);
        let recipe = recipe.map_err(|error| not_emitted(asked, error))?;
        let path = asked.image();
        let step = ui.step("Lay out", repo::shown(&path));
        let progress = |done: u64, total: u64| step.note(&format!("{} of {}", Bytes(done), Bytes(total)));
        let tokenizer = tokenizer::pack(asked.model.folder.join("tokenizer.json")).or_exit(Exit::Spec)?;
        let files = [("tokenizer", &*tokenizer)];
        let image = harness::image::ensure(&asked.model, &recipe, &files, &path, &progress);
        let image = image.or_exit(Exit::Internal)?;
        step.done();
        let what = match image {
            Image::Stands => "holds what it should",
            Image::Made => "made",
        };
        ui.say("Weights", format_args!("{}: {what}, {}", repo::shown(&path), Bytes(recipe.bytes())));
        Ok(())
    }

    /// Builds the crate that was written, in release mode, and the weight image that it reads.
    pub fn build(&self, asked: &Asked, ui: &Ui) -> Outcome<Artifact> {
        let crate_dir = &asked.files.crate_dir;
        if !crate_dir.join("Cargo.toml").exists() {
            let crate_dir = repo::shown(crate_dir);
            return Err(Failure::new(
                Exit::Usage,
                format!("{crate_dir} holds no crate yet; run `cargo xtask synth {}`", asked.workload.name),
            ));
        }
        let lock = crate_dir.join("Cargo.lock");
        if !asked.files.in_workspace() && !lock.exists() {
            // The versions that Savile is tested with, which are also the ones at hand.
            fs::copy(repo::root().join("Cargo.lock"), lock).or_exit(Exit::Internal)?;
        }
        self.lay_out(asked, ui)?;
        let step = ui.step("Build", repo::shown(crate_dir));
        let binary = build::build(crate_dir, &repo::target(), |name| step.note(name)).map_err(|error| {
            let exit = if matches!(error, BuildError::Cargo(_)) { Exit::Environment } else { Exit::Build };
            Failure::new(exit, error)
        })?;
        step.done();
        Ok(Artifact {
            name: asked.workload.name.clone(),
            crate_dir: crate_dir.clone(),
            binary_digest: build::digest(&binary).or_exit(Exit::Build)?,
            binary,
            model_dir: asked.model.folder.canonicalize().or_exit(Exit::Spec)?,
            weights: asked.image(),
            spec_digest: asked.workload.digest.clone(),
            plan_digest: self.plan.digest(),
            weights_digest: self.plan.weights.clone(),
            threads: asked.workload.target.threads,
        })
    }
}

/// Whose fault it is that a crate cannot be written.
fn not_emitted(asked: &Asked, error: EmitError) -> Failure {
    let exit = match &error {
        EmitError::MissingKnob { .. } | EmitError::Undecided { .. } | EmitError::Conflict { .. } => {
            Exit::Spec
        }
        EmitError::Format(FormatError::Missing(_)) => Exit::Environment,
        _ => Exit::Internal,
    };
    match exit {
        Exit::Spec => Failure::new(exit, format_args!("{}: {error}", repo::shown(&asked.files.plan))),
        _ => Failure::new(exit, error),
    }
}

/// Proves a binary and keeps the proof beside its crate. A failed one is kept too, and is no proof.
pub fn prove(asked: &Asked, artifact: &Artifact, runtime: &Runtime, ui: &Ui) -> Outcome<Proof> {
    let step = ui.step("Prove", artifact.name.clone());
    let recorded = recorded(asked);
    let note = |what: &str| step.note(what);
    let proving = prove::prove(artifact, &asked.workload, &asked.model, &recorded, &note);
    let proof = runtime.block_on(proving).map_err(|error| {
        let exit = if matches!(error, ProveError::Process(_)) { Exit::Proof } else { Exit::Internal };
        Failure::new(exit, error)
    })?;
    proof.write(&artifact.crate_dir).or_exit(Exit::Internal)?;
    let here = proven_here(&artifact.name);
    fs::create_dir_all(&here).and_then(|()| proof.write(&here)).or_exit(Exit::Internal)?;
    let took = step.done();
    if proof.verdict == Verdict::Fail {
        let failed: Vec<_> = proof
            .failed()
            .map(|it| {
                format!("  {} ({} of {}): {}", it.name, it.n_failures, it.cases, it.failures.join("; "))
            })
            .collect();
        let report = repo::shown(&artifact.crate_dir.join("proof.md"));
        return Err(Failure::new(
            Exit::Proof,
            format!("{} is not proven; {report} says more\n{}", artifact.name, failed.join("\n")),
        ));
    }
    ui.say("Proven", format_args!("{} in {:.1} s", proven(&proof), took.as_secs_f64()));
    Ok(proof)
}

/// Where the proofs are kept that were made on this machine. The one beside a crate may come from another.
fn proven_here(name: &str) -> PathBuf {
    repo::target().join("proofs").join(name)
}

/// The proof of exactly this binary, if there is one that was made here and it passed.
pub fn standing_proof(artifact: &Artifact) -> Option<Proof> {
    let proof = Proof::read(&proven_here(&artifact.name)).ok()?;
    let digests = &proof.digests;
    let is_of_this = digests.binary == artifact.binary_digest
        && digests.spec == artifact.spec_digest
        && digests.plan == artifact.plan_digest
        && digests.weights == artifact.weights_digest;
    (proof.verdict == Verdict::Pass && is_of_this).then_some(proof)
}

/// What was proven, in a clause.
pub fn proven(proof: &Proof) -> String {
    format!(
        "{} surfaces, {} sequences, {} tokens against the oracle, p99 |Δlogprob| {:.1e}",
        proof.surfaces.len(),
        proof.n_cases,
        proof.n_oracle_tokens,
        proof.measures.logprob_p99
    )
}

/// The memory plan in one line: what the binary takes before it is ready.
pub fn reserved(asked: &Asked, memory: &MemoryPlan) -> String {
    format!(
        "{} weights + {} in {} KV blocks of {} + {} scratch = {} of {}",
        Bytes(memory.weights),
        Bytes(memory.kv_bytes),
        memory.kv_blocks,
        memory.kv.name(),
        Bytes(memory.scratch),
        Bytes(memory.total),
        asked.workload.target.memory
    )
}

/// What is known of a fixture beside its folder.
fn recorded(asked: &Asked) -> Recorded {
    let fixtures = repo::root().join("tests/fixtures");
    let folder = asked.model.folder.canonicalize().unwrap_or_default();
    let Ok(name) = folder.strip_prefix(fixtures.join("models")) else { return Recorded::default() };
    let file = |kind: &str, extension: &str| {
        let file = fixtures.join(kind).join(name).with_extension(extension);
        file.is_file().then_some(file)
    };
    Recorded { golden: file("goldens", "json"), held_out: file("held_out", "txt") }
}

/// What runs the load generator and the proof's questions: one thread, since the cores belong to the servers.
pub fn runtime() -> Outcome<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().or_exit(Exit::Internal)
}

/// Whether an error says what this machine cannot do in time, and so is only as good as the probe.
fn rests_on_the_probe(error: &SpecError) -> bool {
    error.field.starts_with("slo.")
}

/// Whether a plan's instruction set is one that the spec allows.
fn stands(wanted: Isa, planned: Isa) -> bool {
    wanted == Isa::Native || wanted == planned
}

/// A number that a plan sets; 1 where it sets none.
fn knob(plan: &Plan, axis: Axis, name: &str) -> usize {
    plan.on(axis).and_then(|decision| decision.knobs.get(name)).map_or(1, |value| *value as usize)
}

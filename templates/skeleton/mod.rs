//! What every emitted crate has: a manifest, a README, `main.rs`, `server.rs`, `shape.rs` and the step loop.

use std::collections::BTreeMap;

use serde::Serialize;
use synth::{
    axis::Axis,
    emit::{Assembly, Call, Const, EmitError, Field, Place},
    feasibility::MemoryPlan,
    held::Format,
    mechanism::{Stage, literal},
    model::Sampling,
    target::Isa,
    workload::{Api, Bytes, Precision},
};
use synth_macros::Template;

/// Joins the parts of the chosen mechanisms into a crate.
pub fn assemble(assembly: &Assembly<'_>) -> Result<Vec<(&'static str, String)>, EmitError> {
    let job = assembly.job;
    let about = about(assembly);
    let savile = match assembly.place {
        Place::Workspace => "../..",
        Place::Elsewhere { savile } => &savile.replace('\\', r"\\").replace('"', r#"\""#),
    };
    let manifest = Manifest {
        name: &job.workload.name,
        about: &about,
        bf16: job.held.is_some_and(|held| [held.layers, held.head].contains(&Format::Bf16))
            || assembly.memory.kv == Precision::Bf16,
        savile,
        standalone: *assembly.place != Place::Workspace,
    };
    let spec = job.workload.source.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let readme = Readme {
        name: &job.workload.name,
        about: &about,
        decisions: decisions(assembly),
        command: match assembly.place {
            Place::Workspace => job.workload.name.clone(),
            Place::Elsewhere { .. } => format!("{spec}.yaml --out DIR"),
        },
        spec,
        memory: memory(assembly.memory),
    };
    let engine = Engine {
        fields: &assembly.fields,
        at_match: assembly.at(Stage::Match),
        at_reserve: assembly.at(Stage::Reserve),
        at_commit: assembly.at(Stage::Commit),
    };
    let shape = Shape { groups: groups(assembly) };
    let main = Main { about: &about, modules: modules(assembly), checks_processor: job.isa != Isa::Scalar };
    let server = Server {
        name: &job.workload.name,
        about: &about,
        weights: literal_text(Some(assembly.weights)),
        spec_digest: &job.workload.digest,
        plan_digest: assembly.plan.digest(),
        weights_digest: &assembly.plan.weights,
        recipe_digest: assembly.recipe.digest(),
        chat: job.workload.api.contains(&Api::Chat),
        completions: job.workload.api.contains(&Api::Completions),
        template: job.model.chat_template.is_some(),
        sampling: Defaults::of(&job.model.sampling),
        bos: literal_text(job.model.bos_token.as_deref()),
        eos: literal_text(job.model.eos_token.as_deref()),
    };
    let mut files = vec![
        ("Cargo.toml", manifest.render()?),
        ("README.md", readme.render()?),
        ("src/main.rs", main.render()?),
        ("src/server.rs", server.render()?),
        ("src/engine.rs", engine.render()?),
        ("src/shape.rs", shape.render()?),
    ];
    files.extend(job.model.chat_template.iter().map(|text| ("src/chat_template.jinja", text.clone())));
    Ok(files)
}

#[derive(Template)]
#[template("skeleton/Cargo.toml.tera")]
struct Manifest<'a> {
    name: &'a str,
    about: &'a str,
    bf16: bool,
    savile: &'a str,
    standalone: bool,
}

#[derive(Template)]
#[template("skeleton/README.md.tera")]
struct Readme<'a> {
    name: &'a str,
    about: &'a str,
    command: String,
    spec: String,
    decisions: Vec<Row>,
    memory: Vec<Reserved>,
}

/// A part of the memory plan as the README shows it.
#[derive(Serialize)]
struct Reserved {
    what: String,
    size: String,
}

/// A decision as the README shows it.
#[derive(Serialize)]
struct Row {
    axis: &'static str,
    mechanism: String,
    knobs: Option<String>,
    reason: String,
}

#[derive(Template)]
#[template("skeleton/main.rs.tera")]
struct Main<'a> {
    about: &'a str,
    modules: Vec<String>,
    checks_processor: bool,
}

#[derive(Template)]
#[template("skeleton/server.rs.tera")]
struct Server<'a> {
    name: &'a str,
    about: &'a str,
    weights: String,
    spec_digest: &'a str,
    plan_digest: String,
    weights_digest: &'a str,
    recipe_digest: String,
    chat: bool,
    completions: bool,
    template: bool,
    sampling: Defaults,
    bos: String,
    eos: String,
}

/// How a request is sampled that does not say otherwise, as Rust writes it.
#[derive(Serialize)]
struct Defaults {
    temperature: String,
    top_p: String,
    top_k: String,
    min_p: String,
    repetition_penalty: String,
}

impl Defaults {
    fn of(sampling: &Sampling) -> Self {
        let float = |value: f64| format!("{:?}", value as f32);
        Self {
            temperature: float(sampling.temperature),
            top_p: float(sampling.top_p),
            top_k: format!("{:?}", sampling.top_k),
            min_p: float(sampling.min_p),
            repetition_penalty: float(sampling.repetition_penalty),
        }
    }
}

#[derive(Template)]
#[template("skeleton/engine.rs.tera")]
struct Engine<'a> {
    fields: &'a [Field],
    at_match: Vec<Call>,
    at_reserve: Vec<Call>,
    at_commit: Vec<Call>,
}

#[derive(Template)]
#[template("skeleton/shape.rs.tera")]
struct Shape {
    groups: Vec<Group>,
}

/// Constants under one heading.
#[derive(Serialize)]
struct Group {
    title: &'static str,
    consts: Vec<Const>,
}

/// A string as Rust writes it; empty if there is none.
fn literal_text(text: Option<&str>) -> String {
    format!("{:?}", text.unwrap_or_default())
}

/// The crate in one sentence, without a full stop.
fn about(assembly: &Assembly<'_>) -> String {
    let job = assembly.job;
    let dims = &job.model.dims;
    let routes: Vec<_> = job.workload.api.iter().map(|api| api.name()).collect();
    format!(
        "Serves {} of a {} model of {} layers and width {} to {} sequences at a time on {} {} threads",
        routes.join(" and "),
        job.model.family.name(),
        dims.layers,
        dims.hidden,
        job.workload.traffic.concurrency,
        job.workload.target.threads,
        job.isa.name(),
    )
}

fn memory(plan: &MemoryPlan) -> Vec<Reserved> {
    let part = |what: String, bytes: u64| Reserved { what, size: Bytes(bytes).to_string() };
    vec![
        part("weights".into(), plan.weights),
        part(
            format!("{} KV blocks of {} positions in {}", plan.kv_blocks, plan.block, plan.kv.name()),
            plan.kv_bytes,
        ),
        part("scratch of a step".into(), plan.scratch),
        part("together".into(), plan.total),
    ]
}

fn decisions(assembly: &Assembly<'_>) -> Vec<Row> {
    assembly
        .plan
        .decisions
        .iter()
        .map(|(axis, decision)| {
            let knobs: Vec<_> =
                decision.knobs.iter().map(|(knob, value)| format!("{knob} {value}")).collect();
            Row {
                axis: axis.name(),
                mechanism: decision.mechanism.clone(),
                knobs: (!knobs.is_empty()).then(|| knobs.join(", ")),
                // A bar would end the cell.
                reason: decision.reason.replace('|', "\\|"),
            }
        })
        .collect()
}

/// The modules of the crate: the first part of each path under `src/`, and the skeleton's own.
fn modules(assembly: &Assembly<'_>) -> Vec<String> {
    let mut modules: Vec<_> = assembly
        .paths
        .iter()
        .filter_map(|path| path.strip_prefix("src/"))
        .filter_map(|path| path.split(['/', '.']).next())
        .chain(["engine", "server", "shape"])
        .map(str::to_owned)
        .collect();
    modules.sort();
    modules.dedup();
    modules
}

/// Constants by the question they answer, those of the server last.
fn groups(assembly: &Assembly<'_>) -> Vec<Group> {
    let mut by_axis: BTreeMap<Axis, Vec<Const>> = BTreeMap::new();
    for constant in &assembly.consts {
        by_axis.entry(constant.axis).or_default().push(constant.clone());
    }
    let mut groups: Vec<_> =
        by_axis.into_iter().map(|(axis, consts)| Group { title: title(axis), consts }).collect();
    groups.push(Group { title: "The server", consts: server(assembly) });
    groups
}

fn title(axis: Axis) -> &'static str {
    match axis {
        Axis::Family => "The model",
        Axis::Weights => "The weights",
        Axis::Kernels => "The kernels",
        Axis::Kv => "The KV blocks",
        Axis::Schedule => "The step",
        Axis::Prefix => "The prefix cache",
        Axis::Sample => "The sampler",
    }
}

/// Batches that may wait behind the running one before a client is better told to come back.
const QUEUE_ROUNDS: usize = 8;

/// What bounds clients, and how many threads answer them.
fn server(assembly: &Assembly<'_>) -> Vec<Const> {
    let workload = assembly.job.workload;
    let traffic = &workload.traffic;
    let count = |name, value: usize, why: String| Const {
        axis: Axis::Schedule,
        name,
        ty: "usize",
        value: literal(value),
        why,
    };
    let n_queued = QUEUE_ROUNDS * traffic.concurrency;
    vec![
        count("N_THREADS", workload.target.threads, "Threads that compute (`target.cpu.threads`).".into()),
        count(
            "MAX_CONTEXT",
            traffic.prompt.max + traffic.output.max,
            format!(
                "Prompt and output of one sequence: {} and {} (`traffic`).",
                traffic.prompt.max, traffic.output.max
            ),
        ),
        count("MAX_OUTPUT", traffic.output.max, "Tokens of an answer at most (`traffic.output.max`).".into()),
        count(
            "MAX_QUEUED",
            n_queued,
            format!(
                "Requests that wait at most: {QUEUE_ROUNDS} batches; further ones are told when to retry."
            ),
        ),
        count(
            "MAX_QUEUED_TOKENS",
            (n_queued * traffic.prompt.p99).max(traffic.prompt.max),
            "Prompt tokens that wait at most: as many requests with prompts of the 99th percentile.".into(),
        ),
    ]
}

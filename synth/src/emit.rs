//! Parts into files: the plan's mechanisms write their pieces, the skeleton joins them, rustfmt sets them.
//!
//! A pure function: no clock, no environment, no network. The same job and plan give the same bytes.

use crate::{
    axis::Axis,
    feasibility::MemoryPlan,
    image::Recipe,
    mechanism::{Job, Mechanism, Part, Site, Stage},
    plan::Plan,
    planner,
    source_tree::{FormatError, SourceTree, TreeError, format_rust, wrap_comments},
    template::TemplateError,
};

/// All ways to serve that Savile knows, and what every emitted crate has in common.
#[derive(Debug, Clone, Copy)]
pub struct Catalogue {
    /// Every mechanism, in the order that its axis prefers them.
    pub mechanisms: &'static [&'static dyn Mechanism],
    /// Writes the files that join the parts: manifest, `main.rs`, `shape.rs`, the step loop.
    pub skeleton: Skeleton,
}

/// Writes what joins the parts: paths in the crate, each with its text.
pub type Skeleton = fn(&Assembly<'_>) -> Result<Vec<(&'static str, String)>, EmitError>;

/// Where the emitted crate will stand, which decides how its manifest names Savile's own crates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `generated/NAME/` in the repository: a member of its workspace.
    Workspace,
    /// Any other folder: a workspace of its own.
    Elsewhere {
        /// The path of the repository, as the manifest is to write it.
        savile: String,
    },
}

/// Everything the chosen mechanisms contributed, sorted for the skeleton.
#[derive(Debug)]
pub struct Assembly<'a> {
    /// What is served.
    pub job: Job<'a>,
    /// The decisions.
    pub plan: &'a Plan,
    /// The blocks and bytes reserved.
    pub memory: &'a MemoryPlan,
    /// Where the crate will stand.
    pub place: &'a Place,
    /// The weight image, as the binary's `--help` and default name it.
    pub weights: &'a str,
    /// What the weight image holds.
    pub recipe: Recipe,
    /// Constants for `shape.rs`, in axis order.
    pub consts: Vec<Const>,
    /// What the engine owns beside what every engine owns.
    pub fields: Vec<Field>,
    /// Lines of the step loop.
    pub calls: Vec<Call>,
    /// Paths of the files that the mechanisms wrote, sorted.
    pub paths: Vec<String>,
}

/// A constant of `shape.rs`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Const {
    /// The axis whose decision brought it.
    pub axis: Axis,
    /// Its name.
    pub name: &'static str,
    /// Its type, as written.
    pub ty: &'static str,
    /// Its value, as written.
    pub value: String,
    /// Its documentation.
    pub why: String,
}

/// A field of the engine.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub ty: &'static str,
    /// Where the type lives.
    pub import: &'static str,
    /// The expression that makes it.
    pub make: &'static str,
    /// The plan's reason.
    pub why: String,
}

/// A line of the step loop.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Call {
    /// When it runs.
    #[serde(skip)]
    pub stage: Stage,
    /// The statement.
    pub code: &'static str,
    /// The plan's reason, where the statement does not say it.
    pub why: Option<String>,
}

impl Assembly<'_> {
    /// The lines of one stage.
    pub fn at(&self, stage: Stage) -> Vec<Call> {
        self.calls.iter().filter(|call| call.stage == stage).cloned().collect()
    }
}

/// Why a crate could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// A decision lacks a knob that its mechanism reads.
    #[error(
        "the plan's decision `{mechanism}` lacks the knob `{knob}`; set it, or delete the decision to have it made anew"
    )]
    MissingKnob {
        /// The mechanism.
        mechanism: String,
        /// The knob.
        knob: &'static str,
    },
    /// The plan has no decision on an axis, or names a mechanism that is not in the catalogue.
    #[error("the plan has no usable decision on {axis}; delete the plan to have it made anew")]
    Undecided {
        /// The axis.
        axis: Axis,
    },
    /// A mechanism cannot be written together with another decision of the plan.
    #[error("`{mechanism}` cannot be written: {why}")]
    Conflict {
        /// The mechanism.
        mechanism: &'static str,
        /// What stands against it.
        why: String,
    },
    /// A template was refused.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A file is not Rust.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A file was refused.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Writes the crate of a plan.
///
/// `weights` is the weight image as the emitted binary names it by default.
///
/// # Errors
/// [`EmitError`] if the plan does not match the catalogue or a piece cannot be formatted.
pub fn emit(
    job: Job<'_>,
    plan: &Plan,
    memory: &MemoryPlan,
    place: &Place,
    weights: &str,
    catalogue: &Catalogue,
) -> Result<SourceTree, EmitError> {
    let job = decided(job, plan, catalogue);
    let mut tree = SourceTree::default();
    let mut assembly = Assembly {
        job,
        plan,
        memory,
        place,
        weights,
        recipe: Recipe::default(),
        consts: Vec::new(),
        fields: Vec::new(),
        calls: Vec::new(),
        paths: Vec::new(),
    };
    for (axis, part) in parts(job, plan, memory, catalogue)? {
        file(part, axis, &mut assembly, &mut tree)?;
    }
    assembly.paths.sort();
    for (path, text) in (catalogue.skeleton)(&assembly)? {
        insert(&mut tree, path, &text)?;
    }
    Ok(tree)
}

/// The job with what a plan decided that later axes look at.
fn decided<'a>(job: Job<'a>, plan: &Plan, catalogue: &Catalogue) -> Job<'a> {
    let mechanisms = catalogue.mechanisms;
    Job {
        held: planner::held(plan, mechanisms),
        rate: planner::rate(plan, mechanisms),
        kv: planner::kv(plan, mechanisms),
        ..job
    }
}

/// What the weight image of a plan's crate holds.
///
/// # Errors
/// [`EmitError`] if the plan does not match the catalogue.
pub fn recipe(
    job: Job<'_>,
    plan: &Plan,
    memory: &MemoryPlan,
    catalogue: &Catalogue,
) -> Result<Recipe, EmitError> {
    let job = decided(job, plan, catalogue);
    let parts = parts(job, plan, memory, catalogue)?;
    let tensors = parts.into_iter().filter_map(|(_, part)| match part {
        Part::Tensor(tensor) => Some(tensor),
        _ => None,
    });
    Ok(Recipe { tensors: tensors.collect() })
}

/// What the mechanisms of a plan contribute, axis by axis.
fn parts(
    job: Job<'_>,
    plan: &Plan,
    memory: &MemoryPlan,
    catalogue: &Catalogue,
) -> Result<Vec<(Axis, Part)>, EmitError> {
    let mut parts = Vec::new();
    for axis in Axis::ALL {
        let decision = plan.on(axis).ok_or(EmitError::Undecided { axis })?;
        if decision.is_none() {
            continue;
        }
        let mechanism = catalogue
            .mechanisms
            .iter()
            .find(|it| it.axis() == axis && it.name() == decision.mechanism)
            .ok_or(EmitError::Undecided { axis })?;
        let contributed = mechanism.parts(&Site { job, plan, decision, memory })?;
        parts.extend(contributed.into_iter().map(|part| (axis, part)));
    }
    Ok(parts)
}

/// Puts one part where it belongs.
fn file(part: Part, axis: Axis, assembly: &mut Assembly<'_>, tree: &mut SourceTree) -> Result<(), EmitError> {
    match part {
        Part::Source { path, text } => {
            assembly.paths.push(path.to_owned());
            insert(tree, path, text)?;
        }
        Part::Rendered { path, text } => {
            assembly.paths.push(path.to_owned());
            insert(tree, path, &text)?;
        }
        Part::Field { name, ty, import, make, why } => {
            assembly.fields.push(Field { name, ty, import, make, why });
        }
        Part::Call { stage, code, why } => assembly.calls.push(Call { stage, code, why }),
        Part::Tensor(tensor) => assembly.recipe.tensors.push(tensor),
        Part::Const { name, ty, value, why } => assembly.consts.push(Const { axis, name, ty, value, why }),
    }
    Ok(())
}

fn insert(tree: &mut SourceTree, path: &str, text: &str) -> Result<(), EmitError> {
    if path.ends_with(".rs") {
        tree.insert(path, wrap_comments(&format_rust(path, text)?))?;
    } else {
        tree.insert(path, text.to_owned())?;
    }
    Ok(())
}

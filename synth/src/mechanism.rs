//! What one way to serve must say of itself: when it fits, what it costs, and how it is written.

use std::{collections::BTreeMap, fmt};

use crate::{
    axis::Axis,
    calibration::{Calibration, Candidate},
    emit::EmitError,
    feasibility::MemoryPlan,
    held::{Format, Held},
    image::Tensor,
    model::Model,
    plan::{Decision, Plan},
    target::Isa,
    workload::{Precision, Workload},
};

/// Whole numbers that tune a mechanism, by name.
pub type Knobs = BTreeMap<String, u64>;

/// What is to be served and on what: all that a rule may look at.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// What the spec asks for.
    pub workload: &'a Workload,
    /// The facts read from the model folder.
    pub model: &'a Model,
    /// The instruction set that `target.cpu.isa` was resolved to. Pinned by the plan.
    pub isa: Isa,
    /// What rounding costs, where the tolerance leaves room for any and it was measured.
    pub calibration: Option<&'a Calibration>,
    /// How weights are held, once that is decided: every axis after `weights` may look at it.
    pub held: Option<Held>,
    /// Floating-point operations a second that a thread of the kernels does over many rows, once they are decided.
    pub rate: Option<f64>,
    /// The format that keys and values are kept in, once that is decided.
    pub kv: Option<Precision>,
}

/// One way to serve, and how to write it. One folder of `templates/` implements it once.
pub trait Mechanism: fmt::Debug + Sync {
    /// Its name in plans and ledgers, and the name of its folder.
    fn name(&self) -> &'static str;
    /// The question it answers.
    fn axis(&self) -> Axis;
    /// What it is, in one sentence without a full stop, for the catalogue.
    fn summary(&self) -> &'static str;
    /// What it may change about the answer.
    fn guarantee(&self) -> Guarantee;
    /// The numbers that tune it, each with the values worth trying. Its fit sets those that a job has a use for.
    fn knobs(&self) -> &'static [KnobSpec] {
        &[]
    }

    /// What must be measured of the model before [`fit`](Self::fit) can answer; `None` where nothing, or where it was.
    fn unmeasured(&self, _: &Job<'_>) -> Option<Candidate> {
        None
    }

    /// How it holds weights with these knobs, on the axis of weights.
    fn holds(&self, _: &Knobs) -> Option<Held> {
        None
    }
    /// Floating-point operations a second that one thread does when it multiplies many rows by weights held so, on the
    /// axis of kernels: as measured where the kernels were written, since no plan may depend on the machine that plans.
    fn rate(&self, _: Held) -> Option<f64> {
        None
    }
    /// Bytes that `rows` rows of `k` activations take as the left operand of a product by weights held so, on the axis of
    /// kernels. In f32, unless they are held otherwise.
    fn operand_bytes(&self, _: Format, rows: usize, k: usize) -> usize {
        rows * k * size_of::<f32>()
    }
    /// The format it keeps keys and values in, on the axis of KV.
    fn caches(&self) -> Option<Precision> {
        None
    }
    /// Whether this job wants it, with the estimate that says so.
    fn fit(&self, job: &Job<'_>) -> Fit;
    /// What it adds to the crate. Called only when it was chosen.
    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError>;
}

/// Where a chosen mechanism is being written: the job, the whole plan, and its own decision.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// What is served.
    pub job: Job<'a>,
    /// Every decision, for the mechanisms that must agree with another axis.
    pub plan: &'a Plan,
    /// The decision that chose the mechanism being written.
    pub decision: &'a Decision,
    /// Blocks and bytes that the plan reserves.
    pub memory: &'a MemoryPlan,
}

impl Site<'_> {
    /// The value this decision gives to one of the mechanism's own knobs.
    pub fn knob(&self, name: &'static str) -> Result<u64, EmitError> {
        self.decision
            .knobs
            .get(name)
            .copied()
            .ok_or(EmitError::MissingKnob { mechanism: self.decision.mechanism.clone(), knob: name })
    }
}

/// What a mechanism may change about the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// The same tokens as the oracle.
    Exact,
    /// The same distribution over tokens as the oracle.
    Distribution,
    /// Within the spec's tolerance of the oracle.
    Bounded,
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exact => "exact",
            Self::Distribution => "distribution",
            Self::Bounded => "bounded",
        })
    }
}

/// A number that tunes a mechanism.
#[derive(Debug, Clone, Copy)]
pub struct KnobSpec {
    /// Its key in the plan.
    pub name: &'static str,
    /// What it counts.
    pub doc: &'static str,
    /// The values a search tries, ascending.
    pub values: &'static [u64],
    /// Whether there is code for these values and no others.
    pub is_closed: bool,
}

/// A rule's answer to one job.
#[derive(Debug, Clone)]
pub enum Fit {
    /// It does not fit, and why.
    No {
        /// A clause without a full stop.
        why: String,
    },
    /// It fits.
    Yes {
        /// What one decoded token costs with it.
        cost: Cost,
        /// A sentence. `explain` prints it and the emitted crate carries it as a comment.
        reason: String,
        /// The values chosen for its knobs.
        knobs: Knobs,
    },
}

impl Fit {
    /// A refusal with its reason.
    pub fn no(why: impl Into<String>) -> Self {
        Self::No { why: why.into() }
    }

    /// A fit without knobs.
    pub fn yes(cost: Cost, reason: impl Into<String>) -> Self {
        Self::Yes { cost, reason: reason.into(), knobs: Knobs::new() }
    }

    /// The same fit with one knob set. A refusal has none.
    #[must_use]
    pub fn with(mut self, name: &str, value: u64) -> Self {
        if let Self::Yes { knobs, .. } = &mut self {
            knobs.insert(name.to_owned(), value);
        }
        self
    }
}

/// What one decoded token of one sequence costs on this axis, at the median context of the spec.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Bytes read from memory.
    pub bytes: f64,
    /// Instructions that multiply and add vectors or tiles, where the token is computed alone: as they can be counted.
    pub instructions: f64,
    /// Seconds that one thread computes for the token beside many others: a tile then serves sixteen rows. Alone it takes up
    /// to sixteen times as long, and still less than reading the weights.
    pub compute: f64,
}

impl Cost {
    /// Seconds of `threads` threads that read so many bytes a second together: bound by whichever takes longer.
    pub fn seconds(self, bytes_per_second: f64, threads: usize) -> f64 {
        (self.bytes / bytes_per_second).max(self.compute / threads as f64)
    }
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            instructions: self.instructions + other.instructions,
            compute: self.compute + other.compute,
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), std::ops::Add::add)
    }
}

/// A piece of the emitted crate.
#[derive(Debug, Clone)]
pub enum Part {
    /// A file copied as it stands.
    Source {
        /// Where it goes in the crate.
        path: &'static str,
        /// Its text.
        text: &'static str,
    },
    /// A file made from a template.
    Rendered {
        /// Where it goes in the crate.
        path: &'static str,
        /// Its text.
        text: String,
    },
    /// Something the engine owns.
    Field {
        /// The field's name.
        name: &'static str,
        /// Its type, as written.
        ty: &'static str,
        /// The path to import the type from.
        import: &'static str,
        /// The expression that makes it, before the server is ready.
        make: &'static str,
        /// Why it is there: the plan's reason.
        why: String,
    },
    /// A line at one stage of the step loop.
    Call {
        /// When it runs.
        stage: Stage,
        /// The statement.
        code: &'static str,
        /// Why it is there, if the statement does not say it: the plan's reason.
        why: Option<String>,
    },
    /// A tensor of the weight image, in the order in which a step reads them.
    Tensor(Tensor),
    /// A number of this job, for `shape.rs`.
    Const {
        /// Its name.
        name: &'static str,
        /// Its type, as written.
        ty: &'static str,
        /// Its value, as written.
        value: String,
        /// The reason, which becomes its documentation.
        why: String,
    },
}

impl Part {
    /// A constant of type `usize`.
    pub fn count(name: &'static str, value: usize, why: impl Into<String>) -> Self {
        Self::Const { name, ty: "usize", value: literal(value), why: why.into() }
    }
}

/// A whole number as a person writes it in Rust: `151_936`.
pub fn literal(value: usize) -> String {
    let digits = value.to_string();
    if digits.len() <= 4 {
        return digits;
    }
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

/// The stages of a step that mechanisms may add a line to, in the order they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A request became a sequence; its first blocks may already exist.
    Match,
    /// Its remaining blocks were reserved; whatever they held is gone.
    Reserve,
    /// Tokens were committed; full blocks may be worth remembering.
    Commit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_as_a_person_writes_them() {
        for (value, text) in
            [(0, "0"), (4096, "4096"), (10_240, "10_240"), (151_936, "151_936"), (1_000_000, "1_000_000")]
        {
            assert_eq!(literal(value), text);
        }
    }

    #[test]
    fn the_slower_of_memory_and_arithmetic_sets_the_time() {
        let cost = Cost { bytes: 8.0, instructions: 100.0, compute: 2.0 };
        assert_eq!(cost.seconds(2.0, 2), 4.0);
        assert_eq!(cost.seconds(16.0, 2), 1.0);
    }
}

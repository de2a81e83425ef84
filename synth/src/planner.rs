//! Asks every mechanism, settles each axis, keeps the reasons.

use std::collections::BTreeMap;

use crate::{
    axis::Axis,
    mechanism::{Cost, Fit, Job, Knobs, Mechanism},
    plan::{Author, Decision, NONE, Plan, VERSION},
};

/// What a mechanism answered when it was asked, for `explain`.
#[derive(Debug)]
pub struct Answer {
    /// The mechanism asked.
    pub mechanism: &'static dyn Mechanism,
    /// What it said.
    pub fit: Fit,
}

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanningError {
    /// An axis that must be answered has no fitting mechanism.
    #[error("no mechanism on the axis {axis} fits this workload: {refusals}")]
    Unanswered {
        /// The axis.
        axis: Axis,
        /// Each mechanism with its reason.
        refusals: String,
    },
    /// The plan names a mechanism that is not in the catalogue.
    #[error(
        "the plan's decision on {axis} names `{mechanism}`, which is not in the catalogue; the axis has {known}"
    )]
    Unknown {
        /// The axis.
        axis: Axis,
        /// The name found.
        mechanism: String,
        /// The names there are.
        known: String,
    },
    /// A decision by a person or a search does not fit this workload any more.
    #[error(
        "the plan's decision on {axis} (by {by}) is `{mechanism}`, which does not fit: {why}; delete the decision to have it made anew"
    )]
    NoLongerFits {
        /// The axis.
        axis: Axis,
        /// The mechanism.
        mechanism: String,
        /// Who decided.
        by: Author,
        /// The mechanism's own refusal.
        why: String,
    },
    /// The plan holds a knob that its mechanism does not have.
    #[error("the plan's decision on {axis} sets `{knob}`, which {mechanism} does not have; it has {known}")]
    UnknownKnob {
        /// The axis.
        axis: Axis,
        /// The mechanism.
        mechanism: String,
        /// The knob found.
        knob: String,
        /// The knobs there are.
        known: String,
    },
}

/// Instructions that one byte read from memory is worth, when two mechanisms of an axis are compared.
///
/// Two cores with 8-lane multiply-adds at 3 GHz issue about 12e9 a second and read about 40e9 bytes: the
/// choice must not depend on the machine that happens to plan, so the balance is a constant and the measured
/// figures appear in `explain` alone.
const BYTES_PER_INSTRUCTION: f64 = 3.3;

/// Every mechanism's answer to a job, in catalogue order.
pub fn ask(job: &Job<'_>, catalogue: &[&'static dyn Mechanism]) -> Vec<Answer> {
    catalogue.iter().map(|&mechanism| Answer { mechanism, fit: mechanism.fit(job) }).collect()
}

/// Decides each axis. What a person or a search decided in `earlier` stands; rules are asked again.
///
/// # Errors
/// [`PlanningError`] if an axis cannot be answered or `earlier` names what does not exist.
pub fn plan(
    job: &Job<'_>,
    weights_digest: &str,
    earlier: Option<&Plan>,
    catalogue: &[&'static dyn Mechanism],
) -> Result<Plan, PlanningError> {
    let answers = ask(job, catalogue);
    let mut decisions = BTreeMap::new();
    for axis in Axis::ALL {
        let decision = match earlier.and_then(|plan| plan.on(axis)) {
            Some(decision) if decision.by != Author::Rule => keep(axis, decision, &answers)?,
            _ => decide(axis, &answers)?,
        };
        decisions.insert(axis, decision);
    }
    Ok(Plan {
        version: VERSION,
        workload: job.workload.name.clone(),
        isa: job.isa,
        weights: weights_digest.to_owned(),
        decisions,
    })
}

/// What one decoded token costs under a plan, summed over its axes.
pub fn cost(job: &Job<'_>, plan: &Plan, catalogue: &[&'static dyn Mechanism]) -> Cost {
    ask(job, catalogue)
        .into_iter()
        .filter(|answer| {
            plan.on(answer.mechanism.axis()).is_some_and(|it| it.mechanism == answer.mechanism.name())
        })
        .map(|answer| match answer.fit {
            Fit::Yes { cost, .. } => cost,
            Fit::No { .. } => Cost::default(),
        })
        .sum()
}

/// A decision by a person or a search, checked; missing knobs take the rule's values.
fn keep(axis: Axis, decision: &Decision, answers: &[Answer]) -> Result<Decision, PlanningError> {
    if decision.is_none() && axis.is_optional() {
        return Ok(decision.clone());
    }
    let Some(answer) = on(axis, answers).find(|it| it.mechanism.name() == decision.mechanism) else {
        return Err(PlanningError::Unknown {
            axis,
            mechanism: decision.mechanism.clone(),
            known: list(on(axis, answers).map(|it| it.mechanism.name())),
        });
    };
    let specs = answer.mechanism.knobs();
    if let Some(knob) = decision.knobs.keys().find(|knob| !specs.iter().any(|spec| spec.name == *knob)) {
        return Err(PlanningError::UnknownKnob {
            axis,
            mechanism: decision.mechanism.clone(),
            knob: knob.clone(),
            known: list(specs.iter().map(|spec| spec.name)),
        });
    }
    match &answer.fit {
        Fit::No { why } => Err(PlanningError::NoLongerFits {
            axis,
            mechanism: decision.mechanism.clone(),
            by: decision.by.clone(),
            why: why.clone(),
        }),
        Fit::Yes { knobs, .. } => {
            let mut kept = decision.clone();
            for (name, value) in knobs {
                kept.knobs.entry(name.clone()).or_insert(*value);
            }
            Ok(kept)
        }
    }
}

/// The cheapest fitting mechanism of an axis; the first in catalogue order when they cost the same.
fn decide(axis: Axis, answers: &[Answer]) -> Result<Decision, PlanningError> {
    let mut best: Option<(f64, Decision)> = None;
    let mut refusals = Vec::new();
    for answer in on(axis, answers) {
        match &answer.fit {
            Fit::No { why } => refusals.push(format!("{}: {why}", answer.mechanism.name())),
            Fit::Yes { cost, reason, knobs } => {
                let price = cost.seconds(BYTES_PER_INSTRUCTION, 1.0);
                if best.as_ref().is_none_or(|(lowest, _)| price < *lowest) {
                    best = Some((price, by_rule(answer.mechanism.name(), knobs.clone(), reason.clone())));
                }
            }
        }
    }
    match best {
        Some((_, decision)) => Ok(decision),
        None if axis.is_optional() => {
            Ok(by_rule(NONE, Knobs::new(), format!("Nothing fits: {}.", refusals.join("; "))))
        }
        None => Err(PlanningError::Unanswered { axis, refusals: refusals.join("; ") }),
    }
}

fn by_rule(mechanism: &str, knobs: Knobs, reason: String) -> Decision {
    Decision { mechanism: mechanism.to_owned(), knobs, reason, by: Author::Rule }
}

fn on(axis: Axis, answers: &[Answer]) -> impl Iterator<Item = &Answer> {
    answers.iter().filter(move |answer| answer.mechanism.axis() == axis)
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

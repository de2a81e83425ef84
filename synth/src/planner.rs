//! Asks every mechanism, settles each axis, keeps the reasons.

use std::collections::BTreeMap;

use crate::{
    axis::Axis,
    calibration::Candidate,
    held::Held,
    mechanism::{Cost, Fit, Job, Knobs, Mechanism},
    plan::{Author, Decision, NONE, Plan, VERSION},
    reading,
    workload::Precision,
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
    /// What a mechanism rounds is not in the calibration.
    #[error("on {axis}: what a mechanism rounds was not measured yet; `cargo xtask synth` measures it")]
    Unmeasured {
        /// The axis.
        axis: Axis,
        /// What is to be measured.
        candidates: Vec<Candidate>,
    },
    /// A knob holds a number that its mechanism has no code for.
    #[error("the plan's decision on {axis}: `{knob}` of {mechanism} is {value}, expected one of {known}")]
    KnobChoice {
        /// The axis.
        axis: Axis,
        /// The mechanism.
        mechanism: String,
        /// The knob.
        knob: String,
        /// The number found.
        value: u64,
        /// The numbers there are.
        known: String,
    },
    /// A knob holds a number that nothing can be made of.
    #[error(
        "the plan's decision on {axis}: `{knob}` of {mechanism} is {value}, expected a whole number from 1 to {most}"
    )]
    KnobValue {
        /// The axis.
        axis: Axis,
        /// The mechanism.
        mechanism: String,
        /// The knob.
        knob: String,
        /// The number found.
        value: u64,
        /// The largest that there may be.
        most: u64,
    },
    /// A reason is no sentence that the emitted crate can carry.
    #[error("the plan's decision on {axis}: the reason {why}; the emitted crate carries it as a comment")]
    Reason {
        /// The axis.
        axis: Axis,
        /// What is wrong with it.
        why: String,
    },
    /// The plan holds a knob that its mechanism does not have, or has no use for in this job.
    #[error(
        "the plan's decision on {axis} sets `{knob}`, which {mechanism} does not have here; it has {known}"
    )]
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

/// Bytes a second that one thread reads, when two mechanisms of an axis are compared: those of the machine on which the rates
/// of the kernels were measured. The choice must not depend on the machine that happens to plan; what that one reads appears
/// in `explain` alone.
const BYTES_PER_SECOND: f64 = 16e9;

/// Every mechanism's answer to a job, in catalogue order.
pub fn ask(job: &Job<'_>, catalogue: &[&'static dyn Mechanism]) -> Vec<Answer> {
    catalogue.iter().map(|&mechanism| Answer { mechanism, fit: mechanism.fit(job) }).collect()
}

/// Decides each axis in order, so that those after `weights` know how weights are held, and those after `kernels` how fast
/// many rows are computed. What a person or a search decided in `earlier` stands; rules are asked again.
///
/// # Errors
/// [`PlanningError`] if an axis cannot be answered, something is to be measured first, or `earlier` names what does not
/// exist.
pub fn plan(
    job: &Job<'_>,
    weights_digest: &str,
    earlier: Option<&Plan>,
    catalogue: &[&'static dyn Mechanism],
) -> Result<Plan, PlanningError> {
    let mut job = *job;
    let mut decisions = BTreeMap::new();
    for axis in Axis::ALL {
        let of_axis = catalogue.iter().filter(|it| it.axis() == axis);
        let candidates: Vec<_> = of_axis.filter_map(|it| it.unmeasured(&job)).collect();
        if !candidates.is_empty() {
            return Err(PlanningError::Unmeasured { axis, candidates });
        }
        let answers = ask(&job, catalogue);
        let decision = match earlier.and_then(|plan| plan.on(axis)) {
            Some(decision) if decision.by != Author::Rule => keep(axis, decision, &answers)?,
            _ => decide(axis, &answers)?,
        };
        if axis == Axis::Weights {
            job.held = holds(&decision, catalogue);
        }
        if axis == Axis::Kernels {
            job.rate = rate_of(&decision, job.held, catalogue);
        }
        if axis == Axis::Kv {
            job.kv = chosen(&decision, catalogue).and_then(|it| it.caches());
        }
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

/// How a plan holds weights; `None` where it has no decision on that.
pub fn held(plan: &Plan, catalogue: &[&'static dyn Mechanism]) -> Option<Held> {
    holds(plan.on(Axis::Weights)?, catalogue)
}

/// The format that a plan keeps keys and values in; `None` where it has no decision on that.
pub fn kv(plan: &Plan, catalogue: &[&'static dyn Mechanism]) -> Option<Precision> {
    chosen(plan.on(Axis::Kv)?, catalogue)?.caches()
}

/// The mechanism that a plan chose on an axis; `None` where it has no decision on that, or chose nothing.
pub fn on_axis(
    plan: &Plan,
    axis: Axis,
    catalogue: &[&'static dyn Mechanism],
) -> Option<&'static dyn Mechanism> {
    chosen(plan.on(axis)?, catalogue)
}

fn chosen(decision: &Decision, catalogue: &[&'static dyn Mechanism]) -> Option<&'static dyn Mechanism> {
    catalogue.iter().copied().find(|it| it.name() == decision.mechanism)
}

fn holds(decision: &Decision, catalogue: &[&'static dyn Mechanism]) -> Option<Held> {
    chosen(decision, catalogue)?.holds(&decision.knobs)
}

/// Operations a second and thread of a plan's kernels over many rows; `None` where it has no decision on that.
pub fn rate(plan: &Plan, catalogue: &[&'static dyn Mechanism]) -> Option<f64> {
    rate_of(plan.on(Axis::Kernels)?, held(plan, catalogue), catalogue)
}

fn rate_of(decision: &Decision, held: Option<Held>, catalogue: &[&'static dyn Mechanism]) -> Option<f64> {
    chosen(decision, catalogue)?.rate(held?)
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
        return Ok(Decision { reason: reason(axis, decision)?, ..decision.clone() });
    }
    let Some(answer) = on(axis, answers).find(|it| it.mechanism.name() == decision.mechanism) else {
        return Err(PlanningError::Unknown {
            axis,
            mechanism: decision.mechanism.clone(),
            known: list(on(axis, answers).map(|it| it.mechanism.name())),
        });
    };
    match &answer.fit {
        Fit::No { why } => Err(PlanningError::NoLongerFits {
            axis,
            mechanism: decision.mechanism.clone(),
            by: decision.by.clone(),
            why: why.clone(),
        }),
        Fit::Yes { knobs, .. } => {
            let specs = answer.mechanism.knobs().iter().filter(|spec| knobs.contains_key(spec.name));
            if let Some(knob) = decision.knobs.keys().find(|knob| !knobs.contains_key(*knob)) {
                return Err(PlanningError::UnknownKnob {
                    axis,
                    mechanism: decision.mechanism.clone(),
                    knob: knob.clone(),
                    known: list(specs.map(|spec| spec.name)),
                });
            }
            let mut kept = Decision { reason: reason(axis, decision)?, ..decision.clone() };
            for (name, value) in knobs {
                kept.knobs.entry(name.clone()).or_insert(*value);
            }
            for spec in specs {
                // What a search tries, or what the rule itself would take where that is more.
                let most = spec.values.iter().copied().fold(knobs[spec.name], u64::max);
                let value = kept.knobs[spec.name];
                if spec.is_closed && !spec.values.contains(&value) {
                    return Err(PlanningError::KnobChoice {
                        axis,
                        mechanism: decision.mechanism.clone(),
                        knob: spec.name.to_owned(),
                        value,
                        known: list(spec.values.iter().map(ToString::to_string)),
                    });
                }
                if !(1..=most).contains(&value) {
                    return Err(PlanningError::KnobValue {
                        axis,
                        mechanism: decision.mechanism.clone(),
                        knob: spec.name.to_owned(),
                        value,
                        most,
                    });
                }
            }
            Ok(kept)
        }
    }
}

/// The reason of a person or a search as a comment has it: a sentence on one line.
fn reason(axis: Axis, decision: &Decision) -> Result<String, PlanningError> {
    let mut reason = decision.reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let refused = |why| Err(PlanningError::Reason { axis, why });
    if reason.split(' ').count() < 3 {
        return refused(format!("`{reason}` is no sentence; say why it was decided so"));
    }
    if let Some(unseen) = reason.chars().find(|c| c.is_control() || is_directional(*c)) {
        return refused(format!("holds `{}`, which no one can see", unseen.escape_unicode()));
    }
    if let Some(word) = reading::unfit_word(&reason) {
        return refused(format!("holds the word `{word}`, which no emitted file does"));
    }
    if !reason.ends_with(['.', '!', '?']) {
        reason.push('.');
    }
    Ok(reason)
}

/// Marks that change the direction of what follows; rustc refuses them in comments.
fn is_directional(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The cheapest fitting mechanism of an axis; the first in catalogue order when they cost the same.
fn decide(axis: Axis, answers: &[Answer]) -> Result<Decision, PlanningError> {
    let mut best: Option<(f64, Decision)> = None;
    let mut refusals = Vec::new();
    for answer in on(axis, answers) {
        match &answer.fit {
            Fit::No { why } => refusals.push(format!("{}: {why}", answer.mechanism.name())),
            Fit::Yes { cost, reason, knobs } => {
                let price = cost.seconds(BYTES_PER_SECOND, 1);
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

fn list(names: impl Iterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<_> = names.map(|name| name.as_ref().to_owned()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        emit::EmitError,
        mechanism::{Guarantee, KnobSpec, Part, Site},
        model::{Model, tests::folder::Folder},
        target::Isa,
        workload::Workload,
    };

    /// A mechanism that fits every job.
    #[derive(Debug)]
    struct Willing(Axis);

    impl Mechanism for Willing {
        fn name(&self) -> &'static str {
            "willing"
        }

        fn axis(&self) -> Axis {
            self.0
        }

        fn summary(&self) -> &'static str {
            "fits every job"
        }

        fn guarantee(&self) -> Guarantee {
            Guarantee::Exact
        }

        fn knobs(&self) -> &'static [KnobSpec] {
            &[
                KnobSpec { name: "size", doc: "how large it is", values: &[8, 64], is_closed: false },
                KnobSpec { name: "kind", doc: "which it is", values: &[2, 4], is_closed: true },
                KnobSpec { name: "angle", doc: "of no use here", values: &[90], is_closed: true },
            ]
        }

        fn fit(&self, _: &Job<'_>) -> Fit {
            Fit::yes(Cost::default(), "It fits everything.").with("size", 100).with("kind", 4)
        }

        fn parts(&self, _: &Site<'_>) -> Result<Vec<Part>, EmitError> {
            Ok(Vec::new())
        }
    }

    const CATALOGUE: [&dyn Mechanism; 7] = [
        &Willing(Axis::Family),
        &Willing(Axis::Weights),
        &Willing(Axis::Kernels),
        &Willing(Axis::Kv),
        &Willing(Axis::Schedule),
        &Willing(Axis::Prefix),
        &Willing(Axis::Sample),
    ];

    /// Plans anew after the decision on the KV axis was changed by hand.
    fn replan(change: impl Fn(&mut Decision)) -> Result<Decision, PlanningError> {
        let folder = Folder::qwen3();
        let spec = "\
name: small
model: { path: . }
target: { cpu: { threads: 2, memory: 1MiB } }
traffic:
  arrivals: { poisson: 4.0 }
  prompt: { p50: 20, p99: 40, max: 50 }
  output: { p50: 10, p99: 20, max: 30 }
";
        let workload = Workload::parse(&folder.path().join("spec.yaml"), spec).expect("the spec is valid");
        let model = Model::read(folder.path()).expect("the folder is valid");
        let job = Job {
            workload: &workload,
            model: &model,
            isa: Isa::Scalar,
            calibration: None,
            held: None,
            rate: None,
            kv: None,
        };
        let mut earlier = plan(&job, "0", None, &CATALOGUE).expect("everything fits");
        let decision = earlier.decisions.get_mut(&Axis::Kv).expect("every axis is decided");
        decision.by = Author::User;
        change(decision);
        plan(&job, "0", Some(&earlier), &CATALOGUE)
            .map(|mut plan| plan.decisions.remove(&Axis::Kv).expect("it is decided"))
    }

    #[test]
    fn a_decision_by_hand_stands_and_missing_knobs_are_the_rules() {
        for size in [1, 8, 64, 100] {
            let decided = replan(|decision| {
                decision.knobs.insert("size".into(), size);
            });
            let knobs = decided.expect("it fits").knobs;
            assert_eq!(knobs, Knobs::from([("size".into(), size), ("kind".into(), 4)]));
        }
        let decided = replan(|decision| decision.knobs.clear()).expect("it fits");
        assert_eq!((decided.knobs["size"], decided.by), (100, Author::User));
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_with_what_there_is() {
        let refused = |change: &dyn Fn(&mut Decision)| replan(change).expect_err("it is refused").to_string();
        for size in [0, 101, u64::MAX] {
            let message = refused(&|decision| {
                decision.knobs.insert("size".into(), size);
            });
            let expected =
                format!("on kv: `size` of willing is {size}, expected a whole number from 1 to 100");
            assert!(message.contains(&expected), "{message}");
        }
        let message = refused(&|decision| {
            decision.knobs.insert("kind".into(), 3);
        });
        assert!(message.contains("on kv: `kind` of willing is 3, expected one of 2, 4"), "{message}");
        for (knob, value) in [("sise", 8), ("angle", 90)] {
            let message = refused(&|decision| {
                decision.knobs.insert(knob.into(), value);
            });
            let expected = format!("sets `{knob}`, which willing does not have here; it has size, kind");
            assert!(message.contains(&expected), "{message}");
        }
        let message = refused(&|decision| decision.mechanism = "wiling".into());
        assert!(
            message.contains("names `wiling`, which is not in the catalogue; the axis has willing"),
            "{message}"
        );
    }

    #[test]
    fn a_reason_by_hand_becomes_one_line_or_is_refused() {
        let reason =
            |text: &str| replan(|decision| decision.reason = text.into()).map(|decision| decision.reason);
        let one_line = reason("Measured\n\n  on Tuesday,\r\nit\u{2028}won").expect("it is a sentence");
        assert_eq!(one_line, "Measured on Tuesday, it won.");
        for (text, expected) in [
            ("", "is no sentence"),
            (" \n", "is no sentence"),
            ("Faster.", "is no sentence"),
            ("TODO find out.", "the word `TODO`"),
            ("As the generated code shows.", "the word `generated`"),
            ("It is \u{202e} reversed here.", r"holds `\u{202e}`"),
            ("It rings \u{7} a bell.", r"holds `\u{7}`"),
        ] {
            let message = reason(text).expect_err("it is refused").to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }
}

//! The proof: what was checked of one binary, and with what result.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use synth::calibration::Divergence;
use synth::workload::Tolerance;

use crate::build::Artifact;

/// The version of the format. Version 1 had no held-out text, and reads as one that has none; a reader refuses any other.
pub const VERSION: u32 = 2;

/// Failures of one surface that are kept in words; the rest are counted.
const KEPT: usize = 5;

/// What was checked of one binary, and with what result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The format's version.
    pub version: u32,
    /// The workload's name.
    pub name: String,
    /// Whether the binary may be benched and shipped.
    pub verdict: Verdict,
    /// What was proven.
    pub digests: Digests,
    /// One line for each surface, in the order they were checked.
    pub surfaces: Vec<Surface>,
    /// How far the binary's numbers are from the oracle's.
    pub measures: Measures,
    /// The perplexity of held-out text, where the server scores prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOut>,
    /// Sequences that were sent.
    pub n_cases: usize,
    /// Tokens that the oracle computed.
    pub n_oracle_tokens: usize,
}

/// Pass only if every surface passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No case failed.
    Pass,
    /// At least one did, or none could be checked.
    Fail,
}

/// SHA-256 (hex) of what was proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// The program.
    pub binary: String,
    /// The spec's meaning.
    pub spec: String,
    /// The plan's decisions.
    pub plan: String,
    /// The weight files.
    pub weights: String,
}

/// One way of executing the same request, and the law that must hold on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surface {
    /// A short name, stable between versions.
    pub name: String,
    /// The law, in a sentence.
    pub law: String,
    /// Whether it held.
    pub verdict: Verdict,
    /// How often it was put to the test.
    pub cases: usize,
    /// How often it did not hold.
    pub n_failures: usize,
    /// The first failures, in words.
    pub failures: Vec<String>,
    /// What shows that the surface was really executed, where the binary leaves a trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// How far the binary's log-probabilities are from the oracle's, teacher-forced.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measures {
    /// Positions compared.
    pub positions: usize,
    /// Mean |Δlogprob|, nats, of the tokens that stand there and of the binary's likeliest ones.
    pub logprob_mean: f64,
    /// 99th percentile of |Δlogprob|, nats.
    pub logprob_p99: f64,
    /// Largest |Δlogprob|, nats.
    pub logprob_max: f64,
    /// Mean Kullback-Leibler divergence from the oracle to the binary, nats, over the binary's likeliest tokens and
    /// all others as one; never more than the divergence over the whole vocabulary.
    pub kl_mean: f64,
    /// 99.9th percentile of that divergence.
    pub kl_p999: f64,
    /// Most log-probability, by the oracle, that the binary's likeliest token gives away at a position, nats.
    pub regret_max: f64,
    /// Share of positions, ties apart, whose likeliest token is the oracle's.
    pub same_top: f64,
    /// Positions whose two likeliest tokens are closer than the noise of f32.
    pub ties: usize,
    /// Greedy tokens that equal the oracle's.
    pub greedy_tokens: usize,
    /// Sequences whose comparison ended at a tie.
    pub greedy_tied: usize,
}

/// Perplexity on text that decided nothing, teacher-forced.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// What the text is.
    pub source: Source,
    /// Positions scored.
    pub positions: usize,
    /// The oracle's perplexity.
    pub oracle_perplexity: f64,
    /// The binary's over the oracle's: above 1 it predicts worse.
    pub perplexity_ratio: f64,
}

/// What held-out text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Text that was kept from training.
    Text,
    /// The spec's samples that are no cases.
    Samples,
    /// Drawn tokens, for a model of which no such text is at hand.
    Drawn,
}

/// A surface while it is being checked.
#[derive(Debug)]
pub(super) struct Check(Surface);

impl Check {
    pub(super) fn new(name: &str, law: &str) -> Self {
        Self(Surface {
            name: name.to_owned(),
            law: law.to_owned(),
            verdict: Verdict::Pass,
            cases: 0,
            n_failures: 0,
            failures: Vec::new(),
            evidence: None,
        })
    }

    /// Counts one case, and its failure if there is one.
    pub(super) fn case(&mut self, name: &str, failure: Option<String>) {
        self.0.cases += 1;
        if let Some(failure) = failure {
            self.0.n_failures += 1;
            if self.0.failures.len() < KEPT {
                self.0.failures.push(format!("{name}: {failure}"));
            }
        }
    }

    /// Counts one case that holds if `holds`; else `failure` says what was seen.
    pub(super) fn expect(&mut self, name: &str, holds: bool, failure: impl FnOnce() -> String) {
        self.case(name, (!holds).then(failure));
    }

    pub(super) fn evidence(&mut self, evidence: String) {
        self.0.evidence = Some(evidence);
    }

    /// The surface. One on which nothing could be checked has failed: silence is no proof.
    pub(super) fn done(mut self) -> Surface {
        if self.0.cases == 0 {
            self.case("all", Some("nothing could be checked".to_owned()));
        }
        if self.0.n_failures > 0 {
            self.0.verdict = Verdict::Fail;
        }
        self.0
    }
}

impl Measures {
    /// The measures that break a bound of the spec's tolerance, in words.
    pub(super) fn broken(&self, tolerance: Tolerance) -> Vec<String> {
        let bounds = match tolerance {
            Tolerance::Exact => EXACT,
            bounded => bounded,
        };
        let Self { kl_mean, kl_p999, same_top, logprob_p99, .. } = *self;
        let broken = Divergence { kl_mean, kl_p999, same_top, logprob_p99 }.broken(bounds);
        let mut broken: Vec<String> = broken.into_iter().map(|it| it.why).collect();
        if self.positions == 0 {
            broken.push("no position was compared".to_owned());
        }
        broken
    }
}

/// Under `tokens: exact`: f32 sums of another order stay far below this |Δlogprob|, a wrong operation far above.
const EXACT: Tolerance =
    Tolerance::Bounded { logprob_p99: 1e-3, same_top: 1.0, kl_mean: f64::INFINITY, kl_p999: f64::INFINITY };

impl Proof {
    /// A proof of which nothing is checked yet: a failed one.
    pub(super) fn of(artifact: &Artifact) -> Self {
        Self {
            version: VERSION,
            name: artifact.name.clone(),
            verdict: Verdict::Fail,
            digests: Digests {
                binary: artifact.binary_digest.clone(),
                spec: artifact.spec_digest.clone(),
                plan: artifact.plan_digest.clone(),
                weights: artifact.weights_digest.clone(),
            },
            surfaces: Vec::new(),
            measures: Measures::default(),
            held_out: None,
            n_cases: 0,
            n_oracle_tokens: 0,
        }
    }

    /// The same proof with the verdict that its surfaces give it.
    pub(super) fn judged(mut self) -> Self {
        let holds = !self.surfaces.is_empty() && self.failed().next().is_none();
        self.verdict = if holds { Verdict::Pass } else { Verdict::Fail };
        self
    }

    /// The surfaces that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Surface> {
        self.surfaces.iter().filter(|surface| surface.verdict == Verdict::Fail)
    }

    /// Writes `proof.json` and `proof.md` into `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        fs::write(dir.join("proof.json"), json + "\n")?;
        fs::write(dir.join("proof.md"), self.markdown())
    }

    /// Reads `proof.json` from `dir`.
    ///
    /// # Errors
    /// When there is none, or it is of another version or malformed.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let proof: Self =
            serde_json::from_slice(&fs::read(dir.join("proof.json"))?).map_err(io::Error::other)?;
        match proof.version {
            1 | VERSION => Ok(proof),
            other => Err(io::Error::other(format!("proof version {other}, expected {VERSION}; prove again"))),
        }
    }

    /// The proof for people: verdict, surfaces, measures, failures.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        let Self { name, digests, measures: m, .. } = self;
        writeln!(text, "# Proof of `{name}`: {}\n", self.verdict.word())?;
        writeln!(
            text,
            "{} sequences; the oracle computed {} tokens of them.\n",
            self.n_cases, self.n_oracle_tokens
        )?;
        writeln!(text, "| surface | law | cases | verdict |\n|---|---|--:|---|")?;
        for surface in &self.surfaces {
            let evidence = surface.evidence.as_ref().map_or(String::new(), |seen| format!(" ({seen})"));
            let verdict = surface.verdict.word();
            writeln!(
                text,
                "| {} | {}{evidence} | {} | {verdict} |",
                surface.name, surface.law, surface.cases
            )?;
        }
        writeln!(text, "\n| measure, teacher-forced against the oracle | value |\n|---|--:|")?;
        writeln!(text, "| positions | {} |", m.positions)?;
        writeln!(
            text,
            "| mean, p99, max \\|Δlogprob\\| (nat) | {:.1e}, {:.1e}, {:.1e} |",
            m.logprob_mean, m.logprob_p99, m.logprob_max
        )?;
        writeln!(text, "| mean, p99.9 KL divergence (nat) | {:.1e}, {:.1e} |", m.kl_mean, m.kl_p999)?;
        writeln!(text, "| max regret (nat) | {:.1e} |", m.regret_max)?;
        writeln!(text, "| same top, of positions without a tie | {:.2} % |", 100.0 * m.same_top)?;
        writeln!(text, "| ties | {} |", m.ties)?;
        writeln!(text, "| greedy tokens equal | {} |", m.greedy_tokens)?;
        writeln!(text, "| greedy sequences that ended at a tie | {} |", m.greedy_tied)?;
        if let Some(held_out) = self.held_out {
            let what = match held_out.source {
                Source::Text => "text kept from training",
                Source::Samples => "samples that are no cases",
                Source::Drawn => "drawn tokens",
            };
            writeln!(
                text,
                "| perplexity ÷ the oracle's, {:.1}, at {} positions of {what} | {:.5} |",
                held_out.oracle_perplexity, held_out.positions, held_out.perplexity_ratio
            )?;
        }
        for surface in self.failed() {
            writeln!(text, "\n## {} failed {} of {}\n", surface.name, surface.n_failures, surface.cases)?;
            for failure in &surface.failures {
                writeln!(text, "- {failure}")?;
            }
        }
        writeln!(text, "\n| proven | sha256 |\n|---|---|")?;
        let rows = [
            ("binary", &digests.binary),
            ("spec", &digests.spec),
            ("plan", &digests.plan),
            ("weights", &digests.weights),
        ];
        rows.iter().try_for_each(|(what, digest)| writeln!(text, "| {what} | `{digest}` |"))
    }
}

impl Verdict {
    /// The word in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "**fail**",
        }
    }
}

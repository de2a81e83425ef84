//! How far from the model each way to round it is: measured by the oracle, read by the rules as data.
//!
//! `harness::calibrate` measures; nothing here computes a model. A calibration is kept beside the plan, so that planning
//! again, on any machine, asks nobody.

use std::{
    io::{self, Read},
    path::Path,
};

use crate::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    held::{Format, HEAD_GROUP, Held, INT4_GROUPS, INT8_GROUPS},
    model::{Digests, Model},
    workload::{Precision, Tolerance, Workload},
    yaml,
};

/// The version of the format, and of the arithmetic behind the numbers. A reader refuses any other.
pub const VERSION: u32 = 4;

/// Longest file that is read, bytes.
const MAX_BYTES: u64 = 256 << 10;

/// One way to hold and multiply a model with fewer bits than it was stored with.
///
/// Matrices of int8 and int4 multiply activations that are rounded to int8, group by group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// How weights are held.
    pub held: Held,
    /// Whether bf16 matrices multiply activations that are rounded to bf16; else activations keep f32.
    pub bf16_activations: bool,
    /// How keys and values are kept: in f32 nothing of attention is rounded, in bf16 queries and the weights of attention
    /// are rounded likewise, in int8 keys and values are codes with a scale for each position and head.
    pub kv: Precision,
}

/// How far a candidate is from the model, over positions where both read the same text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Divergence {
    /// Mean Kullback-Leibler divergence from the model, nats.
    pub kl_mean: f64,
    /// Its 99.9th percentile.
    pub kl_p999: f64,
    /// Share of positions, ties apart, whose likeliest token is the model's.
    pub same_top: f64,
    /// 99th percentile of |Δlogprob|, nats, of the tokens that stand there and of the candidate's likeliest.
    pub logprob_p99: f64,
}

/// A bound that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its name below `tolerance` in a spec.
    pub bound: &'static str,
    /// What was found and what is allowed.
    pub why: String,
}

/// One candidate and what was measured of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// What was rounded.
    pub candidate: Candidate,
    /// What that changed.
    pub divergence: Divergence,
    /// Perplexity over the model's own, on text that no measure above has seen.
    pub perplexity_ratio: f64,
}

/// What was measured, on which text, of which model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The format's version.
    pub version: u32,
    /// What was measured, as [`model_digest`] has it.
    pub model: String,
    /// SHA-256 of the tokens that were read, hex.
    pub texts: String,
    /// Whether the spec's samples were read; else made-up tokens.
    pub from_samples: bool,
    /// Positions behind each divergence.
    pub positions: usize,
    /// Positions behind each perplexity ratio.
    pub held_out_positions: usize,
    /// Every candidate, in the order of [`candidates`], then those that plans asked for.
    pub measured: Vec<Measured>,
}

/// Why a calibration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// It cannot be read.
    #[error("{path}: cannot read the calibration: {source}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's word.
        source: io::Error,
    },
    /// It is no calibration.
    #[error("{path}: {message}; delete the file to have it measured anew")]
    Malformed {
        /// The file.
        path: String,
        /// Where and why.
        message: String,
    },
}

/// SHA-256 of what decides the numbers of a model: weights and configuration, hex.
pub fn model_digest(digests: &Digests) -> String {
    hex(&Sha256::digest(format!("{}\n{}\n", digests.weights, digests.config)))
}

/// Whether a plan for this job needs to know what rounding costs: only bounds allow any.
pub fn is_needed(workload: &Workload) -> bool {
    workload.tolerance != Tolerance::Exact
}

/// What is worth measuring of a model: each precision in the groups worth trying, beside the heads worth trying. What keys
/// and values lose is measured beside the weights that a plan takes.
pub fn candidates(model: &Model) -> Vec<Candidate> {
    let plain = Candidate::of;
    let bf16 = Held::all(Format::Bf16);
    let stored = Held::as_stored(model);
    let mut candidates = Vec::new();
    if stored != bf16 {
        candidates.push(plain(bf16));
    }
    candidates.push(Candidate { bf16_activations: true, ..plain(bf16) });
    let with = |layers, head| plain(Held { layers, head });
    candidates.extend(INT8_GROUPS.map(|group| plain(Held::all(Format::Int8(group)))));
    let int8 = Format::Int8(HEAD_GROUP);
    candidates.push(with(int8, stored.head));
    candidates.extend(INT4_GROUPS.map(|group| with(Format::Int4(group), int8)));
    let [finest, usual, _] = INT4_GROUPS.map(Format::Int4);
    candidates.push(with(finest, stored.head));
    candidates.push(plain(Held::all(usual)));
    candidates.push(plain(Held::all(finest)));
    candidates
}

impl Candidate {
    /// Only weights are rounded, and what their kernels round.
    pub fn of(held: Held) -> Candidate {
        Candidate { held, bf16_activations: false, kv: Precision::F32 }
    }
}

impl Divergence {
    /// The bounds of a tolerance that this breaks, by their names in a spec and in words. Exact tokens have no bounds.
    pub fn broken(&self, tolerance: Tolerance) -> Vec<Broken> {
        let Tolerance::Bounded { logprob_p99, same_top, kl_mean, kl_p999 } = tolerance else {
            return Vec::new();
        };
        // A measure that is not a number keeps no bound.
        let is_above = |found: f64, bound: f64| found.is_nan() || found > bound;
        let mut broken = Vec::new();
        for (bound, what, found, most) in [
            ("logprob_p99", "p99 |Δlogprob|", self.logprob_p99, logprob_p99),
            ("kl_mean", "mean KL divergence", self.kl_mean, kl_mean),
            ("kl_p999", "p99.9 KL divergence", self.kl_p999, kl_p999),
        ] {
            if is_above(found, most) {
                let why = format!("{what} is {found:.2e}, at most {most:.2e} is allowed");
                broken.push(Broken { bound, why });
            }
        }
        if is_above(-self.same_top, -same_top) {
            let why = format!("same-top share is {:.4}, at least {same_top} is needed", self.same_top);
            broken.push(Broken { bound: "same_top", why });
        }
        broken
    }
}

/// The words of several broken bounds in one clause.
pub fn clause(broken: &[Broken]) -> String {
    broken.iter().map(|it| it.why.as_str()).collect::<Vec<_>>().join("; ")
}

impl Calibration {
    /// What was measured of a candidate.
    pub fn of(&self, candidate: &Candidate) -> Option<&Measured> {
        self.measured.iter().find(|it| it.candidate == *candidate)
    }

    /// The candidates that only hold weights with `precision` in the layers, and with the head that the spec asks for
    /// if it does, cheapest first.
    pub fn holding(&self, precision: Precision, workload: &Workload, model: &Model) -> Vec<&Measured> {
        let asked = workload.weights.and_then(|weights| weights.head);
        let is_held = |it: &&Measured| {
            let held = it.candidate.held;
            it.candidate == Candidate::of(held)
                && held.layers.precision() == precision
                && asked.is_none_or(|head| held.head.precision() == head)
        };
        let mut holding: Vec<_> = self.measured.iter().filter(is_held).collect();
        holding.sort_by_key(|it| it.candidate.held.bytes_per_pass(model));
        holding
    }

    /// Whether it is of this model, these tokens, and all that is measured today; plans may have asked for more.
    pub fn is_of(&self, model_digest: &str, texts_digest: &str, candidates: &[Candidate]) -> bool {
        self.model == model_digest
            && self.texts == texts_digest
            && self
                .measured
                .iter()
                .take(candidates.len())
                .map(|it| it.candidate)
                .eq(candidates.iter().copied())
    }

    /// Reads a calibration file; `None` if there is none, or one of another version.
    ///
    /// # Errors
    /// When it cannot be read, or is no calibration.
    pub fn read(path: &Path) -> Result<Option<Calibration>, CalibrationError> {
        let shown = path.display().to_string();
        let mut text = Vec::new();
        match yaml::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CalibrationError::Read { path: shown, source }),
        }
        let refused = |message| CalibrationError::Malformed { path: shown.clone(), message };
        if text.len() as u64 > MAX_BYTES {
            return Err(refused(format!("a calibration is at most {} KiB", MAX_BYTES >> 10)));
        }
        let malformed = |error: serde_json::Error| refused(error.to_string());
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(malformed)?;
        if value.get("version").is_some_and(|version| *version != VERSION) {
            return Ok(None);
        }
        serde_json::from_value(value).map(Some).map_err(malformed)
    }

    /// The text of a calibration file: JSON, a line for each candidate.
    pub fn to_json(&self) -> String {
        let mut head = serde_json::json!(self);
        let rows: Vec<String> = match head.get_mut("measured").and_then(|rows| rows.as_array_mut()) {
            Some(rows) => std::mem::take(rows).iter().map(|row| format!("    {row}")).collect(),
            None => Vec::new(),
        };
        let head = format!("{head:#}\n");
        head.replace("\"measured\": []", &format!("\"measured\": [\n{}\n  ]", rows.join(",\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::folder::Folder;

    const NEAR: Divergence = Divergence { kl_mean: 1e-4, kl_p999: 1e-3, same_top: 0.999, logprob_p99: 1e-3 };
    const BOUNDS: Tolerance =
        Tolerance::Bounded { logprob_p99: 0.05, same_top: 0.99, kl_mean: 0.001, kl_p999: 0.05 };

    fn calibration(model: &Model) -> Calibration {
        let measured = |candidate| Measured { candidate, divergence: NEAR, perplexity_ratio: 1.0 };
        Calibration {
            version: VERSION,
            model: "00".into(),
            texts: "11".into(),
            from_samples: true,
            positions: 100,
            held_out_positions: 90,
            measured: candidates(model).into_iter().map(measured).collect(),
        }
    }

    #[test]
    fn each_bound_breaks_alone_and_not_a_number_keeps_none() {
        assert_eq!(NEAR.broken(BOUNDS), []);
        for (far, expected) in [
            (
                Divergence { kl_mean: 2e-3, ..NEAR },
                "mean KL divergence is 2.00e-3, at most 1.00e-3 is allowed",
            ),
            (
                Divergence { kl_p999: 0.06, ..NEAR },
                "p99.9 KL divergence is 6.00e-2, at most 5.00e-2 is allowed",
            ),
            (Divergence { same_top: 0.98, ..NEAR }, "same-top share is 0.9800, at least 0.99 is needed"),
            (
                Divergence { logprob_p99: 0.1, ..NEAR },
                "p99 |Δlogprob| is 1.00e-1, at most 5.00e-2 is allowed",
            ),
        ] {
            let broken = far.broken(BOUNDS);
            assert_eq!((broken.len(), clause(&broken).as_str()), (1, expected));
        }
        let nan = f64::NAN;
        let lost = Divergence { kl_mean: nan, kl_p999: nan, same_top: nan, logprob_p99: nan };
        assert_eq!(lost.broken(BOUNDS).len(), 4);
    }

    #[test]
    fn a_file_reads_back_the_same_and_an_old_one_is_no_calibration() {
        let folder = Folder::qwen3();
        let model = Model::read(folder.path()).expect("the folder is valid");
        let calibration = calibration(&model);
        let path = folder.path().join("x.calibration.json");
        assert_eq!(Calibration::read(&path).expect("absent"), None);
        folder.write("x.calibration.json", calibration.to_json());
        assert_eq!(Calibration::read(&path).expect("it reads"), Some(calibration.clone()));
        // A line for each candidate, so that a difference shows which one changed.
        assert_eq!(calibration.to_json().lines().count(), calibration.measured.len() + 10);
        let version = |version: u32| format!("\"version\": {version}");
        let later = version(VERSION + 1) + ", \"more\": []";
        let other = calibration.to_json().replace(&version(VERSION), &later);
        folder.write("x.calibration.json", &other);
        assert_eq!(Calibration::read(&path).expect("it is another version"), None);
        let long = " ".repeat(MAX_BYTES as usize + 1);
        let bare = format!("{{{}}}", version(VERSION));
        for text in ["{", "[]", &bare, &long, &calibration.to_json().replace("kl_mean", "kl_men")] {
            folder.write("x.calibration.json", text);
            let message = Calibration::read(&path).expect_err("it is refused").to_string();
            assert!(message.contains("delete the file to have it measured anew"), "{message}");
        }
    }

    #[test]
    fn it_is_of_one_model_one_text_and_one_set_of_candidates() {
        let folder = Folder::qwen3();
        let model = Model::read(folder.path()).expect("the folder is valid");
        let (calibration, candidates) = (calibration(&model), candidates(&model));
        assert!(calibration.is_of("00", "11", &candidates));
        assert!(!calibration.is_of("01", "11", &candidates) && !calibration.is_of("00", "12", &candidates));
        assert!(!calibration.is_of("00", "11", &candidates[1..]));
    }

    #[test]
    fn candidates_differ_and_cost_less_than_what_is_stored() {
        let folder = Folder::qwen3();
        let mut model = Model::read(folder.path()).expect("the folder is valid");
        for stored in [crate::model::Dtype::Bf16, crate::model::Dtype::F32] {
            model.stored = stored;
            let candidates = candidates(&model);
            for (idx, candidate) in candidates.iter().enumerate() {
                assert!(!candidates[..idx].contains(candidate), "{candidate:?}");
                // The smallest rows of a test model are shorter than a group.
                assert!(
                    candidate.bf16_activations
                        || candidate.kv != Precision::F32
                        || candidate.held != Held::as_stored(&model)
                );
            }
            let holding = calibration(&model);
            let workload = workload(&folder, "");
            let int4 = holding.holding(Precision::Int4, &workload, &model);
            let bytes: Vec<u64> = int4.iter().map(|it| it.candidate.held.bytes_per_pass(&model)).collect();
            assert!(int4.len() == 6 && bytes.is_sorted(), "{bytes:?}");
            let workload = workload_with_head(&folder);
            let int4 = holding.holding(Precision::Int4, &workload, &model);
            assert!(
                int4.len() == 3 && int4.iter().all(|it| it.candidate.held.head == Format::Int8(HEAD_GROUP))
            );
        }
    }

    fn workload(folder: &Folder, weights: &str) -> Workload {
        let spec = format!(
            "name: small\nmodel: {{ path: . }}\n{weights}target: {{ cpu: {{ threads: 2, memory: 1MiB }} }}\n\
             traffic:\n  arrivals: {{ poisson: 4.0 }}\n  prompt: {{ p50: 2, p99: 4, max: 5 }}\n  \
             output: {{ p50: 1, p99: 2, max: 3 }}\ntolerance: {{ kl_mean: 0.1 }}\n"
        );
        Workload::parse(&folder.path().join("spec.yaml"), &spec).expect("the spec is valid")
    }

    fn workload_with_head(folder: &Folder) -> Workload {
        workload(folder, "weights: { layers: int4, head: int8 }\n")
    }
}

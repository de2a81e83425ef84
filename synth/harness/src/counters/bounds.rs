//! What a token may cost: committed beside the spec, and compared with what it was found to cost.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::{Count, Counters};

/// Calls come whole in each token; what is less is of the requests between which the slope was taken.
const CALL: f64 = 0.25;

/// Counts of instructions may differ so much without a word: a compiler's or a library's next version moves them.
const SLACK: f64 = 0.02;

/// Touched memory is counted in whole pages, and pages hold what lies beside a tensor.
const PAGES: f64 = 0.15;

/// The most that a token may cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Version of this file.
    pub version: u32,
    /// Allocations of the engine's thread.
    pub allocations_per_token: f64,
    /// System calls of the engine's thread.
    pub system_calls_per_token: f64,
    /// Instructions; null where they were never counted.
    pub instructions_per_token: Option<f64>,
    /// Instructions for each token of a prompt; null where they were never counted.
    pub instructions_per_prompt_token: Option<f64>,
    /// Bytes of weights, by the plan.
    pub weight_bytes_per_token: u64,
    /// Bytes of keys and values for each position before the token, by the plan.
    pub kv_bytes_per_position: u64,
}

/// Why bounds cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum BoundsError {
    #[error("{}: {source}; `cargo xtask counters NAME --write` writes it", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
}

/// What broke a bound, or could not be counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Bounds that are broken, by name, in words.
    pub broken: Vec<(&'static str, String)>,
    /// What was not counted, and why.
    pub uncounted: Vec<(&'static str, String)>,
}

impl Bounds {
    /// Reads them.
    ///
    /// # Errors
    /// When the file is missing or is none.
    pub fn read(path: &Path) -> Result<Self, BoundsError> {
        let text =
            fs::read_to_string(path).map_err(|source| BoundsError::Read { path: path.to_owned(), source })?;
        let malformed = |reason: String| BoundsError::Malformed { path: path.to_owned(), reason };
        let bounds: Self = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        match bounds.version {
            1 => Ok(bounds),
            version => Err(malformed(format!("version {version} where 1 is known"))),
        }
    }

    /// Bounds that this server just keeps. Calls are whole ones: some tokens need one less than others.
    #[must_use]
    pub fn of(counted: &Counters, (weights, kv): (u64, u64)) -> Self {
        let most = |count: &Count| count.as_ref().map_or(0.0, |count| (count - CALL).ceil().max(0.0));
        Self {
            version: 1,
            allocations_per_token: most(&counted.allocations_per_token),
            system_calls_per_token: most(&counted.system_calls_per_token),
            instructions_per_token: counted.instructions_per_token.clone().ok(),
            instructions_per_prompt_token: counted.instructions_per_prompt_token.clone().ok(),
            weight_bytes_per_token: weights,
            kv_bytes_per_position: kv,
        }
    }

    /// As JSON, a line for each.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).map_or(String::new(), |text| text + "\n")
    }

    /// What of it is broken by these counts, and by these bytes of weights and KV that the plan says are read.
    #[must_use]
    pub fn check(&self, counted: &Counters, (weights, kv): (u64, u64)) -> Findings {
        let mut findings = Findings::default();
        let mut at_most = |name, count: &Count, most: f64, slack: f64| match count {
            Ok(count) if *count <= most + slack => {}
            Ok(count) => findings.broken.push((name, format!("{count:.2} where {most:.2} is the most"))),
            Err(why) => findings.uncounted.push((name, why.clone())),
        };
        at_most("allocations_per_token", &counted.allocations_per_token, self.allocations_per_token, CALL);
        at_most("system_calls_per_token", &counted.system_calls_per_token, self.system_calls_per_token, CALL);
        for (name, count, most) in [
            ("instructions_per_token", &counted.instructions_per_token, self.instructions_per_token),
            (
                "instructions_per_prompt_token",
                &counted.instructions_per_prompt_token,
                self.instructions_per_prompt_token,
            ),
        ] {
            match most {
                Some(most) => at_most(name, count, most, SLACK * most),
                None => {
                    let uncounted = count.as_ref().err().map_or("it has no bound yet", String::as_str);
                    at_most(name, &Err(uncounted.to_owned()), 0.0, 0.0);
                }
            }
        }
        for (name, planned, most, touched) in [
            ("weight_bytes_per_token", weights, self.weight_bytes_per_token, &counted.weight_bytes_per_token),
            ("kv_bytes_per_position", kv, self.kv_bytes_per_position, &counted.kv_bytes_per_position),
        ] {
            if planned > most {
                findings.broken.push((name, format!("the plan reads {planned} where {most} is the most")));
            }
            match touched {
                Ok(touched) if (touched / planned as f64 - 1.0).abs() <= PAGES => {}
                Ok(touched) => {
                    findings
                        .broken
                        .push((name, format!("{touched:.0} are touched where the plan says {planned}")));
                }
                Err(why) => findings.uncounted.push((name, why.clone())),
            }
        }
        findings
    }
}

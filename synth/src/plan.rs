//! Every design decision and why it was made: to a workload what `Cargo.lock` is to `Cargo.toml`.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read},
    path::Path,
};

use crate::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{axis::Axis, mechanism::Knobs, target::Isa, yaml};

/// The version of the plan format. A reader refuses any other.
pub const VERSION: u32 = 1;

/// All decisions for one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The format's version.
    pub version: u32,
    /// The workload's name.
    pub workload: String,
    /// The instruction set that emitted kernels use. Pinned here, so that a check does not depend on the
    /// machine that runs it.
    pub isa: Isa,
    /// SHA-256 of the weight files that the plan was made for, hex.
    pub weights: String,
    /// One decision for each axis.
    pub decisions: BTreeMap<Axis, Decision>,
}

/// One answered question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The chosen mechanism, or `none` on an axis that may be left unanswered.
    pub mechanism: String,
    /// The numbers it runs with.
    #[serde(default, skip_serializing_if = "Knobs::is_empty")]
    pub knobs: Knobs,
    /// A sentence. `explain` prints it and the emitted crate carries it as a comment.
    pub reason: String,
    /// Who decided.
    pub by: Author,
}

/// The answer on an axis that no mechanism fits.
pub const NONE: &str = "none";

impl Decision {
    /// Whether the axis was left unanswered.
    pub fn is_none(&self) -> bool {
        self.mechanism == NONE
    }
}

/// Who made a decision. Rules are asked again at each synthesis; the others stand until they no longer fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    /// A mechanism's own rule.
    Rule,
    /// A search; the text is the ledger entry that justified it.
    Search(String),
    /// A person who edited the plan.
    User,
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule => f.write_str("rule"),
            Self::Search(entry) => write!(f, "search {entry}"),
            Self::User => f.write_str("user"),
        }
    }
}

/// Why a plan file was refused.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file could not be read.
    #[error("{path}: cannot read the plan: {source}")]
    Read {
        /// The plan file.
        path: String,
        /// The operating system's word.
        source: io::Error,
    },
    /// The file is not a plan.
    #[error("{path}:{message}; repair it, or delete the file to have it decided anew")]
    Malformed {
        /// The plan file.
        path: String,
        /// Line, column and what was expected.
        message: String,
    },
    /// The file is a plan of another version of the format.
    #[error(
        "{path}: plan version {found}, but this Savile reads version {VERSION}; delete the file to have it decided anew"
    )]
    Version {
        /// The plan file.
        path: String,
        /// The version it states.
        found: u32,
    },
}

impl Plan {
    /// Reads a plan file; `None` if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, PlanError> {
        let shown = path.display().to_string();
        let mut text = String::new();
        match yaml::open(path)
            .and_then(|file| file.take(yaml::MAX_BYTES as u64 + 1).read_to_string(&mut text))
        {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PlanError::Read { path: shown, source }),
        }
        let malformed = |message| PlanError::Malformed { path: shown.clone(), message };
        if text.len() > yaml::MAX_BYTES {
            return Err(malformed(format!("1:1: a plan is at most {} KiB", yaml::MAX_BYTES >> 10)));
        }
        if !yaml::has_few_brackets(&text) {
            return Err(malformed(format!("1:1: a plan has at most {} brackets", yaml::MAX_BRACKETS)));
        }
        let plan: Self = yaml::read(&text).map_err(malformed)?;
        if plan.version != VERSION {
            return Err(PlanError::Version { path: shown, found: plan.version });
        }
        if plan.isa == Isa::Native {
            let line = 1 + text.lines().take_while(|line| !line.starts_with("isa:")).count();
            return Err(PlanError::Malformed {
                path: shown,
                message: format!("{line}:1: isa: a plan says which instruction set `native` was"),
            });
        }
        Ok(Some(plan))
    }

    /// The text of the plan file.
    pub fn to_yaml(&self) -> String {
        format!(
            "# What was decided for {name}, and why. Written by `cargo xtask synth {name}`; commit it.\n\
             # Change a decision by hand and set `by: user`: it then stands for as long as it fits.\n{yaml}",
            name = self.workload,
            yaml = yaml::write(self)
        )
    }

    /// SHA-256 of the decisions, hex. Comments in the file do not change it.
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(yaml::write(self)))
    }

    /// The decision on an axis. Every plan that the planner returns has one for each.
    pub fn on(&self, axis: Axis) -> Option<&Decision> {
        self.decisions.get(&axis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let decision = Decision {
            mechanism: "paged_kv".into(),
            knobs: Knobs::from([("block".into(), 16)]),
            reason: "Blocks of 16 tokens.".into(),
            by: Author::Search("0042".into()),
        };
        Plan {
            version: VERSION,
            workload: "w".into(),
            isa: Isa::Avx2,
            weights: "00".into(),
            decisions: BTreeMap::from([(Axis::Kv, decision)]),
        }
    }

    #[test]
    fn a_written_plan_reads_back_the_same() {
        assert_eq!(yaml::read::<Plan>(&plan().to_yaml()).unwrap(), plan());
    }

    #[test]
    fn comments_do_not_change_the_digest_and_knobs_do() {
        let mut other = plan();
        assert_eq!(other.digest(), plan().digest());
        other.decisions.get_mut(&Axis::Kv).unwrap().knobs.insert("block".into(), 32);
        assert_ne!(other.digest(), plan().digest());
    }

    #[test]
    fn what_is_no_plan_is_refused_in_bounded_time() {
        let folder = std::env::temp_dir().join(format!("savile-plan-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("w.plan.yaml");
        assert_eq!(Plan::read(&file).unwrap(), None);
        std::fs::write(&file, plan().to_yaml()).unwrap();
        assert_eq!(Plan::read(&file).unwrap(), Some(plan()));
        let text = plan().to_yaml();
        for (text, expected) in [
            (text.replace("isa: avx2", "isa: native"), "w.plan.yaml:5:1: isa: a plan says which"),
            (text.replace("version: 1", "version: 2"), "plan version 2"),
            (text.clone() + &"#".repeat(yaml::MAX_BYTES), "1:1: a plan is at most 64 KiB"),
            ("[".repeat(2000), "1:1: a plan has at most 1024 brackets"),
        ] {
            std::fs::write(&file, text).unwrap();
            let message = Plan::read(&file).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::create_dir_all(&file).unwrap();
        let message = Plan::read(&file).unwrap_err().to_string();
        assert!(message.contains("expected a file, found something else"), "{message}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let text = plan().to_yaml().replace("reason:", "reasons:");
        let message = yaml::read::<Plan>(&text).unwrap_err();
        assert!(message.contains("reasons"), "{message}");
        assert!(message.starts_with(|c: char| c.is_ascii_digit()), "{message}");
    }
}

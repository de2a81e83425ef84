//! The questions a plan answers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One direction of the design space. A plan holds one decision for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Which layers the model is made of.
    Family,
    /// How weights are held in memory.
    Weights,
    /// Which instructions compute them.
    Kernels,
    /// Where keys and values live.
    Kv,
    /// Which sequences run in a step, and how many rows of each.
    Schedule,
    /// What is done about prompts that begin alike. May be answered with nothing.
    Prefix,
    /// How a token is chosen from logits.
    Sample,
}

impl Axis {
    /// Every axis, in the order a plan is read: from the model outwards.
    pub const ALL: [Self; 7] =
        [Self::Family, Self::Weights, Self::Kernels, Self::Kv, Self::Schedule, Self::Prefix, Self::Sample];

    /// Whether an emitted crate can do without a mechanism on this axis.
    pub fn is_optional(self) -> bool {
        matches!(self, Self::Prefix)
    }

    /// The name used in plans, catalogues and terminals.
    pub fn name(self) -> &'static str {
        match self {
            Self::Family => "family",
            Self::Weights => "weights",
            Self::Kernels => "kernels",
            Self::Kv => "kv",
            Self::Schedule => "schedule",
            Self::Prefix => "prefix",
            Self::Sample => "sample",
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

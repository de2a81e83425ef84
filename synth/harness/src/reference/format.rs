//! The class of weight format that a race is held in.

use std::fmt;

use serde::{Deserialize, Serialize};
use synth::workload::Precision;

/// How wide the weights of both sides are. Each runtime answers with the form of this width that it computes with best:
/// blocks, groups or channels of its own; a race compares widths, not encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// The upper half of it.
    Bf16,
    /// Whole numbers of 8 bits, with scales.
    Int8,
    /// Whole numbers of 4 bits, with scales.
    Int4,
}

impl Format {
    /// All of them, widest first.
    pub const ALL: [Format; 4] = [Format::F32, Format::Bf16, Format::Int8, Format::Int4];

    /// The name, as commands and records spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::Bf16 => "bf16",
            Format::Int8 => "int8",
            Format::Int4 => "int4",
        }
    }

    /// The format of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether weights are rounded to it, so that another's rounding gives other answers.
    #[must_use]
    pub fn is_quantised(self) -> bool {
        matches!(self, Format::Int8 | Format::Int4)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Precision> for Format {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Format::F32,
            Precision::Bf16 => Format::Bf16,
            Precision::Int8 => Format::Int8,
            Precision::Int4 => Format::Int4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_found_by_the_name_they_give() {
        for format in Format::ALL {
            assert_eq!(Format::by_name(format.name()), Some(format));
            assert_eq!(serde_json::to_value(format).expect("JSON"), format.name());
        }
        assert_eq!(Format::by_name("int3"), None);
    }
}

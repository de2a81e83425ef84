//! The suite: one table of rows, each own binary against every engine that has weights of its format.
//!
//! All servers of one model, one format and one profile are up together. Each row is first run once by everybody: the heat.
//! Own and the peers that came within [`NEAR`] of the best of them then run it in rounds, each round in an order drawn
//! anew or the last one backwards, so that a machine that becomes slower meanwhile becomes so for all. A row is told
//! against its best engine: the one that own is ahead of by least.

mod bars;
mod limit;
mod load;
mod place;
mod run;
mod slow_memory;
mod table;

use serde::{Deserialize, Serialize};

pub use bars::{BARS, Bar, Standing, judge};
pub use limit::{Bound, Ceilings, Limit, Reads, operations};
pub use place::place_anew;
pub use run::{Effort, Entrant, Field, Figure, Job, Loads, Raced, run};
pub use slow_memory::SlowMemory;
pub use table::{markdown, terminal};

/// A peer whose one block of the heat took more than this many times the best peer's is not raced: it cannot be the best
/// engine of the row, and would take the time of one that can.
pub const NEAR: f64 = 1.5;

/// What an own binary of the suite is made for. KV for eight sequences of eight thousand positions would not fit the
/// machine beside the peers', and no user has both at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Eight sequences of the quickstart's lengths.
    Served,
    /// One sequence of eight thousand positions.
    Long,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// A prompt of 512 tokens.
    #[serde(rename = "prefill_512")]
    Prefill512,
    /// One sequence decodes.
    #[serde(rename = "decode_b1")]
    DecodeB1,
    /// Eight sequences decode.
    #[serde(rename = "decode_b8")]
    DecodeB8,
    /// Poisson arrivals of the quickstart's lengths.
    Served,
    /// From exec to the first token.
    Start,
    /// Resident memory beside weights and KV.
    Memory,
    /// A prompt of 4096 tokens.
    #[serde(rename = "prefill_4096")]
    Prefill4096,
    /// One sequence decodes after 8192 tokens.
    #[serde(rename = "decode_b1_8k")]
    DecodeB1At8k,
}

/// A quantity that a row is told by; less is better in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Time to first token, median, ms.
    TtftP50,
    /// Time to first token, 99th percentile, ms.
    TtftP99,
    /// Time per output token after the first, median, ms.
    TpotP50,
    /// Wall time of whole blocks per output token of all sequences, ms.
    MsPerToken,
    /// From exec to the first token, ms.
    FirstTokenMs,
    /// Most physical memory held beside weights and KV, bytes.
    BesideBytes,
}

impl Profile {
    /// Both.
    pub const ALL: [Profile; 2] = [Profile::Served, Profile::Long];

    /// What the names of its specs end with.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Profile::Served => "",
            Profile::Long => "-long",
        }
    }
}

impl Row {
    /// All of them, in the order in which they are run and shown.
    pub const ALL: [Row; 8] = [
        Row::Prefill512,
        Row::DecodeB1,
        Row::DecodeB8,
        Row::Served,
        Row::Start,
        Row::Memory,
        Row::Prefill4096,
        Row::DecodeB1At8k,
    ];

    /// Its name, as commands and the ledger spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Row::Prefill512 => "prefill_512",
            Row::DecodeB1 => "decode_b1",
            Row::DecodeB8 => "decode_b8",
            Row::Served => "served",
            Row::Start => "start",
            Row::Memory => "memory",
            Row::Prefill4096 => "prefill_4096",
            Row::DecodeB1At8k => "decode_b1_8k",
        }
    }

    /// The row of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.name() == name)
    }

    /// Whether it is a load, and not what is seen of a server before or after.
    #[must_use]
    pub fn has_load(self) -> bool {
        !matches!(self, Row::Start | Row::Memory)
    }

    /// Positions of its longest sequence, where its load says so and not the workload.
    #[must_use]
    pub fn positions(self) -> usize {
        if self == Row::Served { 0 } else { load::prompt(self) + load::output(self) }
    }

    /// Which of the two own binaries runs it.
    #[must_use]
    pub fn profile(self) -> Profile {
        match self {
            Row::Prefill4096 | Row::DecodeB1At8k => Profile::Long,
            _ => Profile::Served,
        }
    }

    /// What it is told by, the first being what the heat and the best engine are told by.
    #[must_use]
    pub fn quantities(self) -> &'static [Quantity] {
        match self {
            Row::Prefill512 | Row::Prefill4096 => &[Quantity::TtftP50],
            Row::DecodeB1 | Row::DecodeB1At8k => &[Quantity::TpotP50],
            Row::DecodeB8 => &[Quantity::MsPerToken],
            Row::Served => &[Quantity::TpotP50, Quantity::TtftP99],
            Row::Start => &[Quantity::FirstTokenMs],
            Row::Memory => &[Quantity::BesideBytes],
        }
    }
}

impl Quantity {
    /// Its name, as the ledger spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Quantity::TtftP50 => "ttft_p50",
            Quantity::TtftP99 => "ttft_p99",
            Quantity::TpotP50 => "tpot_p50",
            Quantity::MsPerToken => "ms_per_token",
            Quantity::FirstTokenMs => "first_token_ms",
            Quantity::BesideBytes => "beside_bytes",
        }
    }
}

#[cfg(test)]
mod tests;

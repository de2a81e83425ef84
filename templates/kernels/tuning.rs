//! Numbers that change how fast products are, and none of their bits: knobs of a plan, and constants of its crate.

use synth::mechanism::KnobSpec;

/// A number that a product's file reads.
#[derive(Clone, Copy)]
pub struct Tuning {
    /// Its knob; the constant has the same name.
    pub knob: KnobSpec,
    /// What it is for, in the words of the crate.
    pub why: &'static str,
}

/// How far weights are fetched ahead.
pub const AHEAD: Tuning = Tuning {
    knob: KnobSpec {
        name: "ahead",
        doc: "cache lines between the weights that few rows are multiplied by and those that are fetched",
        values: &[16, 32, 64, 128],
        is_closed: true,
    },
    why: "Cache lines between the weights that few rows are multiplied by and those that are fetched: about as many as memory hands over while it looks for the first.",
};

/// Up to how many rows vectors multiply.
pub const FEW_ROWS: Tuning = Tuning {
    knob: KnobSpec {
        name: "few_rows",
        doc: "rows that vectors multiply at most; more are in tiles",
        values: &[4, 8, 16],
        is_closed: true,
    },
    why: "Rows that vectors multiply as fast as their weights come from memory. More are multiplied in tiles.",
};

/// Panels that all rows pass before the next come.
pub const PANELS: Tuning = Tuning {
    knob: KnobSpec {
        name: "panels",
        doc: "panels of weights that stay in L2 while all rows pass",
        values: &[4, 8, 16],
        is_closed: true,
    },
    why: "Panels that stay in L2 while all rows pass.",
};

/// How fast the next panels are fetched.
pub const STRIPS: Tuning = Tuning {
    knob: KnobSpec {
        name: "strips",
        doc: "strips of rows that pass while all of the next panels are fetched into L2",
        values: &[4, 8, 16],
        is_closed: true,
    },
    why: "Strips of rows that pass while all of the next panels are fetched into L2.",
};

/// What products of bf16 in tiles read.
pub const TILES_OF_BF16: &[(Tuning, u64)] = &[(AHEAD, 32), (PANELS, 4), (STRIPS, 16)];

/// What products of codes in tiles read.
pub const TILES_OF_CODES: &[(Tuning, u64)] = &[(AHEAD, 64), (FEW_ROWS, 8), (PANELS, 8), (STRIPS, 16)];

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

/// From how many pages weights are fetched ahead in turn.
pub const PAGES: Tuning = Tuning {
    knob: KnobSpec {
        name: "pages",
        doc: "pages of memory from which weights are fetched ahead in turn",
        values: &[1, 4, 8, 16],
        is_closed: true,
    },
    why: "Pages from which weights are fetched ahead in turn: the processor runs ahead in each, and one such run is less than memory hands over.",
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
pub const TILES_OF_BF16: &[(Tuning, u64)] = &[(PAGES, 8), (PANELS, 4), (STRIPS, 16)];

/// What products of codes in tiles read.
pub const TILES_OF_CODES: &[(Tuning, u64)] = &[(FEW_ROWS, 8), (PAGES, 8), (PANELS, 8), (STRIPS, 16)];

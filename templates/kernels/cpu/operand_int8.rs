//! Left operands of a product: rows of activations in int8, each group of a row with its scale.

use rt::{
    columns::{Columns, PerRow},
    memory::Lines,
};

/// Rows of K values as codes from −127 to 127; every GROUP of them share a scale.
pub struct Operand<const K: usize, const GROUP: usize> {
    codes: Lines<i8>,
    scales: Lines<f32>,
}

impl<const K: usize, const GROUP: usize> Operand<K, GROUP> {
    /// Groups of a row, the last of which may end early.
    pub const N_GROUPS: usize = K.div_ceil(GROUP);
    /// Codes of a row, with zeros that fill up the last sixteen cells, or the last group where it is smaller.
    const STRIDE: usize = K.next_multiple_of(if GROUP < 64 { GROUP } else { 64 });

    /// Room for `n_rows` rows.
    pub fn new(n_rows: usize) -> Self {
        Self { codes: Lines::new(n_rows * Self::STRIDE), scales: Lines::new(n_rows * Self::N_GROUPS) }
    }

    /// A group of a row: its codes, four to a cell, and its scale.
    #[inline]
    pub fn group(&self, row: usize, group: usize) -> (&[[i8; 4]], f32) {
        let start = group * GROUP;
        let codes = &self.codes[row * Self::STRIDE..][start..Self::STRIDE.min(start + GROUP)];
        (codes.as_chunks().0, self.scales[row * Self::N_GROUPS + group])
    }

    /// Its rows, to be written by several threads.
    pub fn rows(&mut self) -> OperandRows<'_, K, GROUP> {
        OperandRows {
            codes: Columns::new(&mut self.codes, Self::STRIDE),
            scales: Columns::new(&mut self.scales, Self::N_GROUPS),
        }
    }
}

/// The rows of an operand, each some thread's own.
pub struct OperandRows<'a, const K: usize, const GROUP: usize> {
    codes: Columns<'a, i8>,
    scales: Columns<'a>,
}

impl<const K: usize, const GROUP: usize> Clone for OperandRows<'_, K, GROUP> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<const K: usize, const GROUP: usize> Copy for OperandRows<'_, K, GROUP> {}

impl<'a, const K: usize, const GROUP: usize> PerRow for OperandRows<'a, K, GROUP> {
    type Row = OperandRow<'a, K, GROUP>;

    // SAFETY: the caller takes each row once, as the trait asks.
    unsafe fn row(self, idx: usize) -> Self::Row {
        // SAFETY: as above.
        unsafe { OperandRow { codes: self.codes.row(idx), scales: self.scales.row(idx) } }
    }
}

/// One row, to be written.
pub struct OperandRow<'a, const K: usize, const GROUP: usize> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
}

impl<const K: usize, const GROUP: usize> OperandRow<'_, K, GROUP> {
    /// Writes the row: each value to the nearest of 127 steps, ties to even, up to the largest magnitude of its group.
    pub fn set(&mut self, x: &[f32; K]) {
        for ((codes, scale), x) in self.codes.chunks_mut(GROUP).zip(&mut *self.scales).zip(x.chunks(GROUP)) {
            let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            *scale = largest / 127.0;
            // Of less the inverse may be infinite; it is nothing beside any other group.
            let inverse = if largest < TINY { 0.0 } else { 127.0 / largest };
            for (code, x) in codes.iter_mut().zip(x) {
                *code = ((x * inverse + NO_FRACTION) - NO_FRACTION) as i8;
            }
        }
    }
}

/// A magnitude whose inverse, times 127, is still a number.
const TINY: f32 = f32::MIN_POSITIVE * 256.0;

/// Added, it leaves no bits for a fraction: what is taken off again is a whole number.
const NO_FRACTION: f32 = 12_582_912.0;

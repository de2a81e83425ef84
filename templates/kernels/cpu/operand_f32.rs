//! Left operands of a product: rows of activations in f32, as they are.

use rt::{
    columns::{Columns, PerRow},
    memory::Lines,
};

/// Rows of K values, each filled up with a zero where K is odd: weights come in pairs.
pub struct Operand<const K: usize> {
    values: Lines<f32>,
}

impl<const K: usize> Operand<K> {
    const STRIDE: usize = K.next_multiple_of(2);

    /// Room for `n_rows` rows.
    pub fn new(n_rows: usize) -> Self {
        Self { values: Lines::new(n_rows * Self::STRIDE) }
    }

    /// One row, and the zero behind it.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * Self::STRIDE..][..Self::STRIDE]
    }

    /// Its rows, to be written by several threads.
    pub fn rows(&mut self) -> OperandRows<'_, K> {
        OperandRows(Columns::new(&mut self.values, Self::STRIDE))
    }
}

/// The rows of an operand, each some thread's own.
#[derive(Clone, Copy)]
pub struct OperandRows<'a, const K: usize>(Columns<'a>);

impl<const K: usize> OperandRows<'_, K> {
    /// Writes some values of a row, sixteen at most, from a multiple of sixteen on.
    ///
    /// # Safety
    /// No other thread touches these values, and nobody holds the row.
    pub unsafe fn set_part(self, row: usize, first: usize, x: &[f32]) {
        // SAFETY: the caller owns these values.
        unsafe { self.0.row_mut(row, first..first + x.len()) }.copy_from_slice(x);
    }
}

impl<'a, const K: usize> PerRow for OperandRows<'a, K> {
    type Row = OperandRow<'a, K>;

    // SAFETY: the caller takes each row once, as the trait asks.
    unsafe fn row(self, idx: usize) -> Self::Row {
        OperandRow { rows: self, row: idx }
    }
}

/// One row, to be written.
pub struct OperandRow<'a, const K: usize> {
    rows: OperandRows<'a, K>,
    row: usize,
}

impl<const K: usize> OperandRow<'_, K> {
    /// Writes the row.
    pub fn set(&mut self, x: &[f32; K]) {
        for (part, x) in x.chunks(16).enumerate() {
            // SAFETY: who took this row took it alone.
            unsafe { self.rows.set_part(self.row, 16 * part, x) };
        }
    }
}

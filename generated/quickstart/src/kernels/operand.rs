//! Left operands of a product: rows of activations in bf16.
//!
//! A value is held as a sum of TERMS bf16. One rounds it to eight bits; three hold all twenty-four of an f32, so that a
//! product with bf16 weights is what f32 would make of it.

use std::arch::x86_64::*;

use rt::{
    columns::{Columns, PerRow},
    memory::Lines,
};

/// Rows of K values. The terms of a row lie one under the other, so that a tile loads rows of terms as if they were
/// rows.
pub struct Operand<const K: usize, const TERMS: usize> {
    terms: Lines<u16>,
}

impl<const K: usize, const TERMS: usize> Operand<K, TERMS> {
    /// Values from term to term: those of whole cache lines and one line more, so that the same values of sixteen terms
    /// lie in different sets of L1.
    pub const STRIDE: usize = K.next_multiple_of(32) + 32;
    /// Terms behind the last row, for what fills its tiles.
    const SPARE: usize = 32;

    /// Room for `n_rows` rows.
    pub fn new(n_rows: usize) -> Self {
        Self { terms: Lines::new((n_rows * TERMS + Self::SPARE) * Self::STRIDE) }
    }

    /// How many rows there is room for.
    pub fn n_rows(&self) -> usize {
        (self.terms.len() / Self::STRIDE - Self::SPARE) / TERMS
    }

    /// Where `row` begins; terms for two tiles follow.
    pub fn row_ptr(&self, row: usize) -> *const u8 {
        self.terms[row * TERMS * Self::STRIDE..].as_ptr().cast()
    }

    /// Its rows, to be written by several threads.
    pub fn rows(&mut self) -> OperandRows<'_, K, TERMS> {
        OperandRows(Columns::new(&mut self.terms, TERMS * Self::STRIDE))
    }
}

/// The rows of an operand, each some thread's own.
pub struct OperandRows<'a, const K: usize, const TERMS: usize>(Columns<'a, u16>);

impl<const K: usize, const TERMS: usize> Clone for OperandRows<'_, K, TERMS> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<const K: usize, const TERMS: usize> Copy for OperandRows<'_, K, TERMS> {}

impl<const K: usize, const TERMS: usize> OperandRows<'_, K, TERMS> {
    /// Writes some values of a row, sixteen at most, from a multiple of sixteen on; what is left of the sixteen is
    /// filled up with zeros.
    ///
    /// # Safety
    /// No other thread touches these sixteen values, and nobody holds the row.
    pub unsafe fn set_part(self, row: usize, first: usize, x: &[f32]) {
        let mut padded = [0.0; 16];
        padded[..x.len()].copy_from_slice(x);
        // SAFETY: the server refuses to start on a processor without AVX-512 F and BF16.
        let terms = unsafe { split::<TERMS>(&padded) };
        for (t, term) in terms.into_iter().enumerate() {
            let at = t * Operand::<K, TERMS>::STRIDE + first;
            // SAFETY: the caller owns these sixteen values.
            unsafe { self.0.row_mut(row, at..at + 16) }.copy_from_slice(&term);
        }
    }
}

impl<'a, const K: usize, const TERMS: usize> PerRow for OperandRows<'a, K, TERMS> {
    type Row = OperandRow<'a, K, TERMS>;

    // SAFETY: the caller takes each row once, as the trait asks.
    unsafe fn row(self, idx: usize) -> Self::Row {
        OperandRow { rows: self, row: idx }
    }
}

/// One row, to be written.
pub struct OperandRow<'a, const K: usize, const TERMS: usize> {
    rows: OperandRows<'a, K, TERMS>,
    row: usize,
}

impl<const K: usize, const TERMS: usize> OperandRow<'_, K, TERMS> {
    /// Writes the row.
    pub fn set(&mut self, x: &[f32; K]) {
        for (part, x) in x.chunks(16).enumerate() {
            // SAFETY: who took this row took it alone.
            unsafe { self.rows.set_part(self.row, 16 * part, x) };
        }
    }
}

/// Each of sixteen values rounded to bf16, then what that leaves, and so on.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn split<const TERMS: usize>(x: &[f32; 16]) -> [[u16; 16]; TERMS] {
    // SAFETY: sixteen values.
    let mut rest = unsafe { _mm512_loadu_ps(x.as_ptr()) };
    let mut terms = [[0; 16]; TERMS];
    for term in &mut terms {
        let rounded = _mm512_cvtneps_pbh(rest);
        // SAFETY: sixteen bf16.
        unsafe { term.as_mut_ptr().cast::<__m256bh>().write_unaligned(rounded) }
        rest = _mm512_sub_ps(rest, _mm512_cvtpbh_ps(rounded));
    }
    terms
}

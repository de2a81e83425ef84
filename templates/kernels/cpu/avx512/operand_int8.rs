//! Left operands of a product: rows of activations in int8, each group of a row with its scale.

use std::arch::x86_64::*;

use rt::{
    columns::{Columns, PerRow},
    memory::Lines,
};

/// Rows of K values as codes from −127 to 127; every GROUP of them share a scale.
pub struct Operand<const K: usize, const GROUP: usize> {
    codes: Lines<i8>,
    scales: Lines<f32>,
    offsets: Lines<i32>,
}

impl<const K: usize, const GROUP: usize> Operand<K, GROUP> {
    /// Groups of a row, the last of which may end early.
    pub const N_GROUPS: usize = K.div_ceil(GROUP);
    /// Codes from row to row: those of whole cache lines and one line more, so that the same codes of sixteen rows lie in
    /// different sets of L1.
    pub const STRIDE: usize = K.next_multiple_of(64) + 64;
    /// Rows behind the last, for what fills its tiles.
    const SPARE: usize = 32;

    /// Room for `n_rows` rows.
    pub fn new(n_rows: usize) -> Self {
        let n_rows = n_rows + Self::SPARE;
        Self {
            codes: Lines::new(n_rows * Self::STRIDE),
            scales: Lines::new(n_rows * Self::N_GROUPS),
            offsets: Lines::new(n_rows * Self::N_GROUPS),
        }
    }

    /// How many rows there is room for.
    pub fn n_rows(&self) -> usize {
        self.codes.len() / Self::STRIDE - Self::SPARE
    }

    /// Where the codes of `row` begin; those of 32 rows follow.
    #[inline]
    pub fn row_ptr(&self, row: usize) -> *const i8 {
        self.codes[row * Self::STRIDE..].as_ptr()
    }

    /// The scale of a group of a row.
    #[inline]
    pub fn scale(&self, row: usize, group: usize) -> f32 {
        self.scales[row * Self::N_GROUPS + group]
    }

    /// −128 times the sum of a group's codes: what makes up for weights that are multiplied with 128 added.
    #[inline]
    pub fn offset(&self, row: usize, group: usize) -> i32 {
        self.offsets[row * Self::N_GROUPS + group]
    }

    /// Its rows, to be written by several threads.
    pub fn rows(&mut self) -> OperandRows<'_, K, GROUP> {
        OperandRows {
            codes: Columns::new(&mut self.codes, Self::STRIDE),
            scales: Columns::new(&mut self.scales, Self::N_GROUPS),
            offsets: Columns::new(&mut self.offsets, Self::N_GROUPS),
        }
    }
}

/// The rows of an operand, each some thread's own.
pub struct OperandRows<'a, const K: usize, const GROUP: usize> {
    codes: Columns<'a, i8>,
    scales: Columns<'a>,
    offsets: Columns<'a, i32>,
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
        unsafe {
            OperandRow {
                codes: self.codes.row(idx),
                scales: self.scales.row(idx),
                offsets: self.offsets.row(idx),
            }
        }
    }
}

/// One row, to be written.
pub struct OperandRow<'a, const K: usize, const GROUP: usize> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    offsets: &'a mut [i32],
}

impl<const K: usize, const GROUP: usize> OperandRow<'_, K, GROUP> {
    /// Writes the row: each value to the nearest of 127 steps, ties to even, up to the largest magnitude of its group.
    pub fn set(&mut self, x: &[f32; K]) {
        let groups = self.codes.chunks_mut(GROUP).zip(x.chunks(GROUP));
        for ((codes, x), (scale, offset)) in groups.zip(self.scales.iter_mut().zip(&mut *self.offsets)) {
            // SAFETY: the server refuses to start on a processor without AVX-512 F.
            (*scale, *offset) = unsafe { round(x, codes) };
        }
    }
}

/// A magnitude whose inverse, times 127, is still a number.
const TINY: f32 = f32::MIN_POSITIVE * 256.0;

/// Writes the codes of a group, and returns its scale and −128 times the sum of its codes.
#[target_feature(enable = "avx512f")]
fn round(x: &[f32], codes: &mut [i8]) -> (f32, i32) {
    let largest = largest(x);
    // Of less the inverse may be infinite; it is nothing beside any other group.
    let inverse = _mm512_set1_ps(if largest < TINY { 0.0 } else { 127.0 / largest });
    let mut sum = _mm512_setzero_si512();
    let (whole, rest) = x.as_chunks::<16>();
    let (codes, last) = codes.split_at_mut(16 * whole.len());
    for (x, codes) in whole.iter().zip(codes.as_chunks_mut::<16>().0) {
        // SAFETY: sixteen values, and as many codes.
        unsafe {
            let rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x.as_ptr()), inverse));
            sum = _mm512_add_epi32(sum, rounded);
            _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(rounded));
        }
    }
    if !rest.is_empty() {
        let lanes = first(rest.len());
        // SAFETY: only as many lanes are read and written as there are values.
        unsafe {
            let x = _mm512_maskz_loadu_ps(lanes, rest.as_ptr());
            let rounded = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
            sum = _mm512_add_epi32(sum, rounded);
            _mm512_mask_cvtsepi32_storeu_epi8(last[..rest.len()].as_mut_ptr(), lanes, rounded);
        }
    }
    (largest / 127.0, -128 * _mm512_reduce_add_epi32(sum))
}

/// The largest magnitude.
#[target_feature(enable = "avx512f")]
fn largest(x: &[f32]) -> f32 {
    let (fours, rest) = x.as_chunks::<64>();
    let mut largest = [_mm512_setzero_ps(); 4];
    for four in fours {
        // Each waits for the one before it: four do not wait for each other.
        for (largest, x) in largest.iter_mut().zip(four.as_chunks::<16>().0) {
            // SAFETY: sixteen values.
            *largest = unsafe { _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(x.as_ptr())), *largest) };
        }
    }
    let [mut of_all, others @ ..] = largest;
    for other in others {
        of_all = _mm512_max_ps(of_all, other);
    }
    for x in rest.chunks(16) {
        // SAFETY: only as many lanes are read as there are values.
        let x = unsafe { _mm512_maskz_loadu_ps(first(x.len()), x.as_ptr()) };
        of_all = _mm512_max_ps(_mm512_abs_ps(x), of_all);
    }
    _mm512_reduce_max_ps(of_all)
}

/// The first `n` of sixteen lanes.
fn first(n: usize) -> __mmask16 {
    u16::MAX >> (16 - n)
}

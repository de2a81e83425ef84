//! Matrices that several threads write at once, each its own cells.

use std::{marker::PhantomData, ops::Range};

use crate::image::PANEL;

/// A row-major `(rows, stride)` matrix, shared by the threads of one parallel region.
///
/// A kernel computes a range of columns of every row, so the rows of one thread are not one slice; this type
/// is the view through which each thread writes the columns that are its own. Indices are always checked;
/// that no two threads touch one cell is what the caller promises.
pub struct Columns<'a, T = f32> {
    cells: *mut T,
    n_cells: usize,
    stride: usize,
    matrix: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Columns<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Columns<'_, T> {}

// SAFETY: the view reaches the cells only through the unsafe methods below, whose callers promise that no
// cell is touched by two threads at once.
unsafe impl<T: Send> Send for Columns<'_, T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send> Sync for Columns<'_, T> {}

impl<'a, T> Columns<'a, T> {
    /// Views `matrix`, whose rows are `stride` cells long.
    pub fn new(matrix: &'a mut [T], stride: usize) -> Self {
        Columns { cells: matrix.as_mut_ptr(), n_cells: matrix.len(), stride, matrix: PhantomData }
    }

    /// Cells from the start of one row to the start of the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Writes one cell; panics when it lies outside the matrix.
    ///
    /// # Safety
    /// No other thread may read or write this cell during the parallel region, and no slice from
    /// [`Columns::row_mut`] that holds it may be alive.
    #[inline]
    pub unsafe fn write(&self, row: usize, col: usize, value: T) {
        assert!(col < self.stride && row * self.stride + col < self.n_cells, "cell outside the matrix");
        // SAFETY: the index is inside the matrix, which lives for `'a`; the caller owns the cell.
        unsafe { self.cells.add(row * self.stride + col).write(value) }
    }

    /// The cells `cols` of one row; panics when they lie outside the matrix.
    ///
    /// # Safety
    /// No other thread may touch these cells while the slice lives, and the caller holds no other slice
    /// of them.
    #[inline]
    pub unsafe fn row_mut(&self, row: usize, cols: Range<usize>) -> &'a mut [T] {
        assert!(cols.start <= cols.end && cols.end <= self.stride, "columns outside the row");
        let start = row * self.stride + cols.start;
        assert!(start + cols.len() <= self.n_cells, "row outside the matrix");
        // SAFETY: the range is inside the matrix, which lives for `'a`; the caller owns these cells.
        unsafe { std::slice::from_raw_parts_mut(self.cells.add(start), cols.len()) }
    }

    /// N cells of one row, from `col` on; panics when they lie outside the matrix.
    ///
    /// # Safety
    /// No other thread may touch these cells while the array lives, and the caller holds no other slice
    /// of them.
    #[inline]
    pub unsafe fn cells_mut<const N: usize>(&self, row: usize, col: usize) -> &'a mut [T; N] {
        assert!(col + N <= self.stride, "columns outside the row");
        let start = row * self.stride + col;
        assert!(start + N <= self.n_cells, "row outside the matrix");
        // SAFETY: the range is inside the matrix, which lives for `'a`; the caller owns these cells.
        unsafe { &mut *self.cells.add(start).cast() }
    }
}

/// What takes the cells of a product where they are found, while its tiles multiply on: to be part of the product its method
/// must be inlined, always.
pub trait Finish: Copy {
    /// Takes the cells of a panel, of some rows from the first on.
    fn take(self, panel: usize, first_row: usize, cells: &[[f32; PANEL]]);
}

/// What has a part for each row of a step, which several threads may write at once, each its own.
pub trait PerRow: Copy {
    /// The part of one row.
    type Row;

    /// The part of row `idx`; panics where there is none.
    ///
    /// # Safety
    /// Nobody else holds the part of this row, or takes it while it lives.
    unsafe fn row(self, idx: usize) -> Self::Row;
}

impl<'a, T> PerRow for Columns<'a, T> {
    type Row = &'a mut [T];

    unsafe fn row(self, idx: usize) -> Self::Row {
        // SAFETY: the caller takes this row once.
        unsafe { self.row_mut(idx, 0..self.stride) }
    }
}

impl<A: PerRow, B: PerRow> PerRow for (A, B) {
    type Row = (A::Row, B::Row);

    unsafe fn row(self, idx: usize) -> Self::Row {
        // SAFETY: the caller takes this row once, of both.
        unsafe { (self.0.row(idx), self.1.row(idx)) }
    }
}

impl<A: PerRow, B: PerRow, C: PerRow> PerRow for (A, B, C) {
    type Row = (A::Row, B::Row, C::Row);

    unsafe fn row(self, idx: usize) -> Self::Row {
        // SAFETY: the caller takes this row once, of all three.
        unsafe { (self.0.row(idx), self.1.row(idx), self.2.row(idx)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_write_their_own_columns() {
        let mut matrix = vec![0.0; 3 * 10];
        let columns = Columns::new(&mut matrix, 10);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                scope.spawn(move || {
                    for row in 0..3 {
                        let mine = thread * 5..thread * 5 + 5;
                        // SAFETY: each thread writes its own five columns.
                        let cells = unsafe { columns.row_mut(row, mine.clone()) };
                        cells.fill((row * 10 + thread) as f32);
                        // SAFETY: the same columns, and `cells` is no longer used.
                        unsafe { columns.write(row, mine.start, -1.0) };
                    }
                });
            }
        });
        for row in 0..3 {
            assert_eq!(matrix[row * 10], -1.0);
            assert_eq!(matrix[row * 10 + 4], (row * 10) as f32);
            assert_eq!(matrix[row * 10 + 9], (row * 10 + 1) as f32);
        }
    }

    #[test]
    #[should_panic(expected = "cell outside the matrix")]
    fn a_cell_outside_is_refused() {
        let mut matrix = vec![0.0; 6];
        let columns = Columns::new(&mut matrix, 3);
        // SAFETY: one thread; the call panics before it writes.
        unsafe { columns.write(0, 3, 1.0) };
    }
}

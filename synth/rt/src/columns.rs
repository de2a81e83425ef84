//! A matrix of activations that several threads write at once, each its own cells.

use std::{marker::PhantomData, ops::Range};

/// A row-major `(rows, stride)` matrix of `f32`, shared by the threads of one parallel region.
///
/// A kernel computes a range of columns of every row, so the rows of one thread are not one slice; this type
/// is the view through which each thread writes the columns that are its own. Indices are always checked;
/// that no two threads touch one cell is what the caller promises.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    cells: *mut f32,
    n_cells: usize,
    stride: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: the view reaches the cells only through the unsafe methods below, whose callers promise that no
// cell is touched by two threads at once.
unsafe impl Send for Columns<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// Views `matrix`, whose rows are `stride` cells long.
    pub fn new(matrix: &'a mut [f32], stride: usize) -> Self {
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
    pub unsafe fn write(&self, row: usize, col: usize, value: f32) {
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
    pub unsafe fn row_mut(&self, row: usize, cols: Range<usize>) -> &'a mut [f32] {
        assert!(cols.start <= cols.end && cols.end <= self.stride, "columns outside the row");
        let start = row * self.stride + cols.start;
        assert!(start + cols.len() <= self.n_cells, "row outside the matrix");
        // SAFETY: the range is inside the matrix, which lives for `'a`; the caller owns these cells.
        unsafe { std::slice::from_raw_parts_mut(self.cells.add(start), cols.len()) }
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

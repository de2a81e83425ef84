//! Memory that is there before it is used.

use std::{
    hint::black_box,
    ops::{Deref, DerefMut},
};

/// `len` zeros that the system has granted: each was written, so none is looked for when it is used first.
pub fn granted(len: usize) -> Vec<f32> {
    let mut cells = Vec::with_capacity(len);
    cells.resize_with(len, || black_box(0.0));
    cells
}

/// Zeros that begin on a cache line, granted as by [`granted`].
pub struct Lines<T> {
    cells: Vec<T>,
    start: usize,
}

impl<T: Copy + Default> Lines<T> {
    /// `len` zeros.
    pub fn new(len: usize) -> Self {
        const LINE: usize = 64;
        let spare = LINE / size_of::<T>();
        let mut cells = Vec::with_capacity(len + spare);
        cells.resize_with(len + spare, || black_box(T::default()));
        let start = cells.as_ptr().align_offset(LINE);
        cells.truncate(start + len);
        Self { cells, start }
    }
}

impl<T> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.cells[self.start..]
    }
}

impl<T> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.cells[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_on_a_line_and_are_as_long_as_asked() {
        for len in [0, 1, 31, 1000] {
            let lines = Lines::<u16>::new(len);
            assert_eq!((lines.as_ptr().addr() % 64, lines.len()), (0, len));
        }
    }
}

//! Memory that is there before it is used.

use std::{
    hint::black_box,
    ops::{Deref, DerefMut},
    thread,
    time::Duration,
};

use rustix::{
    mm::{Advice, madvise},
    process::setpriority_process,
};

/// Has the system grant memory that was just taken, in huge pages where it has them. Asked for at once
/// they come in a third of the time that it takes to touch page after page.
fn grant<T: Copy>(cells: &mut [T]) {
    const PAGE: usize = 4096;
    let bytes = cells.as_ptr_range();
    let first = bytes.start.addr() / PAGE * PAGE;
    let len = (bytes.end.addr() - first).next_multiple_of(PAGE);
    let ask = |advice| {
        // SAFETY: neither advice changes a byte of these pages, which hold the cells and perhaps other memory of this process.
        unsafe { madvise(std::ptr::without_provenance_mut(first), len, advice) }
    };
    // A system without huge pages has small ones.
    let _ = ask(Advice::LinuxHugepage);
    if ask(Advice::LinuxPopulateWrite).is_err() {
        for cell in cells {
            *cell = black_box(*cell);
        }
    }
}

/// Bytes that are granted at a time: a huge page, or many small ones.
const PIECE: usize = 2 << 20;

/// Before the first piece. Whoever asks a server that has just begun is answered sooner: a piece takes memory bandwidth, and
/// of a virtual machine a core for as long as it is new to its host too.
const PAUSE: Duration = Duration::from_millis(500);

/// Has the system grant zeros that nobody has touched yet, in huge pages where it has them: by a thread of the lowest
/// priority, so that a server is ready before the last gigabyte of its cache is.
///
/// What is used before its turn is granted then, page by page.
pub fn grant_later<'a, T: 'a>(regions: impl IntoIterator<Item = &'a [T]>) {
    let regions: Vec<(usize, usize)> =
        regions.into_iter().map(|region| (region.as_ptr().addr(), size_of_val(region))).collect();
    let grant = move || {
        // Where it may not step back it goes on as it is.
        let _ = setpriority_process(None, 19);
        thread::sleep(PAUSE);
        grant_in_pieces(&regions);
    };
    // Without another thread memory is granted when it is touched.
    let _ = thread::Builder::new().name("grant".into()).spawn(grant);
}

/// Has the system grant regions, each its address and its bytes.
fn grant_in_pieces(regions: &[(usize, usize)]) {
    for (start, len) in regions {
        let (first, end) = (start.next_multiple_of(PIECE), start + len);
        for piece in (first..end).step_by(PIECE) {
            let len = PIECE.min(end - piece);
            for advice in [Advice::LinuxHugepage, Advice::LinuxPopulateWrite] {
                // SAFETY: neither changes a byte of what is mapped there, be it this region or another's by then.
                // A system that knows no such advice grants when memory is touched.
                let _ = unsafe { madvise(std::ptr::without_provenance_mut(piece), len, advice) };
            }
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Cells that begin on a cache line, as rows of whole lines then do. Of cells that begin anywhere sixteen lie in two lines,
/// and threads that write columns side by side take turns with the line between them.
pub struct Lines<T> {
    cells: Vec<T>,
    start: usize,
}

impl<T: Copy + Default> Lines<T> {
    const SPARE: usize = LINE / size_of::<T>();

    /// `len` zeros that the system has granted, so that none is looked for when it is used first.
    pub fn new(len: usize) -> Self {
        let mut cells = vec![T::default(); len + Self::SPARE];
        grant(&mut cells);
        Self::aligned(cells, len)
    }

    /// `len` zeros that nobody has touched.
    pub fn untouched(len: usize) -> Self {
        Self::aligned(vec![T::default(); len + Self::SPARE], len)
    }

    fn aligned(mut cells: Vec<T>, len: usize) -> Self {
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
    fn what_is_granted_later_stays_as_it_is() {
        let mut region = vec![0.0f32; 3 << 20];
        region[1 << 20] = 7.0;
        let bytes = (region.as_ptr().addr(), size_of_val(&region[..]));
        thread::scope(|scope| {
            scope.spawn(move || grant_in_pieces(&[bytes, (0, 0)]));
            for cell in &mut region[..100] {
                *cell = 1.0;
                thread::yield_now();
            }
        });
        let sum: f32 = region.iter().sum();
        assert_eq!(sum, 107.0);
    }

    #[test]
    fn what_is_granted_at_once_is_zeros_that_are_there() {
        for len in [0, 1, 1000] {
            let cells = Lines::<f32>::new(len);
            assert_eq!(cells[..], vec![0.0; len]);
            assert!(cells.as_ptr().addr().is_multiple_of(LINE), "cells begin on a line");
        }
        let mut cells = Lines::<f32>::new(4 << 20);
        let before = n_faults();
        cells.iter_mut().for_each(|cell| *cell += 1.0);
        // Of 4096 pages; the test's own thread may find some of its own for the first time.
        assert!(n_faults() - before < 100, "pages were looked for");
        assert!(cells.iter().all(|cell| *cell == 1.0));
    }

    /// Pages that this thread had to wait for so far (`minflt`).
    fn n_faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux has it");
        // The name before it may hold spaces, and ends with a parenthesis.
        let after_name = stat.rsplit(')').next().expect("it has a name");
        after_name.split_whitespace().nth(7).and_then(|n| n.parse().ok()).expect("a number")
    }

    #[test]
    fn lines_begin_on_a_line_and_are_as_long_as_asked() {
        for len in [0, 1, 31, 1000] {
            for lines in [Lines::<u16>::new(len), Lines::untouched(len)] {
                assert_eq!((lines.as_ptr().addr() % 64, lines.len()), (0, len));
                assert!(lines.iter().all(|cell| *cell == 0));
            }
        }
    }
}

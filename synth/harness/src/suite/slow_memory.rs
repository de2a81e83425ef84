//! Memory that is read slower than the rest, held so that nobody who races gets it.
//!
//! A machine that is itself a guest may have some: each 2 MiB either at 17 GB/s by one thread, or at 12, as long as the guest
//! keeps it. Who gets it is a third slower in every row, by luck.

use std::io;
use std::ptr::null_mut;
use std::slice;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::probe::read_rates;
use crate::process::free_memory_bytes;

/// What is looked at by itself: a huge page, which is one piece for the host too.
const PIECE: usize = 2 << 20;

/// Read at less than this share of what most pieces reach, a piece is slow. Pieces of one kind differ by a twentieth.
const SLOW: f64 = 0.85;

/// Slow memory, given back when this is dropped.
pub struct SlowMemory {
    pieces: Vec<*mut u8>,
    /// What most pieces reach, GB/s by one thread, and the slow ones.
    pub rates: [f64; 2],
}

// SAFETY: nobody reads or writes through the pointers; they are what is given back.
unsafe impl Send for SlowMemory {}

impl SlowMemory {
    /// Looks through three quarters of the memory that is free, and keeps what is slow.
    ///
    /// # Errors
    /// When the system does not grant it.
    pub fn find() -> io::Result<Self> {
        let n = (free_memory_bytes().unwrap_or(0) as usize / PIECE).saturating_sub(1) * 3 / 4;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: new memory, of which nobody knows.
        let all = unsafe { mmap_anonymous(null_mut(), (n + 1) * PIECE, prot, flags) }?.cast::<u8>();
        let first = all.wrapping_add(all.align_offset(PIECE));
        let pieces: Vec<_> = (0..n).map(|idx| first.wrapping_add(idx * PIECE)).collect();
        let granted = [Advice::LinuxHugepage, Advice::LinuxPopulateWrite]
            .into_iter()
            // SAFETY: the pieces are inside the memory above.
            .try_for_each(|advice| unsafe { madvise(first.cast(), n * PIECE, advice) });
        let lanes: Vec<&[f32]> = match granted {
            // SAFETY: granted, zeros, and nobody writes there.
            Ok(()) => pieces
                .iter()
                .map(|piece| unsafe { slice::from_raw_parts(piece.cast::<f32>(), PIECE / size_of::<f32>()) })
                .collect(),
            Err(_) => vec![],
        };
        let rates = read_rates(&lanes);
        let (slow, rates) = slow(&rates);
        let (mut kept, mut rest) = (vec![], vec![]);
        for (idx, piece) in pieces.into_iter().enumerate() {
            if slow.contains(&idx) { kept.push(piece) } else { rest.push(piece) }
        }
        give_back(rest);
        granted?;
        Ok(Self { pieces: kept, rates })
    }

    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.pieces.len() * PIECE
    }
}

impl Drop for SlowMemory {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.pieces));
    }
}

fn give_back(pieces: Vec<*mut u8>) {
    for piece in pieces {
        // SAFETY: a piece of what was mapped here, which nobody uses any more.
        let _ = unsafe { munmap(piece.cast(), PIECE) };
    }
}

/// Which pieces are slow, what most reach, and what the slow ones do. None is where they are more than a quarter: then it is
/// how this machine is, or somebody disturbed it.
fn slow(rates: &[f64]) -> (Vec<usize>, [f64; 2]) {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let usual = sorted.get(sorted.len() * 3 / 4).copied().unwrap_or(0.0);
    let slow: Vec<usize> = (0..rates.len()).filter(|idx| rates[*idx] < SLOW * usual).collect();
    if slow.is_empty() || 4 * slow.len() > rates.len() {
        return (vec![], [usual, usual]);
    }
    let mean = slow.iter().map(|idx| rates[*idx]).sum::<f64>() / slow.len() as f64;
    (slow, [usual, mean])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slower_than_most_is_slow_unless_it_is_a_quarter() {
        let mixed: Vec<f64> =
            (0..20).map(|idx| if idx % 5 == 2 { 12.0 } else { 16.0 + idx as f64 / 20.0 }).collect();
        let (found, [usual, reached]) = slow(&mixed);
        assert_eq!(found, [2, 7, 12, 17]);
        assert!(usual > 16.0 && reached == 12.0);
        let even: Vec<f64> = (0..20).map(|idx| 16.0 + idx as f64 / 20.0).collect();
        assert!(slow(&even).0.is_empty());
        let halves: Vec<f64> = (0..20).map(|idx| if idx % 3 == 0 { 12.0 } else { 17.0 }).collect();
        assert!(slow(&halves).0.is_empty());
        assert!(slow(&[]).0.is_empty());
    }
}

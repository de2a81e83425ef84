//! KV blocks: fixed memory for keys and values, handed out [`BLOCK`] positions at a time.
//!
//! The scheme is PagedAttention's (Kwon et al. 2023, section 4): a sequence holds a table of blocks in order of
//! position, and a block may stand in several tables.

use std::collections::VecDeque;

use rt::{columns::Columns, memory::Lines};

use crate::{
    kernels::Cell,
    sequence::Sequence,
    shape::{BLOCK, CHANNELS, N_BLOCKS, N_KV_HEADS},
};

/// Which blocks are free, and how many sequences read each of the others.
pub struct BlockPool {
    /// The block released longest ago comes first, so that what the others still hold stays useful for longer.
    pub free: VecDeque<u32>,
    /// For each block the number of sequences whose table holds it.
    pub n_readers: Vec<u32>,
}

impl BlockPool {
    /// All blocks free.
    pub fn new() -> Self {
        Self { free: (0..N_BLOCKS as u32).collect(), n_readers: vec![0; N_BLOCKS] }
    }

    /// Whether a sequence of `n_tokens` could be given all blocks it may ever need, so that it never waits for
    /// memory once it runs.
    pub fn can_hold(&self, n_tokens: usize) -> bool {
        n_tokens.div_ceil(BLOCK) <= self.free.len()
    }

    /// Completes the table of a sequence that [`can_hold`](Self::can_hold) admitted.
    pub fn reserve(&mut self, sequence: &mut Sequence) {
        let n_missing = sequence.max_tokens().div_ceil(BLOCK) - sequence.table.len();
        for block in self.free.drain(..n_missing) {
            self.n_readers[block as usize] = 1;
            sequence.table.push(block);
        }
    }

    /// Takes a sequence's table back. Its last blocks are reused first: fewer prompts begin with them.
    pub fn release(&mut self, sequence: &mut Sequence) {
        for block in sequence.table.drain(..).rev() {
            let n_readers = &mut self.n_readers[block as usize];
            *n_readers -= 1;
            if *n_readers == 0 {
                self.free.push_back(block);
            }
        }
    }

    /// The share of blocks that sequences hold, 0 to 1.
    pub fn usage(&self) -> f64 {
        1.0 - self.free.len() as f64 / N_BLOCKS as f64
    }
}

/// Keys and values of one layer, all blocks, in tiles as the kernels read them.
pub struct LayerCache {
    /// (N_BLOCKS, N_KV_HEADS, BLOCK, CHANNELS)
    pub keys: Lines<Cell>,
    /// (N_BLOCKS, N_KV_HEADS, BLOCK, CHANNELS)
    pub values: Lines<Cell>,
}

impl LayerCache {
    /// Zeros for every block, none of them touched yet.
    pub fn new() -> Self {
        Self { keys: Lines::untouched(N_BLOCKS * BLOCK_LEN), values: Lines::untouched(N_BLOCKS * BLOCK_LEN) }
    }

    /// The keys and the values of each block, to be written by several threads.
    pub fn blocks(&mut self) -> (Columns<'_, Cell>, Columns<'_, Cell>) {
        (Columns::new(&mut self.keys, BLOCK_LEN), Columns::new(&mut self.values, BLOCK_LEN))
    }
}

/// Cells of a block, of keys or of values.
const BLOCK_LEN: usize = N_KV_HEADS * BLOCK * CHANNELS;

//! Blocks that already hold these tokens: a prompt's known beginning is read, not computed.
//!
//! A block is known by its tokens and by the block before it, as in a radix tree (SGLang, Zheng et al. 2024,
//! section 3) whose every node is one block. Matches compare whole tokens, never hashes alone.

use std::collections::{HashMap, hash_map::Entry};

use crate::{
    kv::BlockPool,
    sequence::Sequence,
    shape::{BLOCK, N_BLOCKS},
};

/// A block's contents: its tokens, and all that stands before them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Prefix {
    parent: Parent,
    tokens: [u32; BLOCK],
}

/// What stands before a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Parent {
    /// Nothing: it begins the prompts of one API key. Keys never share, so that no one can time what another asked.
    Salt(u64),
    /// Another block.
    Filling(Filling),
}

/// A block at one filling. Reusing a block starts another filling, which forgets whatever followed the last.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Filling {
    block: u32,
    generation: u64,
}

/// Which blocks hold which prefixes.
pub struct PrefixCache {
    blocks: HashMap<Prefix, u32>,
    /// For each block the prefix it holds.
    held: Vec<Option<Prefix>>,
    /// For each block how often it was reused.
    generations: Vec<u64>,
}

impl PrefixCache {
    /// Knows nothing yet; has room for all it can ever know.
    pub fn new() -> Self {
        Self {
            blocks: HashMap::with_capacity(N_BLOCKS),
            held: vec![None; N_BLOCKS],
            generations: vec![0; N_BLOCKS],
        }
    }

    /// Begins a new sequence's table with the blocks that hold its prompt's beginning.
    ///
    /// The last prompt token is always left to compute, since its logits choose the first token; a request for
    /// the prompt's own log-probabilities needs every position computed.
    pub fn lookup(&self, sequence: &mut Sequence, pool: &mut BlockPool) {
        if sequence.request.sampling.prompt_logprobs {
            return;
        }
        let n_reusable = sequence.tokens.len().saturating_sub(1);
        let mut parent = Parent::Salt(sequence.request.cache_salt);
        for tokens in sequence.tokens[..n_reusable].as_chunks().0 {
            let Some(&block) = self.blocks.get(&Prefix { parent, tokens: *tokens }) else { break };
            if pool.n_readers[block as usize] == 0 {
                pool.free.retain(|free| *free != block);
            }
            pool.n_readers[block as usize] += 1;
            sequence.table.push(block);
            parent = Parent::Filling(self.filling(block));
        }
        sequence.n_cached = sequence.table.len() * BLOCK;
        sequence.n_computed = sequence.n_cached;
    }

    /// Forgets what the blocks held that a sequence has just been given to fill.
    pub fn forget(&mut self, sequence: &Sequence) {
        for block in &sequence.table[sequence.n_cached / BLOCK..] {
            let idx = *block as usize;
            self.generations[idx] += 1;
            if let Some(prefix) = self.held[idx].take() {
                self.blocks.remove(&prefix);
            }
        }
    }

    /// Remembers the blocks that a sequence filled when its computed positions grew from `before`.
    pub fn insert(&mut self, sequence: &Sequence, before: usize) {
        for idx in before / BLOCK..sequence.n_computed / BLOCK {
            let block = sequence.table[idx];
            let parent = match idx.checked_sub(1) {
                Some(previous) => Parent::Filling(self.filling(sequence.table[previous])),
                None => Parent::Salt(sequence.request.cache_salt),
            };
            let Some(tokens) = sequence.tokens[idx * BLOCK..].first_chunk() else { return };
            let prefix = Prefix { parent, tokens: *tokens };
            // Two sequences may fill two blocks alike; the first stays known, and nobody finds what follows the second.
            if let Entry::Vacant(unknown) = self.blocks.entry(prefix) {
                unknown.insert(block);
                self.held[block as usize] = Some(prefix);
            }
        }
    }

    fn filling(&self, block: u32) -> Filling {
        Filling { block, generation: self.generations[block as usize] }
    }
}

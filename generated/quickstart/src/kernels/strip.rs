//! What the threads of attention hand to its kernel: where the past of some rows lies, and what they have found there.

/// Positions whose weights are taken relative to one largest score, counted from position 0. A row's sum is that of its
/// ranges in order, whether it is computed alone, in a piece of a prompt, or by several threads, a range each.
///
/// Scores of 64 rows then take 128 KiB, which stay in L2 beside the keys, and of 16 rows 32 KiB, which stay in L1; a
/// sequence of 8192 is 16 pieces of work a head.
pub const RANGE: usize = 512;

/// Positions of a tile of keys, and channels of a tile of values: a line of sixteen f32.
pub const TILE: usize = 16;

/// Where the keys and values of one head of a sequence lie.
#[derive(Clone, Copy)]
pub struct Past<'a, T> {
    /// One layer's pool: (n_blocks, n_heads), and of each the tiles of a block.
    pub keys: &'a [T],
    /// The same.
    pub values: &'a [T],
    /// The sequence's blocks in order: position p lies in `blocks[p / BLOCK]`.
    pub blocks: &'a [u32],
    /// The key head.
    pub head: usize,
    /// How many there are.
    pub n_heads: usize,
}

impl<'a, T> Past<'a, T> {
    /// The `len` cells of this head in the block of the given index, keys and values.
    pub fn block(&self, idx: usize, len: usize) -> (&'a [T], &'a [T]) {
        let start = (self.blocks[idx] as usize * self.n_heads + self.head) * len;
        (&self.keys[start..][..len], &self.values[start..][..len])
    }
}

/// Cells of what a row has found: its weighted values, then its largest score and the sum of its weights.
pub const fn found_len(channels: usize) -> usize {
    channels + TILE
}

/// What a row has found before it looks: whatever its values are, their weights add up to nothing.
pub fn nothing(found: &mut [f32]) {
    let channels = found.len() - TILE;
    found[channels..][..2].copy_from_slice(&[f32::MIN, 0.0]);
}

//! Where the cells of a position lie in a KV block: tiles of sixteen lanes, positions side by side for keys and
//! channels for values.

use super::strip::TILE;

/// A channel of a key or a value.
pub type Cell = f32;

/// Stores one position of a block: `keys` (n_heads, BLOCK / TILE, CHANNELS, TILE), `values` (n_heads, CHANNELS / TILE,
/// BLOCK, TILE), `key` and `value` (n_heads, HEAD_DIM).
///
/// The first position clears what another sequence left there: what is not yet written is weighted with zero, and zero
/// times what it finds is zero only if that is a number.
pub fn store<const HEAD_DIM: usize, const CHANNELS: usize, const BLOCK: usize>(
    keys: &mut [Cell],
    values: &mut [Cell],
    position: usize,
    key: &[f32],
    value: &[f32],
) {
    if position == 0 {
        keys.fill(0.0);
        values.fill(0.0);
    }
    for (keys, key) in keys.chunks_exact_mut(BLOCK * CHANNELS).zip(key.chunks_exact(HEAD_DIM)) {
        let lanes = &mut keys[position / TILE * TILE * CHANNELS + position % TILE..];
        lanes.iter_mut().step_by(TILE).zip(key).for_each(|(cell, key)| *cell = *key);
    }
    for (values, value) in values.chunks_exact_mut(BLOCK * CHANNELS).zip(value.chunks_exact(HEAD_DIM)) {
        for (values, value) in values.chunks_exact_mut(BLOCK * TILE).zip(value.chunks(TILE)) {
            values[position * TILE..][..value.len()].copy_from_slice(value);
        }
    }
}

//! Where the cells of a position lie in a KV block: tiles of sixteen lanes of two cells, as AMX multiplies them. Lanes of keys
//! are positions, each with two channels; lanes of values are channels, each at two positions.

use half::bf16;

use super::strip::TILE;

/// A channel of a key or a value: the bits of a bf16.
pub type Cell = u16;

/// Stores one position of a block: `keys` (n_heads, BLOCK / TILE, CHANNELS / 2, TILE, 2), `values` (n_heads, CHANNELS / TILE,
/// BLOCK / 2, TILE, 2), `key` and `value` (n_heads, HEAD_DIM).
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
        keys.fill(0);
        values.fill(0);
    }
    let rounded = |x: f32| bf16::from_f32(x).to_bits();
    for (keys, key) in keys.chunks_exact_mut(BLOCK * CHANNELS).zip(key.chunks_exact(HEAD_DIM)) {
        let lines = keys[position / TILE * TILE * CHANNELS..].as_chunks_mut::<{ 2 * TILE }>().0;
        for (line, channels) in lines.iter_mut().zip(key.chunks(2)) {
            for (half, channel) in channels.iter().enumerate() {
                line[position % TILE * 2 + half] = rounded(*channel);
            }
        }
    }
    for (values, value) in values.chunks_exact_mut(BLOCK * CHANNELS).zip(value.chunks_exact(HEAD_DIM)) {
        for (values, value) in values.chunks_exact_mut(BLOCK * TILE).zip(value.chunks(TILE)) {
            let line = &mut values[position / 2 * 2 * TILE..][..2 * TILE];
            for (lane, channel) in value.iter().enumerate() {
                line[2 * lane + position % 2] = rounded(*channel);
            }
        }
    }
}

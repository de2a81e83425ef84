//! Where the cells of a position lie in a KV block: tiles of sixteen lanes of four codes, as AMX multiplies them, and behind
//! all tiles of a head the scales of its positions. Lanes of keys are positions, each with four channels; lanes of values are
//! channels, each at four positions.

use rt::fetch::Turns;

use super::{
    strip::{RANGE, TILE},
    weigh::round,
};

/// A code of a key or a value, −127 to 127, or a fourth of a scale.
pub type Cell = i8;

/// Cells of a line: sixteen lanes of four.
const LINE: usize = 4 * TILE;

/// What is fetched while the codes of some blocks are read: as many of what is read next, by pages, of a range at most.
pub type Ahead = Turns<{ RANGE / 16 }>;

/// Cells of the scale that a position has: an f32.
pub const SCALE: usize = size_of::<f32>();

/// Stores one position of a block: `keys` (n_heads, (BLOCK / TILE, CHANNELS / 4, TILE, 4) and BLOCK scales), `values` (n_heads,
/// (CHANNELS / TILE, BLOCK / 4, TILE, 4) and BLOCK scales), `key` and `value` (n_heads, HEAD_DIM).
///
/// Nothing is cleared before: whatever another sequence left there is codes, and zero times a code is zero.
pub fn store<const HEAD_DIM: usize, const CHANNELS: usize, const BLOCK: usize>(
    keys: &mut [Cell],
    values: &mut [Cell],
    position: usize,
    key: &[f32],
    value: &[f32],
) {
    let len = BLOCK * (CHANNELS + SCALE);
    for (keys, key) in keys.chunks_exact_mut(len).zip(key.as_chunks::<HEAD_DIM>().0) {
        let codes: [_; CHANNELS] = rounded(key, scale_mut(&mut keys[BLOCK * CHANNELS..], position));
        let lines = keys[position / TILE * TILE * CHANNELS..].as_chunks_mut::<LINE>().0;
        for (line, four) in lines.iter_mut().zip(codes.as_chunks::<4>().0) {
            line.as_chunks_mut().0[position % TILE] = *four;
        }
    }
    for (values, value) in values.chunks_exact_mut(len).zip(value.as_chunks::<HEAD_DIM>().0) {
        let codes: [_; CHANNELS] = rounded(value, scale_mut(&mut values[BLOCK * CHANNELS..], position));
        let lines = values.as_chunks_mut::<LINE>().0.iter_mut().skip(position / 4).step_by(BLOCK / 4);
        for (line, sixteen) in lines.zip(codes.as_chunks::<TILE>().0) {
            let lanes = line.as_chunks_mut::<4>().0.iter_mut();
            lanes.zip(sixteen).for_each(|(lane, code)| lane[position % 4] = *code);
        }
    }
}

/// The codes that a head has in a block; its scales are copied.
pub fn parts<'a, const CHANNELS: usize, const BLOCK: usize>(
    cells: &'a [Cell],
    scales: &mut [f32],
) -> &'a [Cell] {
    let (codes, cells) = cells.split_at(BLOCK * CHANNELS);
    for (scale, cells) in scales.iter_mut().zip(cells.as_chunks::<SCALE>().0) {
        *scale = f32::from_ne_bytes(cells.map(i8::cast_unsigned));
    }
    codes
}

/// The scale of a position.
fn scale_mut(scales: &mut [Cell], position: usize) -> &mut [Cell] {
    &mut scales[position * SCALE..][..SCALE]
}

/// The codes of a head: each channel to the nearest of 127 steps, ties to even, up to the largest magnitude; a step is the
/// scale. What fills the last tile is nothing.
fn rounded<const HEAD_DIM: usize, const CHANNELS: usize>(
    x: &[f32; HEAD_DIM],
    scale: &mut [Cell],
) -> [Cell; CHANNELS] {
    // Magnitudes are ordered as their bits, whose largest may be sought in any order; what is no number is above all that are.
    let largest = x.iter().map(|x| x.abs().to_bits().cast_signed()).fold(0, i32::max);
    let largest = f32::from_bits(largest.cast_unsigned());
    scale.copy_from_slice(&(largest / 127.0).to_ne_bytes().map(u8::cast_signed));
    // Of less the inverse may be infinite; it is nothing beside any other position.
    let inverse = if largest < TINY { 0.0 } else { 127.0 / largest };
    let mut channels = [0.0; CHANNELS];
    channels[..HEAD_DIM].copy_from_slice(x);
    let mut codes = [0; CHANNELS];
    round(&channels, inverse, &mut codes);
    codes.map(|code| code as Cell)
}

/// A magnitude whose inverse, times 127, is still a number.
const TINY: f32 = f32::MIN_POSITIVE * 256.0;

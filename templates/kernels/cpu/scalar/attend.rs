//! Attention of a strip of rows over one range of positions, in plain Rust.

use std::ops::Range;

use rt::memory::Lines;

use super::{
    activation::exp,
    merge::merge,
    pair::pair,
    store::Cell,
    strip::{Past, RANGE, TILE, found_len},
};

/// One thread's memory.
pub struct Scratch {
    /// What a row finds in the range.
    found: Lines<f32>,
}

impl Scratch {
    /// For heads of `channels`.
    pub fn new(channels: usize) -> Self {
        Self { found: Lines::new(found_len(channels)) }
    }
}

/// Adds to `attended` what the rows find in one range of positions.
///
/// * `queries`: (rows, CHANNELS), already divided by √HEAD_DIM
/// * `seen`: the positions that a row attends to
/// * `attended`: (rows, found_len)
///
/// What a row finds depends on its query and on the keys and values it sees, provided the values it does not see are finite.
pub fn attend<const CHANNELS: usize, const BLOCK: usize>(
    queries: &[f32],
    past: &Past<'_, Cell>,
    range: usize,
    seen: impl Fn(usize) -> Range<usize>,
    scratch: &mut Scratch,
    attended: &mut [f32],
) {
    let rows = queries.chunks_exact(CHANNELS).zip(attended.chunks_exact_mut(found_len(CHANNELS)));
    for (row, (query, attended)) in rows.enumerate() {
        let seen = seen(row);
        let seen = seen.start.max(range * RANGE)..seen.end.min((range + 1) * RANGE);
        if !seen.is_empty() {
            look::<CHANNELS, BLOCK>(query, past, seen, &mut scratch.found);
            merge(attended, &scratch.found);
        }
    }
}

/// What one row finds at the positions that it sees of a range.
fn look<const CHANNELS: usize, const BLOCK: usize>(
    query: &[f32],
    past: &Past<'_, Cell>,
    seen: Range<usize>,
    found: &mut [f32],
) {
    let tiles = || seen.start / TILE..seen.end.div_ceil(TILE);
    let mut scores = [[0.0; TILE]; RANGE / TILE];
    let of_tile = |tile: usize| tile % (RANGE / TILE);
    let is_seen = |tile: usize, lane: usize| seen.contains(&(tile * TILE + lane));

    let mut largest = f32::MIN;
    for tile in tiles() {
        let (keys, _) = past.block(tile * TILE / BLOCK, BLOCK * CHANNELS);
        let lines = keys[tile * TILE % BLOCK * CHANNELS..][..TILE * CHANNELS].as_chunks().0;
        let scores = &mut scores[of_tile(tile)];
        for (lines, query) in lines.iter().zip(query.as_chunks::<2>().0) {
            for (keys, query) in pair(lines).iter().zip(query) {
                scores.iter_mut().zip(keys).for_each(|(score, key)| *score += query * key);
            }
        }
        let of_seen = (0..TILE).filter(|lane| is_seen(tile, *lane)).map(|lane| scores[lane]);
        largest = of_seen.fold(largest, f32::max);
    }

    let (values, [its_largest, its_sum, ..]) = found.split_at_mut(CHANNELS) else { return };
    values.fill(0.0);
    [*its_largest, *its_sum] = [largest, 0.0];
    for tile in tiles() {
        for (lane, score) in scores[of_tile(tile)].iter_mut().enumerate() {
            *score = if is_seen(tile, lane) { exp(*score - largest) } else { 0.0 };
            *its_sum += *score;
        }
    }

    for tile in tiles() {
        let (_, block) = past.block(tile * TILE / BLOCK, BLOCK * CHANNELS);
        for (lines, found) in block.chunks_exact(BLOCK * TILE).zip(values.chunks_exact_mut(TILE)) {
            let lines = lines[tile * TILE % BLOCK * TILE..][..TILE * TILE].as_chunks().0;
            for (lines, weights) in lines.iter().zip(scores[of_tile(tile)].as_chunks::<2>().0) {
                for (values, weight) in pair(lines).iter().zip(weights) {
                    found.iter_mut().zip(values).for_each(|(found, value)| *found += weight * value);
                }
            }
        }
    }
}

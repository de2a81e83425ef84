//! Attention of a strip of rows over one range of positions, keys and values in codes.
//!
//! Queries, and weights times the scales of their values, are rounded to sixteen bits, so that both products are sums of
//! whole numbers: exact, in any order and on any instruction set. A sum stays below 2³¹ for heads of up to 512 channels, and
//! over a range of 512 positions: 512 · 32767 · 127.
//! Checked against softmax in f64; the bound is worked out in the test from Σ |q · k| and Σ w · |v|.

use std::ops::Range;

use rt::memory::Lines;

use super::{
    look::{score, sum_values},
    merge::merge,
    store::{Cell, SCALE, parts},
    strip::{Past, RANGE, TILE, found_len},
    weigh::weigh,
};

/// Rows whose scores are kept at once.
const ROWS: usize = 64;

/// Blocks of a range, at most: their positions are a multiple of the depth of a tile of values.
const N_BLOCKS: usize = RANGE / 64;

/// One thread's memory.
pub struct Scratch {
    /// (ROWS, channels), each row in units of its own.
    queries: Lines<i16>,
    /// Of each row.
    units: [f32; ROWS],
    /// Of the keys of the range, and of its values.
    scales: [[f32; RANGE]; 2],
    /// (ROWS, RANGE): scores, then weights.
    scores: Lines<f32>,
    /// (ROWS, RANGE): weights times the scales of values, each row in units of its own.
    weights: Lines<i16>,
    /// (ROWS, channels): of values, in the units of their row.
    sums: Lines<i32>,
    /// What the range adds to a row.
    found: Lines<f32>,
}

impl Scratch {
    /// For heads of `channels`.
    pub fn new(channels: usize) -> Self {
        Self {
            queries: Lines::new(ROWS * channels),
            units: [0.0; ROWS],
            scales: [[0.0; RANGE]; 2],
            scores: Lines::new(ROWS * RANGE),
            weights: Lines::new(ROWS * RANGE),
            sums: Lines::new(ROWS * channels),
            found: Lines::new(found_len(channels)),
        }
    }
}

/// Adds to `attended` what the rows find in one range of positions.
///
/// * `queries`: (rows, CHANNELS), already divided by √HEAD_DIM
/// * `seen`: the positions that a row attends to; no row sees less far than the one before it, at either end
/// * `attended`: (rows, found_len)
///
/// What a row finds depends on its query and on the keys and values it sees.
pub fn attend<const CHANNELS: usize, const BLOCK: usize>(
    queries: &[f32],
    past: &Past<'_, Cell>,
    range: usize,
    seen: impl Fn(usize) -> Range<usize>,
    scratch: &mut Scratch,
    attended: &mut [f32],
) {
    let queries = queries.as_chunks::<CHANNELS>().0;
    assert!(attended.len() == queries.len() * found_len(CHANNELS), "a record for each row");
    let whole = range * RANGE..(range + 1) * RANGE;
    let clipped = |first: usize, last: usize| {
        let (start, end) = (seen(first).start.max(whole.start), seen(last).end.min(whole.end));
        if start < end { start - whole.start..end - whole.start } else { 0..0 }
    };
    let strips = queries.chunks(ROWS).zip(attended.chunks_mut(ROWS * found_len(CHANNELS)));
    for (strip, (queries, attended)) in strips.enumerate() {
        let seen = |first: usize, last: usize| clipped(strip * ROWS + first, strip * ROWS + last);
        attend_rows::<CHANNELS, BLOCK>(queries, past, whole.start, seen, scratch, attended);
    }
}

/// The same for at most ROWS rows; `seen` are the positions from the first of some rows to the last, counted from the
/// start of the range.
fn attend_rows<const CHANNELS: usize, const BLOCK: usize>(
    queries: &[[f32; CHANNELS]],
    past: &Past<'_, Cell>,
    start: usize,
    seen: impl Fn(usize, usize) -> Range<usize>,
    scratch: &mut Scratch,
    attended: &mut [f32],
) {
    let n_rows = queries.len();
    let all = seen(0, n_rows - 1);
    if all.is_empty() {
        return;
    }
    let Scratch { queries: rounded, units, scales: [key_scales, value_scales], scores, weights, sums, found } =
        scratch;
    let blocks = all.start / BLOCK..all.end.div_ceil(BLOCK);
    let (mut keys, mut values): ([&[Cell]; N_BLOCKS], _) = ([&[]; N_BLOCKS], [&[][..]; N_BLOCKS]);
    for block in blocks.clone() {
        let (its_keys, its_values) = past.block(start / BLOCK + block, BLOCK * (CHANNELS + SCALE));
        let (codes, scales) = parts::<CHANNELS, BLOCK>(its_keys);
        keys[block] = codes;
        key_scales[block * BLOCK..].iter_mut().zip(scales).for_each(|(to, scale)| *to = scale);
        let (codes, scales) = parts::<CHANNELS, BLOCK>(its_values);
        values[block] = codes;
        value_scales[block * BLOCK..].iter_mut().zip(scales).for_each(|(to, scale)| *to = scale);
    }
    let positions = blocks.start * BLOCK..blocks.end * BLOCK;
    let (rounded, sums) = (&mut rounded[..n_rows * CHANNELS], &mut sums[..n_rows * CHANNELS]);
    for ((query, rounded), unit) in queries.iter().zip(rounded.chunks_exact_mut(CHANNELS)).zip(&mut *units) {
        *unit = round(query, rounded);
    }
    score::<CHANNELS, BLOCK>(rounded, &keys[blocks.clone()], &mut scores[positions.start..]);
    let (key_scales, value_scales) = (&key_scales[positions.clone()], &value_scales[positions.clone()]);
    let mut ends = [[0.0; 2]; ROWS];
    for (row, (unit, ends)) in units[..n_rows].iter_mut().zip(&mut ends).enumerate() {
        let cells = row * RANGE + positions.start..row * RANGE + positions.end;
        let (scores, weights) = (&mut scores[cells.clone()], &mut weights[cells]);
        let seen = seen(row, row);
        let seen = seen.start.saturating_sub(positions.start)..seen.end.saturating_sub(positions.start);
        (*ends, *unit) = weigh(scores, [key_scales, value_scales], *unit, seen, weights);
    }
    sum_values::<CHANNELS, BLOCK>(&weights[positions.start..], &values[blocks], sums);
    for (row, attended) in attended.chunks_exact_mut(found_len(CHANNELS)).enumerate() {
        let sums = &sums[row * CHANNELS..][..CHANNELS];
        found.iter_mut().zip(sums).for_each(|(found, sum)| *found = *sum as f32 * units[row]);
        found[CHANNELS..][..2].copy_from_slice(&ends[row]);
        merge(attended, found);
    }
}

/// Writes a query as whole numbers of 32767 steps, to the nearest, ties to even, up to the largest magnitude; returns the
/// step.
fn round<const CHANNELS: usize>(query: &[f32; CHANNELS], rounded: &mut [i16]) -> f32 {
    let mut of_lanes = [0.0f32; TILE];
    for query in query.as_chunks::<TILE>().0 {
        of_lanes.iter_mut().zip(query).for_each(|(largest, x)| *largest = largest.max(x.abs()));
    }
    let largest = of_lanes.into_iter().fold(0.0, f32::max);
    let inverse = if largest < TINY { 0.0 } else { STEPS / largest };
    // The low bits of the sum are the whole number.
    rounded.iter_mut().zip(query).for_each(|(to, x)| *to = (x * inverse + NO_FRACTION).to_bits() as i16);
    largest / STEPS
}

/// Steps from zero to the largest magnitude of a row.
pub const STEPS: f32 = 32767.0;

/// A magnitude whose inverse, times 32767, is still a number; what is smaller is nothing.
pub const TINY: f32 = f32::MIN_POSITIVE * 65536.0;

/// 1.5 · 2²³: added, it leaves no bits for a fraction.
const NO_FRACTION: f32 = 12_582_912.0;

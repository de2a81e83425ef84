//! Attention of a strip of rows over one range of positions, keys and values in codes.
//!
//! Queries, and weights times the scales of their values, are rounded to sixteen bits, so that both products are sums of
//! whole numbers: exact, in any order and on any instruction set. A sum stays below 2³¹ for heads of up to 512 channels, and
//! over a range of 512 positions: 512 · 32767 · 127.
//! Checked against softmax in f64; the bound is worked out in the test from Σ |q · k| and Σ w · |v|.

use std::ops::Range;

use rt::{
    fetch::{PAGE, Turns, fetch},
    memory::Lines,
};

use super::{
    look::{score, sum_values},
    merge::merge,
    store::{Ahead, Cell, SCALE, parts},
    strip::{Past, RANGE, TILE, found_len},
    weigh::{largest, round, weigh},
};

/// Rows whose scores are kept at once: 32 KiB of them, which stay in L1 until they are weights.
const ROWS: usize = TILE;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Blocks of a range, at most: their positions are a multiple of the depth of a tile of values.
pub const N_BLOCKS: usize = RANGE / 64;

/// One thread's memory.
pub struct Scratch {
    /// (ROWS, channels), each row in units of its own.
    queries: Lines<i16>,
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
    let next = next_keys::<CHANNELS, BLOCK>(past, range, seen(0).start..seen(queries.len() - 1).end);
    let seen = within(range, seen);
    let all = blocks_of::<BLOCK>(seen(0, queries.len() - 1));
    let [keys, values] = codes::<CHANNELS, BLOCK>(past, range, all, &mut scratch.scales);
    let strips = queries.chunks(ROWS).zip(attended.chunks_mut(ROWS * found_len(CHANNELS)));
    for (strip, (queries, attended)) in strips.enumerate() {
        let seen = |first: usize, last: usize| seen(strip * ROWS + first, strip * ROWS + last);
        attend_rows::<CHANNELS, BLOCK>(queries, [&keys, &values, &next], seen, scratch, attended);
    }
}

/// The positions that some rows see of a range, from the first of these to the last, counted from its start.
pub fn within(range: usize, seen: impl Fn(usize) -> Range<usize>) -> impl Fn(usize, usize) -> Range<usize> {
    let whole = range * RANGE..(range + 1) * RANGE;
    move |first, last| {
        let (start, end) = (seen(first).start.max(whole.start), seen(last).end.min(whole.end));
        if start < end { start - whole.start..end - whole.start } else { 0..0 }
    }
}

/// The codes of some blocks of a range, of keys and of values; their scales are copied.
pub fn codes<'a, const CHANNELS: usize, const BLOCK: usize>(
    past: &Past<'a, Cell>,
    range: usize,
    blocks: Range<usize>,
    [of_keys, of_values]: &mut [[f32; RANGE]; 2],
) -> [[&'a [Cell]; N_BLOCKS]; 2] {
    let [mut keys, mut values]: [[&[Cell]; N_BLOCKS]; 2] = [[&[]; N_BLOCKS]; 2];
    let cells = |block| past.block(range * RANGE / BLOCK + block, BLOCK * (CHANNELS + SCALE));
    // Scales lie behind the codes of each block: all are looked for at once.
    for block in blocks.clone() {
        let (key_cells, value_cells) = cells(block);
        for scales in [key_cells, value_cells].map(|cells| cells[BLOCK * CHANNELS..].as_ptr_range()) {
            (scales.start.addr()..scales.end.addr()).step_by(LINE).for_each(fetch);
        }
    }
    for block in blocks {
        let (key_cells, value_cells) = cells(block);
        let positions = block * BLOCK..(block + 1) * BLOCK;
        keys[block] = parts::<CHANNELS, BLOCK>(key_cells, &mut of_keys[positions.clone()]);
        values[block] = parts::<CHANNELS, BLOCK>(value_cells, &mut of_values[positions]);
    }
    [keys, values]
}

/// The keys that are looked at after those of a range: of the next one that rows which see `seen` look at, or of the first,
/// for the next head.
fn next_keys<'a, const CHANNELS: usize, const BLOCK: usize>(
    past: &Past<'a, Cell>,
    range: usize,
    seen: Range<usize>,
) -> [&'a [Cell]; N_BLOCKS] {
    let mut keys: [&[Cell]; N_BLOCKS] = [&[]; N_BLOCKS];
    let is_last = (range + 1) * RANGE >= seen.end;
    let (head, range) = if is_last { (past.head + 1, seen.start / RANGE) } else { (past.head, range + 1) };
    if head < past.n_heads {
        let past = Past { head, ..*past };
        let blocks = range * RANGE / BLOCK..seen.end.min((range + 1) * RANGE).div_ceil(BLOCK);
        for (keys, block) in keys.iter_mut().zip(blocks) {
            *keys = &past.block(block, BLOCK * (CHANNELS + SCALE)).0[..BLOCK * CHANNELS];
        }
    }
    keys
}

/// The pages of the codes of some blocks.
fn pages(blocks: &[&[Cell]]) -> Ahead {
    Turns::new(blocks.iter().flat_map(|codes| codes.chunks(PAGE)).map(<[Cell]>::as_ptr))
}

/// The blocks of a range in which these positions are.
pub fn blocks_of<const BLOCK: usize>(positions: Range<usize>) -> Range<usize> {
    positions.start / BLOCK..positions.end.div_ceil(BLOCK)
}

/// The same for at most ROWS rows, and keys and values of the range.
fn attend_rows<const CHANNELS: usize, const BLOCK: usize>(
    queries: &[[f32; CHANNELS]],
    [keys, values, next]: [&[&[Cell]; N_BLOCKS]; 3],
    seen: impl Fn(usize, usize) -> Range<usize>,
    scratch: &mut Scratch,
    attended: &mut [f32],
) {
    let n_rows = queries.len();
    let blocks = blocks_of::<BLOCK>(seen(0, n_rows - 1));
    if blocks.is_empty() {
        return;
    }
    let Scratch { queries: rounded, scales, scores, weights, sums, found } = scratch;
    let positions = blocks.start * BLOCK..blocks.end * BLOCK;
    let (rounded, sums) = (&mut rounded[..n_rows * CHANNELS], &mut sums[..n_rows * CHANNELS]);
    let mut units = [0.0; ROWS];
    for ((query, rounded), unit) in queries.iter().zip(rounded.chunks_exact_mut(CHANNELS)).zip(&mut units) {
        let (inverse, step) = steps(largest(query));
        round(query, inverse, rounded);
        *unit = step;
    }
    let mut ahead = pages(&values[blocks.clone()]);
    score::<CHANNELS, BLOCK>(rounded, &keys[blocks.clone()], &mut ahead, &mut scores[positions.start..]);
    let scales = scales.each_ref().map(|scales| &scales[positions.clone()]);
    let mut ends = [[0.0; 2]; ROWS];
    for (row, (unit, ends)) in units[..n_rows].iter_mut().zip(&mut ends).enumerate() {
        let cells = row * RANGE + positions.start..row * RANGE + positions.end;
        let (scores, weights) = (&mut scores[cells.clone()], &mut weights[cells]);
        let seen = seen(row, row);
        let seen = seen.start.saturating_sub(positions.start)..seen.end.saturating_sub(positions.start);
        let (found, most) = weigh(scores, scales, *unit, seen);
        let (inverse, step) = steps(most);
        round(scores, inverse, weights);
        (*ends, *unit) = (found, step);
    }
    let mut ahead = pages(next);
    sum_values::<CHANNELS, BLOCK>(&weights[positions.start..], &values[blocks], &mut ahead, sums);
    for (row, attended) in attended.chunks_exact_mut(found_len(CHANNELS)).enumerate() {
        let sums = &sums[row * CHANNELS..][..CHANNELS];
        found.iter_mut().zip(sums).for_each(|(found, sum)| *found = *sum as f32 * units[row]);
        found[CHANNELS..][..2].copy_from_slice(&ends[row]);
        merge(attended, found);
    }
}

/// Of a row whose largest magnitude this is, as whole numbers of sixteen bits: the inverse of a step, and the step.
pub fn steps(largest: f32) -> (f32, f32) {
    (if largest < TINY { 0.0 } else { STEPS / largest }, largest / STEPS)
}

/// Steps from zero to the largest magnitude of a row.
const STEPS: f32 = 32767.0;

/// A magnitude whose inverse, times 32767, is still a number; what is smaller is nothing.
const TINY: f32 = f32::MIN_POSITIVE * 65536.0;

//! Attention of a strip of rows over one range of positions, sixteen lanes.
//!
//! Lanes are positions for scores and channels for values, so that no sum runs over lanes but that of the weights. Four
//! rows by four tiles are in registers; 64 positions of keys, then of values, stay in L1 while all rows pass.
//! Checked against softmax in f64; the bound is worked out in the test from Σ |q · k| and Σ w · |v|.
//!
//! Two threads of an Intel Xeon that others used for 45 % of the time, best of sixty runs of `kernels_speed`, two heads of 128
//! to a key head; the probe, disturbed alike, multiplied 353 GFLOP/s in registers. Over f32:
//!
//! * a row at a time over all its positions, by a program that is not kept: 41 GFLOP/s with 512 rows, 21 with 4096
//! * strips of rows, range by range: 118 with 512 rows, 117 with the last 64 of 4096
//! * one row of 8192 from memory: 14 GB/s of 24 that the probe read; of 1024: 19

use std::arch::x86_64::*;
use std::ops::Range;

use rt::memory::Lines;

use super::{
    activation::exp,
    merge::{load, merge, store},
    pair::pair,
    store::Cell,
    strip::{Past, RANGE, TILE, found_len},
};

/// Rows whose scores are kept at once.
const ROWS: usize = 64;

/// Rows in registers.
const QUAD: usize = 4;

/// Tiles in registers: 64 positions, or 64 channels.
const TILES: usize = 4;

/// One thread's memory.
pub struct Scratch {
    /// (ROWS, RANGE): scores, then weights.
    scores: Lines<f32>,
    /// (ROWS, found_len): what the range adds.
    found: Lines<f32>,
}

impl Scratch {
    /// For heads of `channels`.
    pub fn new(channels: usize) -> Self {
        Self { scores: Lines::new(ROWS * RANGE), found: Lines::new(ROWS * found_len(channels)) }
    }
}

/// Adds to `attended` what the rows find in one range of positions.
///
/// * `queries`: (rows, CHANNELS), already divided by √HEAD_DIM
/// * `seen`: the positions that a row attends to; no row sees less far than the one before it, at either end
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
        // SAFETY: the server refuses to start on a processor without AVX-512 F.
        unsafe { attend_rows::<CHANNELS, BLOCK>(queries, past, whole.start, seen, scratch, attended) }
    }
}

/// The same for at most ROWS rows; `seen` are the positions from the first of some rows to the last, counted from the
/// start of the range.
#[target_feature(enable = "avx512f")]
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
    let tiles = |positions: Range<usize>| positions.start / TILE..positions.end.div_ceil(TILE);
    let (mut keys, mut values) = ([std::ptr::null(); RANGE / TILE], [std::ptr::null(); RANGE / TILE]);
    for tile in tiles(all.clone()) {
        let (block_keys, block_values) = past.block((start + tile * TILE) / BLOCK, BLOCK * CHANNELS);
        let within = tile * TILE % BLOCK;
        keys[tile] = block_keys[within * CHANNELS..][..TILE * CHANNELS].as_ptr();
        values[tile] = block_values[within * TILE..].as_ptr();
    }
    let groups = || (0..n_rows).step_by(QUAD).map(|first| first..n_rows.min(first + QUAD));
    let chunks = || (0..RANGE / TILE).step_by(TILES).map(|first| first..first + TILES);
    let meet = |a: &Range<usize>, b: &Range<usize>| a.start.max(b.start)..a.end.min(b.end);
    let scores = &mut scratch.scores[..n_rows * RANGE];

    for chunk in chunks() {
        for rows in groups() {
            let some = meet(&chunk, &tiles(seen(rows.start, rows.end - 1)));
            let scores = &mut scores[rows.start * RANGE..];
            let queries = &queries[rows];
            if some == chunk {
                let keys =
                    [keys[chunk.start], keys[chunk.start + 1], keys[chunk.start + 2], keys[chunk.start + 3]];
                // SAFETY: each is a tile of keys of this range.
                unsafe { score(queries, keys, scores, chunk.start) }
            } else {
                for tile in some {
                    // SAFETY: as above.
                    unsafe { score(queries, [keys[tile]], scores, tile) }
                }
            }
        }
    }

    let found = &mut scratch.found[..n_rows * found_len(CHANNELS)];
    found.fill(0.0);
    for rows in groups() {
        let some = tiles(seen(rows.start, rows.end - 1));
        for row in rows {
            let found = &mut found[row * found_len(CHANNELS)..][CHANNELS..];
            [found[0], found[1]] = weigh(&mut scores[row * RANGE..][..RANGE], some.clone(), seen(row, row));
        }
    }

    for chunk in chunks() {
        for rows in groups() {
            let some = meet(&chunk, &tiles(seen(rows.start, rows.end - 1)));
            if some.is_empty() {
                continue;
            }
            let n_rows = rows.len();
            let weights = &scores[rows.start * RANGE + some.start * TILE..];
            let found = &mut found[rows.start * found_len(CHANNELS)..];
            // SAFETY: each is where a block's values begin at one of its tiles of positions.
            unsafe { add_values::<CHANNELS, BLOCK>(n_rows, weights, &values[some], found) }
        }
    }

    for (attended, found) in
        attended.chunks_exact_mut(found_len(CHANNELS)).zip(found.chunks_exact(found_len(CHANNELS)))
    {
        merge(attended, found);
    }
}

// ---- scores ----------------------------------------------------------------------------------------------------------

/// `scores[r · RANGE + (first + t) · TILE + p] = queries[r] · key p of tile t`, for QUAD rows at most.
///
/// # Safety
/// Each tile has TILE keys of CHANNELS.
#[target_feature(enable = "avx512f")]
unsafe fn score<const CHANNELS: usize, const N: usize>(
    queries: &[[f32; CHANNELS]],
    tiles: [*const Cell; N],
    scores: &mut [f32],
    first: usize,
) {
    let scores = &mut scores[first * TILE..];
    // SAFETY: as the caller promises.
    unsafe {
        match queries {
            [a] => dot_products([a], tiles, scores),
            [a, b] => dot_products([a, b], tiles, scores),
            [a, b, c] => dot_products([a, b, c], tiles, scores),
            [a, b, c, d, ..] => dot_products([a, b, c, d], tiles, scores),
            [] => {}
        }
    }
}

/// Each product has one accumulator, which takes the channels in order, whichever rows and tiles are beside it.
///
/// # Safety
/// As [`score`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn dot_products<const CHANNELS: usize, const R: usize, const N: usize>(
    queries: [&[f32; CHANNELS]; R],
    tiles: [*const Cell; N],
    scores: &mut [f32],
) {
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    for channel in (0..CHANNELS).step_by(2) {
        let mut keys = [[_mm512_setzero_ps(); 2]; N];
        for (keys, tile) in keys.iter_mut().zip(tiles) {
            // SAFETY: a tile has a line for each channel, and CHANNELS is even.
            *keys = unsafe { pair(tile.add(channel * TILE)) };
        }
        for (sums, query) in sums.iter_mut().zip(queries) {
            for half in 0..2 {
                let query = _mm512_set1_ps(query[channel + half]);
                for (sum, keys) in sums.iter_mut().zip(keys) {
                    *sum = _mm512_fmadd_ps(query, keys[half], *sum);
                }
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (tile, sum) in sums.into_iter().enumerate() {
            store(sum, &mut scores[row * RANGE + tile * TILE..]);
        }
    }
}

// ---- weights ---------------------------------------------------------------------------------------------------------

/// scores ← exp(scores - their largest) at the positions seen and 0 at the others of some tiles; the largest, and the sum of
/// weights: lane l adds positions l, l + 16, … in order.
#[target_feature(enable = "avx512f")]
fn weigh(scores: &mut [f32], tiles: Range<usize>, seen: Range<usize>) -> [f32; 2] {
    let mask = |tile: usize| -> __mmask16 {
        let (start, end) = (
            seen.start.saturating_sub(tile * TILE).min(TILE),
            seen.end.saturating_sub(tile * TILE).min(TILE),
        );
        ((1u32 << end) - (1u32 << start.min(end))) as __mmask16
    };
    let mut largest = _mm512_set1_ps(f32::MIN);
    for tile in tiles.clone() {
        largest = _mm512_mask_max_ps(largest, mask(tile), largest, load(&scores[tile * TILE..]));
    }
    let largest = _mm512_reduce_max_ps(largest);
    let mut sum = _mm512_setzero_ps();
    for tile in tiles {
        let scores = &mut scores[tile * TILE..];
        let weights = exp(_mm512_sub_ps(load(scores), _mm512_set1_ps(largest)));
        let weights = _mm512_maskz_mov_ps(mask(tile), weights);
        sum = _mm512_add_ps(sum, weights);
        store(weights, scores);
    }
    [largest, _mm512_reduce_add_ps(sum)]
}

// ---- values ----------------------------------------------------------------------------------------------------------

/// `found[r] += weights[r] · values`, in the order of positions, for QUAD rows at most and tiles of positions that follow
/// each other.
///
/// # Safety
/// At each of `tiles` a block of values goes on.
#[target_feature(enable = "avx512f")]
unsafe fn add_values<const CHANNELS: usize, const BLOCK: usize>(
    n_rows: usize,
    weights: &[f32],
    tiles: &[*const Cell],
    found: &mut [f32],
) {
    // SAFETY: as the caller promises.
    unsafe {
        match n_rows {
            1 => add_values_to::<CHANNELS, BLOCK, 1>(weights, tiles, found),
            2 => add_values_to::<CHANNELS, BLOCK, 2>(weights, tiles, found),
            3 => add_values_to::<CHANNELS, BLOCK, 3>(weights, tiles, found),
            _ => add_values_to::<CHANNELS, BLOCK, 4>(weights, tiles, found),
        }
    }
}

/// The same for R rows.
///
/// # Safety
/// As [`add_values`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_values_to<const CHANNELS: usize, const BLOCK: usize, const R: usize>(
    weights: &[f32],
    tiles: &[*const Cell],
    found: &mut [f32],
) {
    let mut channel = 0;
    while channel + TILES * TILE <= CHANNELS {
        // SAFETY: as the caller promises; these channels are there.
        unsafe { add_value_lanes::<CHANNELS, BLOCK, R, TILES>(weights, tiles, found, channel) }
        channel += TILES * TILE;
    }
    while channel < CHANNELS {
        // SAFETY: as above.
        unsafe { add_value_lanes::<CHANNELS, BLOCK, R, 1>(weights, tiles, found, channel) }
        channel += TILE;
    }
}

/// The same for N tiles of channels from `channel` on.
///
/// # Safety
/// As [`add_values`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_value_lanes<const CHANNELS: usize, const BLOCK: usize, const R: usize, const N: usize>(
    weights: &[f32],
    tiles: &[*const Cell],
    found: &mut [f32],
    channel: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    for (row, sums) in sums.iter_mut().enumerate() {
        for (n, sum) in sums.iter_mut().enumerate() {
            *sum = load(&found[row * found_len(CHANNELS) + channel + n * TILE..]);
        }
    }
    for (idx, tile) in tiles.iter().enumerate() {
        for position in (0..TILE).step_by(2) {
            let mut values = [[_mm512_setzero_ps(); 2]; N];
            for (n, values) in values.iter_mut().enumerate() {
                // SAFETY: a block has a line of each tile of channels for each of its positions.
                *values = unsafe { pair(tile.add((channel + n * TILE) * BLOCK + position * TILE)) };
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                for half in 0..2 {
                    let weight = _mm512_set1_ps(weights[row * RANGE + idx * TILE + position + half]);
                    for (sum, values) in sums.iter_mut().zip(values) {
                        *sum = _mm512_fmadd_ps(weight, values[half], *sum);
                    }
                }
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (n, sum) in sums.into_iter().enumerate() {
            store(sum, &mut found[row * found_len(CHANNELS) + channel + n * TILE..]);
        }
    }
}

//! Attention of a strip of rows over one range of positions, eight lanes.
//!
//! Lanes are positions for scores and channels for values, so that no sum runs over lanes but that of the weights. Four
//! rows by one tile are in registers; 64 positions of keys, then of values, stay in L1 while all rows pass.
//! Checked against softmax in f64; the bound is worked out in the test from Σ |q · k| and Σ w · |v|.

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

/// Tiles of positions that stay in L1 while all rows pass.
const TILES: usize = 4;

/// Vectors of a tile.
const VECTORS: usize = TILE / 8;

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
        // SAFETY: the server refuses to start on a processor without AVX2 and FMA.
        unsafe { attend_rows::<CHANNELS, BLOCK>(queries, past, whole.start, seen, scratch, attended) }
    }
}

/// The same for at most ROWS rows; `seen` are the positions from the first of some rows to the last, counted from the
/// start of the range.
#[target_feature(enable = "avx2,fma")]
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
            for tile in some {
                // SAFETY: it is a tile of keys of this range.
                unsafe { score(queries, keys[tile], &mut scores[tile * TILE..]) }
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

/// `scores[r · RANGE + p] = queries[r] · key p of a tile`, for QUAD rows at most.
///
/// # Safety
/// The tile has TILE keys of CHANNELS.
#[target_feature(enable = "avx2,fma")]
unsafe fn score<const CHANNELS: usize>(queries: &[[f32; CHANNELS]], tile: *const Cell, scores: &mut [f32]) {
    // SAFETY: as the caller promises.
    unsafe {
        match queries {
            [a] => dot_products([a], tile, scores),
            [a, b] => dot_products([a, b], tile, scores),
            [a, b, c] => dot_products([a, b, c], tile, scores),
            [a, b, c, d, ..] => dot_products([a, b, c, d], tile, scores),
            [] => {}
        }
    }
}

/// Each product has one accumulator, which takes the channels in order, whichever rows are beside it.
///
/// # Safety
/// As [`score`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn dot_products<const CHANNELS: usize, const R: usize>(
    queries: [&[f32; CHANNELS]; R],
    tile: *const Cell,
    scores: &mut [f32],
) {
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; R];
    for channel in (0..CHANNELS).step_by(2) {
        let mut keys = [[_mm256_setzero_ps(); 2]; VECTORS];
        for (vector, keys) in keys.iter_mut().enumerate() {
            // SAFETY: a tile has a line for each channel, and CHANNELS is even.
            *keys = unsafe { pair(tile.add(channel * TILE), vector) };
        }
        for (sums, query) in sums.iter_mut().zip(queries) {
            for half in 0..2 {
                let query = _mm256_set1_ps(query[channel + half]);
                for (sum, keys) in sums.iter_mut().zip(keys) {
                    *sum = _mm256_fmadd_ps(query, keys[half], *sum);
                }
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (vector, sum) in sums.into_iter().enumerate() {
            store(sum, &mut scores[row * RANGE + 8 * vector..]);
        }
    }
}

// ---- weights ---------------------------------------------------------------------------------------------------------

/// scores ← exp(scores - their largest) at the positions seen and 0 at the others of some tiles; the largest, and the sum of
/// weights: lane l of eight adds positions l, l + 8, … in order.
#[target_feature(enable = "avx2,fma")]
fn weigh(scores: &mut [f32], tiles: Range<usize>, seen: Range<usize>) -> [f32; 2] {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    // All bits of the lanes whose positions are seen.
    let mask = |first: usize| {
        let positions = _mm256_add_epi32(_mm256_set1_epi32(first as i32), lanes);
        let from = _mm256_cmpgt_epi32(positions, _mm256_set1_epi32(seen.start as i32 - 1));
        let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.end as i32), positions);
        _mm256_castsi256_ps(_mm256_and_si256(from, below))
    };
    let vectors = || (tiles.start * TILE..tiles.end * TILE).step_by(8);
    let mut largest = _mm256_set1_ps(f32::MIN);
    for first in vectors() {
        let scores = _mm256_max_ps(largest, load(&scores[first..]));
        largest = _mm256_blendv_ps(largest, scores, mask(first));
    }
    let mut of_lanes = [0.0; 8];
    store(largest, &mut of_lanes);
    let largest = of_lanes.into_iter().fold(f32::MIN, f32::max);
    let mut sum = _mm256_setzero_ps();
    for first in vectors() {
        let scores = &mut scores[first..];
        let weights = _mm256_and_ps(exp(_mm256_sub_ps(load(scores), _mm256_set1_ps(largest))), mask(first));
        sum = _mm256_add_ps(sum, weights);
        store(weights, scores);
    }
    store(sum, &mut of_lanes);
    [largest, of_lanes.into_iter().sum()]
}

// ---- values ----------------------------------------------------------------------------------------------------------

/// `found[r] += weights[r] · values`, in the order of positions, for QUAD rows at most and tiles of positions that follow
/// each other.
///
/// # Safety
/// At each of `tiles` a block of values goes on.
#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
unsafe fn add_values_to<const CHANNELS: usize, const BLOCK: usize, const R: usize>(
    weights: &[f32],
    tiles: &[*const Cell],
    found: &mut [f32],
) {
    for channel in (0..CHANNELS).step_by(TILE) {
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; R];
        for (row, sums) in sums.iter_mut().enumerate() {
            for (vector, sum) in sums.iter_mut().enumerate() {
                *sum = load(&found[row * found_len(CHANNELS) + channel + 8 * vector..]);
            }
        }
        for (idx, tile) in tiles.iter().enumerate() {
            for position in (0..TILE).step_by(2) {
                let mut values = [[_mm256_setzero_ps(); 2]; VECTORS];
                for (vector, values) in values.iter_mut().enumerate() {
                    // SAFETY: a block has a line of each tile of channels for each of its positions.
                    *values = unsafe { pair(tile.add(channel * BLOCK + position * TILE), vector) };
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    for half in 0..2 {
                        let weight = _mm256_set1_ps(weights[row * RANGE + idx * TILE + position + half]);
                        for (sum, values) in sums.iter_mut().zip(values) {
                            *sum = _mm256_fmadd_ps(weight, values[half], *sum);
                        }
                    }
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sum) in sums.into_iter().enumerate() {
                store(sum, &mut found[row * found_len(CHANNELS) + channel + 8 * vector..]);
            }
        }
    }
}

//! Attention of a strip of rows over one range of positions in AMX tiles: queries, keys, weights and values in bf16, sums in
//! f32.
//!
//! Sixteen rows, or two times sixteen, by 32 positions of scores, then by 32 channels of values, are in tiles. Keys and values
//! lie in a block as tiles. A row is a row of tiles, whichever are beside it.
//! Checked against softmax in f64; the bound is worked out in the test from Σ |q · k| and Σ w · |v|.
//!
//! Two threads of an Intel Xeon that others used for 37 % of the time, best of sixty runs of `kernels_speed`, two heads of 128
//! to a key head; the probe, disturbed alike, read 25 GB/s and multiplied 311 GFLOP/s of f32 in registers:
//!
//! * one row of 8192 from memory: 21 GB/s, 85 %; of 1024: 20
//! * 612 GFLOP/s with 512 rows, 571 with the last 64 of 4096, the operations at positions that are seen

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use rt::memory::Lines;

use super::{
    activation::exp,
    merge::{load, merge},
    store::Cell,
    strip::{Past, RANGE, TILE, found_len},
    tiles::Tiles,
};

/// Rows of two tiles.
const ROWS: usize = 32;

/// Positions of a step: two tiles of keys, and the depth of a tile of values.
const STEP: usize = 32;

/// Scores from row to row: a range, and a line more, so that rows lie in different sets of L1.
const SCORES: usize = RANGE + 16;

/// Weights from row to row, likewise.
const WEIGHTS: usize = RANGE + 32;

/// One thread's memory.
pub struct Scratch {
    /// (ROWS, channels) in bf16.
    queries: Lines<u16>,
    /// (ROWS, SCORES)
    scores: Lines<f32>,
    /// (ROWS, WEIGHTS) in bf16.
    weights: Lines<u16>,
    /// (ROWS, found_len): what the range adds.
    found: Lines<f32>,
}

impl Scratch {
    /// For heads of `channels`.
    pub fn new(channels: usize) -> Self {
        Self {
            queries: Lines::new(ROWS * channels),
            scores: Lines::new(ROWS * SCORES),
            weights: Lines::new(ROWS * WEIGHTS),
            found: Lines::new(ROWS * found_len(channels)),
        }
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
    assert!(attended.len() / found_len(CHANNELS) == queries.len() / CHANNELS, "a record for each row");
    let whole = range * RANGE..(range + 1) * RANGE;
    let clipped = |first: usize, last: usize| {
        let (start, end) = (seen(first).start.max(whole.start), seen(last).end.min(whole.end));
        if start < end { start - whole.start..end - whole.start } else { 0..0 }
    };
    let tiles = Tiles::configure();
    let strips = queries.chunks(ROWS * CHANNELS).zip(attended.chunks_mut(ROWS * found_len(CHANNELS)));
    for (strip, (queries, attended)) in strips.enumerate() {
        let seen = |first: usize, last: usize| clipped(strip * ROWS + first, strip * ROWS + last);
        // SAFETY: the server refuses to start on a processor without AMX, AVX-512 F and BF16.
        unsafe {
            if queries.len() <= TILE * CHANNELS {
                attend_rows::<CHANNELS, BLOCK, 1>(
                    &tiles,
                    queries,
                    past,
                    whole.start,
                    seen,
                    scratch,
                    attended,
                );
            } else {
                attend_rows::<CHANNELS, BLOCK, 2>(
                    &tiles,
                    queries,
                    past,
                    whole.start,
                    seen,
                    scratch,
                    attended,
                );
            }
        }
    }
}

/// The same for the rows of N tiles at most; `seen` are the positions from the first of some rows to the last, counted from
/// the start of the range.
#[target_feature(enable = "avx512f,avx512bf16")]
fn attend_rows<const CHANNELS: usize, const BLOCK: usize, const N: usize>(
    tiles: &Tiles,
    queries: &[f32],
    past: &Past<'_, Cell>,
    start: usize,
    seen: impl Fn(usize, usize) -> Range<usize>,
    scratch: &mut Scratch,
    attended: &mut [f32],
) {
    let n_rows = queries.len() / CHANNELS;
    let all = seen(0, n_rows - 1);
    if all.is_empty() {
        return;
    }
    let steps = all.start / STEP..all.end.div_ceil(STEP);
    let (mut keys, mut values) = ([std::ptr::null(); RANGE / STEP], [std::ptr::null(); RANGE / STEP]);
    for step in steps.clone() {
        let (block_keys, block_values) = past.block((start + step * STEP) / BLOCK, BLOCK * CHANNELS);
        let within = step * STEP % BLOCK;
        keys[step] = block_keys[within * CHANNELS..][..STEP * CHANNELS].as_ptr();
        values[step] = block_values[within * TILE..].as_ptr();
    }
    let Scratch { queries: rounded, scores, weights, found } = scratch;
    for (rounded, queries) in rounded.chunks_exact_mut(TILE).zip(queries.chunks_exact(TILE)) {
        // SAFETY: sixteen bf16.
        unsafe { rounded.as_mut_ptr().cast::<__m256bh>().write_unaligned(_mm512_cvtneps_pbh(load(queries))) }
    }
    for step in steps.clone() {
        let scores = &mut scores[step * STEP..][..(N * TILE - 1) * SCORES + STEP];
        // Where rows are few, keys and values come from memory: what is needed next is fetched ahead.
        let ahead = [keys[(step + 1).min(steps.end - 1)], values[step]];
        // SAFETY: there are the tiles of a step's keys.
        unsafe { score::<CHANNELS, BLOCK, N>(tiles, rounded, keys[step], scores, ahead) }
    }
    for row in 0..n_rows {
        let found = &mut found[row * found_len(CHANNELS)..][CHANNELS..];
        let (scores, weights) = (&scores[row * SCORES..], &mut weights[row * WEIGHTS..]);
        [found[0], found[1]] = weigh(scores, weights, steps.clone(), seen(row, row));
    }
    for channel in (0..CHANNELS).step_by(2 * TILE) {
        let (weights, found) = (&weights[steps.start * STEP..], &mut found[channel..]);
        // SAFETY: each is where a block's values begin at the positions of a step.
        unsafe { add_values::<CHANNELS, BLOCK, N>(tiles, weights, &values[steps.clone()], channel, found) }
    }
    let found = found.chunks_exact(found_len(CHANNELS));
    for (attended, found) in attended.chunks_exact_mut(found_len(CHANNELS)).zip(found) {
        merge(attended, found);
    }
}

/// Scores of N tiles of rows by a step's two tiles of keys.
///
/// # Safety
/// `keys` are STEP keys of CHANNELS.
unsafe fn score<const CHANNELS: usize, const BLOCK: usize, const N: usize>(
    _: &Tiles,
    queries: &[u16],
    keys: *const Cell,
    scores: &mut [f32],
    ahead: [*const Cell; 2],
) {
    if N == 1 {
        fetch::<CHANNELS, BLOCK>(ahead);
    }
    assert!(
        queries.len() >= N * TILE * CHANNELS && scores.len() >= (N * TILE - 1) * SCORES + STEP,
        "N tiles of rows"
    );
    // SAFETY: tiles are configured; queries are N tiles of rows of CHANNELS, keys two tiles of positions for each 32 of
    // them, and scores N tiles of rows of a step.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            ".if {n} == 2",
            "tilezero tmm2",
            "tilezero tmm3",
            ".endif",
            "2:",
            "tileloadd tmm6, [{keys} + {line}*1]",
            "tileloadd tmm4, [{upper} + {row}*1]",
            "tileloadd tmm7, [{keys} + {line}*1 + {half}]",
            ".if {n} == 2",
            "tileloadd tmm5, [{lower} + {row}*1]",
            ".endif",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            ".if {n} == 2",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            ".endif",
            "add {keys}, 1024",
            "add {upper}, 64",
            "add {lower}, 64",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{scores} + {stride}*1], tmm0",
            "tilestored [{scores} + {stride}*1 + 64], tmm1",
            ".if {n} == 2",
            "tilestored [{below} + {stride}*1], tmm2",
            "tilestored [{below} + {stride}*1 + 64], tmm3",
            ".endif",
            keys = inout(reg) keys => _,
            upper = inout(reg) queries.as_ptr() => _,
            lower = inout(reg) queries.as_ptr().wrapping_add(TILE * CHANNELS) => _,
            row = in(reg) CHANNELS * size_of::<Cell>(),
            line = in(reg) 64_usize,
            steps = inout(reg) CHANNELS / 32 => _,
            scores = in(reg) scores.as_mut_ptr(),
            below = in(reg) scores.as_mut_ptr().wrapping_add(TILE * SCORES),
            stride = in(reg) SCORES * size_of::<f32>(),
            half = const TILE * CHANNELS * size_of::<Cell>(),
            n = const N,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Fetches ahead a step's keys and a step's values.
fn fetch<const CHANNELS: usize, const BLOCK: usize>([keys, values]: [*const Cell; 2]) {
    // SAFETY: what is fetched ahead is not read.
    unsafe {
        for line in 0..STEP * CHANNELS / (2 * TILE) {
            _mm_prefetch::<_MM_HINT_T0>(keys.wrapping_add(line * 2 * TILE).cast());
        }
        for tile in 0..CHANNELS / TILE {
            for line in 0..STEP / 2 {
                _mm_prefetch::<_MM_HINT_T1>(values.wrapping_add((tile * BLOCK + 2 * line) * TILE).cast());
            }
        }
    }
}

/// weights ← exp(scores - their largest) at the positions seen and 0 at the others of some steps, rounded; the largest, and the
/// sum of weights before they are rounded: lane l of sixteen adds positions l, l + 16, … in order.
#[target_feature(enable = "avx512f,avx512bf16")]
fn weigh(scores: &[f32], weights: &mut [u16], steps: Range<usize>, seen: Range<usize>) -> [f32; 2] {
    let mask = |first: usize| -> __mmask16 {
        let clip = |at: usize| at.saturating_sub(first).min(TILE);
        ((1u32 << clip(seen.end)) - (1u32 << clip(seen.start).min(clip(seen.end)))) as __mmask16
    };
    let mut largest = _mm512_set1_ps(f32::MIN);
    for first in (steps.start * STEP..steps.end * STEP).step_by(TILE) {
        largest = _mm512_mask_max_ps(largest, mask(first), largest, load(&scores[first..]));
    }
    let largest = _mm512_reduce_max_ps(largest);
    let weight = |first: usize| {
        let below = _mm512_sub_ps(load(&scores[first..]), _mm512_set1_ps(largest));
        _mm512_maskz_mov_ps(mask(first), exp(below))
    };
    let mut sum = _mm512_setzero_ps();
    for first in (steps.start * STEP..steps.end * STEP).step_by(STEP) {
        let [left, right] = [weight(first), weight(first + TILE)];
        sum = _mm512_add_ps(_mm512_add_ps(sum, left), right);
        let weights = weights[first..][..STEP].as_mut_ptr().cast::<__m512bh>();
        // SAFETY: thirty-two bf16.
        unsafe { weights.write_unaligned(_mm512_cvtne2ps_pbh(right, left)) }
    }
    [largest, _mm512_reduce_add_ps(sum)]
}

/// Weighted values of N tiles of rows by two tiles of channels, over some steps.
///
/// # Safety
/// At each of `values` a block goes on for a step's positions.
unsafe fn add_values<const CHANNELS: usize, const BLOCK: usize, const N: usize>(
    _: &Tiles,
    weights: &[u16],
    values: &[*const Cell],
    channel: usize,
    found: &mut [f32],
) {
    assert!(
        weights.len() >= (N * TILE - 1) * WEIGHTS + values.len() * STEP
            && found.len() >= (N * TILE - 1) * found_len(CHANNELS) + 2 * TILE
            && !values.is_empty(),
        "N tiles of rows"
    );
    // SAFETY: tiles are configured; weights are N tiles of rows of all steps, at each of `values` are the tiles of a step's
    // positions, one tile of channels BLOCK lines behind the other, and found are N tiles of rows by two of channels.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            ".if {n} == 2",
            "tilezero tmm2",
            "tilezero tmm3",
            ".endif",
            "2:",
            "mov {tile}, [{values}]",
            "add {tile}, {first}",
            "tileloadd tmm6, [{tile} + {line}*1]",
            "tileloadd tmm4, [{upper} + {row}*1]",
            "tileloadd tmm7, [{tile} + {line}*1 + {next}]",
            ".if {n} == 2",
            "tileloadd tmm5, [{lower} + {row}*1]",
            ".endif",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            ".if {n} == 2",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            ".endif",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {values}, 8",
            "dec {steps}",
            "jnz 2b",
            "mov {tile}, {found}",
            "tilestored [{tile} + {stride}*1], tmm0",
            "tilestored [{tile} + {stride}*1 + 64], tmm1",
            ".if {n} == 2",
            "add {tile}, {below}",
            "tilestored [{tile} + {stride}*1], tmm2",
            "tilestored [{tile} + {stride}*1 + 64], tmm3",
            ".endif",
            tile = out(reg) _,
            values = inout(reg) values.as_ptr() => _,
            first = in(reg) channel * BLOCK * size_of::<Cell>(),
            upper = inout(reg) weights.as_ptr() => _,
            lower = inout(reg) weights.as_ptr().wrapping_add(TILE * WEIGHTS) => _,
            row = in(reg) WEIGHTS * size_of::<u16>(),
            line = in(reg) 64_usize,
            steps = inout(reg) values.len() => _,
            found = in(reg) found.as_mut_ptr(),
            stride = in(reg) found_len(CHANNELS) * size_of::<f32>(),
            next = const TILE * BLOCK * size_of::<Cell>(),
            below = const TILE * found_len(CHANNELS) * size_of::<f32>(),
            n = const N,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

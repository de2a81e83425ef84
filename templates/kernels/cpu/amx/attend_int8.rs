//! Attention of a strip of rows over one range of positions in AMX tiles of eight bits, keys and values in codes.
//!
//! Sixteen rows by a tile of lanes are in tiles, twice: the upper bytes of terms of sixteen bits and the lower ones are
//! multiplied apart, which is as exact. Scores stay in L1, where they become weights and then terms in the same place.
//! While vectors take what tiles have found, tiles find the next. A row finds the same bits as with AVX-512, which few rows
//! are left to: it has the memory's speed. By a program that is not kept, one thread read 9.3 GB/s for four rows with tiles
//! that were two of lanes wide, and 12.2 with vectors; 7.9 and 7.8 for eight.
//!
//! One thread of an Intel Xeon that others used as well, best of forty to sixty prompts of 512, by a program not kept, twelve
//! layers of four key heads of 64 and three heads to each:
//!
//! * 33.0 ms with 64 rows at a time, whose scores stay in L2, and tiles two of lanes wide
//! * 28.1 with sixteen rows, whose scores stay in L1, up to the last seen; terms parted and powers scaled in vectors
//! * 26.8 with terms in the place of weights, and tiles that are configured once a range
//! * 24.9 with one tile of lanes at a time, whose sums vectors take while tiles find the next
//! * 21.9 with weights as powers of two
//!
//! Two threads of an Intel Xeon that others used as well, best of sixty runs of `kernels_speed`, two heads of 128 to a key
//! head; the probe, disturbed alike, multiplied 290 to 350 GFLOP/s of f32 in registers. In turns, the best of three:
//!
//! * 382 GFLOP/s with 512 rows, 638 with the last 64 of 4096, as above
//! * 604 and 711 with queries held in tiles while keys pass, no tile of keys that nobody sees, two tiles of channels at a time,
//!   halves of terms picked by one permutation, and what the first range finds taken as it is
//!
//! One row of 8192 from memory, in vectors: 27.2 GB/s, all that the probe read then.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use rt::memory::Lines;

use super::{
    attend_few::{self, N_BLOCKS, blocks_of, codes, steps, within},
    merge::{load, merge, store},
    store::Cell,
    strip::{Past, RANGE, TILE, found_len},
    tiles::Tiles,
    weigh::weigh,
};

/// Rows that are no less than tiles are worth.
const FEW: usize = 4;

/// Codes of a lane that a tile holds, and terms of a row.
const DEPTH: usize = 64;

/// Scores from row to row: a range, and a line more, so that rows lie in different sets of L1.
const SCORES: usize = RANGE + 16;

/// Tiles of channels of values that are multiplied at once.
const PAIR: usize = 2;

/// One thread's memory.
pub struct Scratch {
    few: attend_few::Scratch,
    /// Of the keys of the range, and of its values.
    scales: [[f32; RANGE]; 2],
    /// (TILE, channels), then their terms.
    queries: Lines<f32>,
    /// (TILE, SCORES): scores, then weights times the scales of values, then their terms.
    scores: Lines<f32>,
    /// (TILE, found_len): what the range adds.
    found: Lines<f32>,
}

impl Scratch {
    /// For heads of `channels`.
    pub fn new(channels: usize) -> Self {
        Self {
            few: attend_few::Scratch::new(channels),
            scales: [[0.0; RANGE]; 2],
            queries: Lines::new(TILE * channels),
            scores: Lines::new(TILE * SCORES),
            found: Lines::new(TILE * found_len(channels)),
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
    if queries.len() <= FEW * CHANNELS {
        return attend_few::attend::<CHANNELS, BLOCK>(queries, past, range, seen, &mut scratch.few, attended);
    }
    let queries = queries.as_chunks::<CHANNELS>().0;
    assert!(attended.len() == queries.len() * found_len(CHANNELS), "a record for each row");
    let seen = within(range, seen);
    let all = blocks_of::<BLOCK>(seen(0, queries.len() - 1));
    let [keys, values] = codes::<CHANNELS, BLOCK>(past, range, all, &mut scratch.scales);
    let tiles = Tiles::configure();
    let strips = queries.chunks(TILE).zip(attended.chunks_mut(TILE * found_len(CHANNELS)));
    for (strip, (queries, attended)) in strips.enumerate() {
        let seen = |first: usize, last: usize| seen(strip * TILE + first, strip * TILE + last);
        // SAFETY: the server refuses to start on a processor without AMX, AVX-512 F, BW and VBMI.
        unsafe { attend_rows::<CHANNELS, BLOCK>(&tiles, queries, [&keys, &values], seen, scratch, attended) }
    }
}

/// The same for the rows of a tile at most, and keys and values of the range.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn attend_rows<const CHANNELS: usize, const BLOCK: usize>(
    tiles: &Tiles,
    queries: &[[f32; CHANNELS]],
    [keys, values]: [&[&[Cell]; N_BLOCKS]; 2],
    seen: impl Fn(usize, usize) -> Range<usize>,
    scratch: &mut Scratch,
    attended: &mut [f32],
) {
    let n_rows = queries.len();
    let blocks = blocks_of::<BLOCK>(seen(0, n_rows - 1));
    if blocks.is_empty() {
        return;
    }
    let Scratch { scales, queries: terms, scores, found, .. } = scratch;
    let positions = blocks.start * BLOCK..blocks.end * BLOCK;
    let (keys, values) = (&keys[blocks.clone()], &values[blocks]);
    let scales = scales.each_ref().map(|scales| &scales[positions.clone()]);
    let mut units = [0.0; TILE];
    for ((query, terms), unit) in queries.iter().zip(terms.chunks_exact_mut(CHANNELS)).zip(&mut units) {
        let largest = copy(query, terms);
        *unit = part(terms, largest);
    }
    let of_tiles = seen(0, n_rows - 1);
    let of_tiles = (of_tiles.start - positions.start) / TILE..(of_tiles.end - positions.start).div_ceil(TILE);
    score::<CHANNELS>(tiles, terms, keys, of_tiles, scores);
    let mut ends = [[0.0; 2]; TILE];
    let rows = scores.chunks_exact_mut(SCORES).zip(units.iter_mut().zip(&mut ends)).take(n_rows);
    for (row, (scores, (unit, ends))) in rows.enumerate() {
        let scores = &mut scores[..positions.len()];
        let seen = seen(row, row);
        let seen = seen.start.saturating_sub(positions.start)..seen.end.saturating_sub(positions.start);
        let most;
        (*ends, most) = weigh(scores, scales, *unit, seen);
        *unit = part(scores, most);
    }
    sum_values::<CHANNELS, BLOCK>(tiles, scores, values, &units, found);
    let rows =
        attended.chunks_exact_mut(found_len(CHANNELS)).zip(found.chunks_exact_mut(found_len(CHANNELS)));
    for ((attended, found), ends) in rows.zip(ends) {
        found[CHANNELS..][..2].copy_from_slice(&ends);
        merge(attended, found);
    }
}

/// Copies a row, whose largest magnitude it returns.
#[target_feature(enable = "avx512f")]
fn copy(row: &[f32], to: &mut [f32]) -> f32 {
    let mut largest = _mm512_setzero_ps();
    for (lanes, to) in row.as_chunks::<TILE>().0.iter().zip(to.as_chunks_mut::<TILE>().0) {
        largest = _mm512_max_ps(largest, _mm512_abs_ps(load(lanes)));
        store(load(lanes), to);
    }
    _mm512_reduce_max_ps(largest)
}

/// Writes a row as whole numbers of sixteen bits in its place, DEPTH at a time: their upper bytes, then their lower ones.
/// Returns the step.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn part(row: &mut [f32], largest: f32) -> f32 {
    let (inverse, step) = steps(largest);
    // Of sixteen bits in the order that packing leaves, four of each vector in turn.
    // SAFETY: the bytes of a vector.
    let [upper, lower] = [&UPPER, &LOWER].map(|bytes| unsafe { _mm512_load_si512(bytes.0.as_ptr().cast()) });
    for at in 0..row.len() / DEPTH {
        let steps: [_; 4] = std::array::from_fn(|idx| {
            let lanes = load(&row[at * DEPTH + idx * TILE..]);
            _mm512_cvtps_epi32(_mm512_mul_ps(lanes, _mm512_set1_ps(inverse)))
        });
        let [a, b] = [_mm512_packs_epi32(steps[0], steps[1]), _mm512_packs_epi32(steps[2], steps[3])];
        // SAFETY: twice DEPTH bytes, of half as many cells as were read so far.
        unsafe {
            let to = row.as_mut_ptr().cast::<u8>().add(at * 2 * DEPTH);
            _mm512_storeu_si512(to.cast(), _mm512_permutex2var_epi8(a, upper, b));
            _mm512_storeu_si512(to.add(DEPTH).cast(), _mm512_permutex2var_epi8(a, lower, b));
        }
    }
    step
}

/// Which byte of two vectors each byte of a line is.
#[repr(align(64))]
struct Bytes([u8; DEPTH]);

static LOWER: Bytes = bytes(0);
static UPPER: Bytes = bytes(1);

/// Of four vectors that were packed to sixteen bits, two and two, the lower or the upper bytes in their order: packing takes four
/// numbers of either vector in turn.
const fn bytes(half: usize) -> Bytes {
    let mut bytes = Bytes([0; DEPTH]);
    let mut at = 0;
    while at < DEPTH {
        let (vector, lane) = (at / TILE, at % TILE);
        let number = lane / 4 * 8 + vector % 2 * 4 + lane % 4;
        bytes.0[at] = (vector / 2 * DEPTH + 2 * number + half) as u8;
        at += 1;
    }
    bytes
}

/// `scores[r · SCORES + p] = queries[r] · key p of the blocks`, in the units of both, for the positions of some tiles.
#[target_feature(enable = "avx512f")]
fn score<const CHANNELS: usize>(
    tiles: &Tiles,
    terms: &[f32],
    blocks: &[&[Cell]],
    of_tiles: Range<usize>,
    scores: &mut [f32],
) {
    let scores = &mut scores.as_chunks_mut::<SCORES>().0.as_chunks_mut::<TILE>().0[0];
    let mut sums = [Sums::new(), Sums::new()];
    let lanes = blocks.iter().flat_map(|block| block.chunks_exact(TILE * CHANNELS));
    hold::<CHANNELS>(tiles, terms);
    for (tile, codes) in lanes.enumerate().take(of_tiles.end).skip(of_tiles.start) {
        // While vectors take what tiles have found, tiles find the next.
        held_products::<CHANNELS>(tiles, terms, codes, &mut sums[tile % 2]);
        if tile > of_tiles.start {
            scores_of(&sums[1 - tile % 2], tile - 1, scores);
        }
    }
    let last = of_tiles.end - 1;
    scores_of(&sums[last % 2], last, scores);
}

/// The sums of each row as scores.
#[inline]
#[target_feature(enable = "avx512f")]
fn scores_of(sums: &Sums, tile: usize, scores: &mut [[f32; SCORES]; TILE]) {
    assert!(tile < RANGE / TILE, "tiles of a range");
    for (row, scores) in scores.iter_mut().enumerate() {
        store(whole(sums, row), &mut scores[tile * TILE..][..TILE]);
    }
}

/// `found[r · found_len + c] = unit r · Σ weights[r · SCORES + p] · channel c of value p of the blocks`.
#[target_feature(enable = "avx512f")]
fn sum_values<const CHANNELS: usize, const BLOCK: usize>(
    tiles: &Tiles,
    terms: &[f32],
    blocks: &[&[Cell]],
    units: &[f32; TILE],
    found: &mut [f32],
) {
    let mut sums = [const { [const { Sums::new() }; PAIR] }; 2];
    for pair in 0..CHANNELS / TILE / PAIR {
        products::<BLOCK>(tiles, terms, blocks, pair * PAIR * TILE, &mut sums[pair % 2]);
        if pair > 0 {
            found_of::<CHANNELS>(&sums[1 - pair % 2], pair - 1, units, found);
        }
    }
    let last = CHANNELS / TILE / PAIR - 1;
    found_of::<CHANNELS>(&sums[last % 2], last, units, found);
}

/// The sums of each row as values, of a pair of tiles of channels.
#[inline]
#[target_feature(enable = "avx512f")]
fn found_of<const CHANNELS: usize>(sums: &[Sums; PAIR], pair: usize, units: &[f32; TILE], found: &mut [f32]) {
    assert!(
        found.len() == TILE * found_len(CHANNELS) && pair < CHANNELS / TILE / PAIR,
        "a record for each row"
    );
    for (row, (unit, found)) in units.iter().zip(found.chunks_exact_mut(found_len(CHANNELS))).enumerate() {
        for (tile, sums) in (pair * PAIR..).zip(sums) {
            store(_mm512_mul_ps(whole(sums, row), _mm512_set1_ps(*unit)), &mut found[tile * TILE..]);
        }
    }
}

/// Sums of sixteen rows by a tile of lanes, of the upper and of the lower halves.
#[repr(align(64))]
struct Sums([[[MaybeUninit<i32>; TILE]; TILE]; 2]);

impl Sums {
    /// What no tile has written.
    const fn new() -> Self {
        Self([[[MaybeUninit::uninit(); TILE]; TILE]; 2])
    }
}

/// The products of the terms of weights and of a pair of tiles of channels of values, from `channel` on.
fn products<const BLOCK: usize>(
    _: &Tiles,
    terms: &[f32],
    blocks: &[&[Cell]],
    channel: usize,
    [left, right]: &mut [Sums; PAIR],
) {
    let mut codes = [std::ptr::null(); N_BLOCKS];
    for (to, block) in codes.iter_mut().zip(blocks) {
        *to = block[channel * BLOCK..][..PAIR * TILE * BLOCK].as_ptr();
    }
    assert!(!blocks.is_empty() && blocks.len() * BLOCK <= SCORES, "no more than a range");
    assert!(terms.len() >= TILE * SCORES, "a tile of rows");
    // SAFETY: tiles are configured; terms are sixteen rows of SCORES cells, of which a step reads a fourth of DEPTH, twice; at
    // each of `codes` lie two tiles of BLOCK positions, one behind the other; sums have room for sixteen rows of a tile, twice.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "mov {code}, [{codes}]",
            "mov {steps}, {n_steps}",
            "3:",
            "tileloadd tmm6, [{code} + {line}*1]",
            "tileloadd tmm4, [{terms} + {row}*1]",
            "tileloadd tmm7, [{code} + {line}*1 + {next}]",
            "tileloadd tmm5, [{terms} + {row}*1 + 64]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm2, tmm4, tmm7",
            "tdpbusd tmm1, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "add {code}, 1024",
            "add {terms}, 128",
            "dec {steps}",
            "jnz 3b",
            "add {codes}, 8",
            "dec {n_blocks}",
            "jnz 2b",
            "tilestored [{left} + {line}*1], tmm0",
            "tilestored [{left} + {line}*1 + 1024], tmm1",
            "tilestored [{right} + {line}*1], tmm2",
            "tilestored [{right} + {line}*1 + 1024], tmm3",
            code = out(reg) _,
            steps = out(reg) _,
            codes = inout(reg) codes.as_ptr() => _,
            n_blocks = inout(reg) blocks.len() => _,
            n_steps = const BLOCK / DEPTH,
            terms = inout(reg) terms.as_ptr() => _,
            row = in(reg) SCORES * size_of::<f32>(),
            line = in(reg) 64_usize,
            next = const TILE * BLOCK,
            left = in(reg) left.0.as_mut_ptr(),
            right = in(reg) right.0.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Steps of DEPTH channels whose terms stay in tiles while all keys pass.
const HELD: usize = 2;

/// Loads the terms of queries, upper and lower halves of HELD steps at most, into tiles 4 to 7.
fn hold<const CHANNELS: usize>(_: &Tiles, terms: &[f32]) {
    assert!(terms.len() >= TILE * CHANNELS, "a tile of rows");
    // SAFETY: tiles are configured; terms are sixteen rows of CHANNELS cells, of which a step reads a fourth of DEPTH, twice.
    unsafe {
        asm!(
            "tileloadd tmm4, [{terms} + {row}*1]",
            "tileloadd tmm5, [{terms} + {row}*1 + 64]",
            ".if {n_steps} > 1",
            "tileloadd tmm6, [{terms} + {row}*1 + 128]",
            "tileloadd tmm7, [{terms} + {row}*1 + 192]",
            ".endif",
            terms = in(reg) terms.as_ptr(),
            row = in(reg) CHANNELS * size_of::<f32>(),
            n_steps = const CHANNELS / DEPTH,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
}

/// The products of the terms that are held, and of those behind them, and a tile of keys.
fn held_products<const CHANNELS: usize>(_: &Tiles, terms: &[f32], codes: &[Cell], Sums(sums): &mut Sums) {
    assert!(codes.len() == TILE * CHANNELS && terms.len() >= TILE * CHANNELS, "a tile of keys and of rows");
    // SAFETY: tiles are configured, 4 to 7 with what `hold` loaded; codes are a line of sixteen for each four channels; sums have
    // room for sixteen rows of a tile, twice.
    unsafe {
        asm!(
            "tileloadd tmm2, [{codes} + {line}*1]",
            "tilezero tmm0",
            "tilezero tmm1",
            ".if {n_steps} > 1",
            "tileloadd tmm3, [{codes} + {line}*1 + 1024]",
            ".endif",
            "tdpbssd tmm0, tmm4, tmm2",
            "tdpbusd tmm1, tmm5, tmm2",
            ".if {n_steps} > 1",
            "tdpbssd tmm0, tmm6, tmm3",
            "tdpbusd tmm1, tmm7, tmm3",
            ".endif",
            ".if {n_steps} > {held}",
            ".set step, {held}",
            ".rept {n_steps} - {held}",
            "tileloadd tmm2, [{codes} + {line}*1 + 1024 * step]",
            "tileloadd tmm3, [{terms} + {row}*1 + 128 * step]",
            "tdpbssd tmm0, tmm3, tmm2",
            "tileloadd tmm3, [{terms} + {row}*1 + 128 * step + 64]",
            "tdpbusd tmm1, tmm3, tmm2",
            ".set step, step + 1",
            ".endr",
            ".endif",
            "tilestored [{sums} + {line}*1], tmm0",
            "tilestored [{sums} + {line}*1 + 1024], tmm1",
            codes = in(reg) codes.as_ptr(),
            terms = in(reg) terms.as_ptr(),
            row = in(reg) CHANNELS * size_of::<f32>(),
            line = in(reg) 64_usize,
            sums = in(reg) sums.as_mut_ptr(),
            n_steps = const CHANNELS / DEPTH,
            held = const HELD,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack),
        );
    }
}

/// The sums of a row, of both halves of the terms.
#[inline]
#[target_feature(enable = "avx512f")]
fn whole(Sums([upper, lower]): &Sums, row: usize) -> __m512 {
    // SAFETY: a row has sixteen sums, which tiles have written.
    unsafe {
        let upper = _mm512_loadu_si512(upper[row].as_ptr().cast());
        let lower = _mm512_loadu_si512(lower[row].as_ptr().cast());
        _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(upper), lower))
    }
}

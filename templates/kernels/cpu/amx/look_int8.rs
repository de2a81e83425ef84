//! Products of rows of sixteen bits and codes of eight in AMX tiles of eight bits: the upper halves of the terms and the lower
//! ones are multiplied apart, which is as exact.
//!
//! Sixteen rows by two tiles of lanes are in tiles, twice. What a row finds is the same bits as with AVX-512, which has the
//! memory's speed where rows are few: one thread, by a program that is not kept, read 9.3 GB/s with tiles for four rows and
//! 12.2 with vectors, 7.9 and 7.8 for eight; with 128 rows it multiplied 276 GFLOP/s with tiles, 176 with vectors.
//!
//! Two threads of an Intel Xeon that other processes used for 53 % of the time, best of sixty runs of `kernels_speed`, two heads
//! of 128 to a key head; the probe, disturbed alike, read 30 GB/s and multiplied 328 GFLOP/s of f32 in registers:
//!
//! * 452 GFLOP/s with 512 rows, 539 with the last 64 of 4096
//! * one row of 8192 from memory, in vectors: 24.1 GB/s, 80 %

use std::arch::asm;
use std::arch::x86_64::*;

use super::{
    look_few,
    merge::store,
    store::Cell,
    strip::{RANGE, TILE},
    tiles::Tiles,
};

/// Lanes of two tiles.
const LANES: usize = 2 * TILE;

/// Rows that are no less than tiles are worth.
const FEW: usize = 4;

/// Codes of a lane that a tile holds.
const DEPTH: usize = 64;

/// Bytes from row to row of terms: a range of positions or a head of channels, and a line more, so that rows lie in different
/// sets of L1.
const STRIDE: usize = RANGE + 64;

/// `scores[r · RANGE + p] = queries[r] · key p of the blocks`, in the units of both.
pub fn score<const CHANNELS: usize, const BLOCK: usize>(
    queries: &[i16],
    blocks: &[&[Cell]],
    scores: &mut [f32],
) {
    if queries.len() <= FEW * CHANNELS {
        return look_few::score::<CHANNELS, BLOCK>(queries, blocks, scores);
    }
    let (tiles, mut terms, mut sums) = (Tiles::configure(), Terms::new(), Sums::new());
    for (strip, queries) in queries.chunks(TILE * CHANNELS).enumerate() {
        terms.set(queries.chunks_exact(CHANNELS));
        for (idx, block) in blocks.iter().enumerate() {
            for (pair, codes) in block.chunks_exact(LANES * CHANNELS).enumerate() {
                products(&tiles, &terms, &[codes], &mut sums);
                let scores = &mut scores[strip * TILE * RANGE + idx * BLOCK + pair * LANES..];
                for row in 0..queries.len() / CHANNELS {
                    // SAFETY: the server refuses to start on a processor without AVX-512 F.
                    unsafe { scores_of(&sums, row, &mut scores[row * RANGE..]) }
                }
            }
        }
    }
}

/// `sums[r · CHANNELS + c] = Σ weights[r · RANGE + p] · channel c of value p of the blocks`.
pub fn sum_values<const CHANNELS: usize, const BLOCK: usize>(
    weights: &[i16],
    blocks: &[&[Cell]],
    sums: &mut [i32],
) {
    if sums.len() <= FEW * CHANNELS {
        return look_few::sum_values::<CHANNELS, BLOCK>(weights, blocks, sums);
    }
    let (tiles, mut terms, mut of_pair) = (Tiles::configure(), Terms::new(), Sums::new());
    let n_positions = blocks.len() * BLOCK;
    let strips = sums.chunks_mut(TILE * CHANNELS).zip(weights.chunks(TILE * RANGE));
    for (sums, weights) in strips {
        let n_rows = sums.len() / CHANNELS;
        terms.set(weights.chunks(RANGE).take(n_rows).map(|row| &row[..n_positions]));
        for channel in (0..CHANNELS).step_by(LANES) {
            let mut pair: [&[Cell]; RANGE / DEPTH] = [&[]; RANGE / DEPTH];
            let codes = blocks.iter().map(|block| &block[channel * BLOCK..][..LANES * BLOCK]);
            pair.iter_mut().zip(codes).for_each(|(to, codes)| *to = codes);
            products(&tiles, &terms, &pair[..blocks.len()], &mut of_pair);
            for (row, sums) in sums.chunks_exact_mut(CHANNELS).enumerate() {
                // SAFETY: as above.
                unsafe { sums_of(&of_pair, row, &mut sums[channel..]) }
            }
        }
    }
}

/// Sixteen rows of terms, the upper and the lower half of each.
#[repr(align(64))]
struct Terms([[u8; TILE * STRIDE]; 2]);

impl Terms {
    fn new() -> Self {
        Self([[0; TILE * STRIDE]; 2])
    }

    /// Rows that are not given stay as they were: what they find is nobody's.
    fn set<'a>(&mut self, rows: impl Iterator<Item = &'a [i16]>) {
        let [upper, lower] = &mut self.0;
        let halves = upper.chunks_exact_mut(STRIDE).zip(lower.chunks_exact_mut(STRIDE));
        for (terms, (upper, lower)) in rows.zip(halves) {
            for ((term, upper), lower) in terms.iter().zip(upper).zip(lower) {
                [*lower, *upper] = term.to_le_bytes();
            }
        }
    }
}

/// Sums of sixteen rows by two tiles of lanes, of the upper and of the lower halves.
#[repr(align(64))]
struct Sums([[[i32; LANES]; TILE]; 2]);

impl Sums {
    fn new() -> Self {
        Self([[[0; LANES]; TILE]; 2])
    }
}

/// The products of terms and of codes that follow each other, of two tiles of lanes each.
fn products(_: &Tiles, Terms(terms): &Terms, blocks: &[&[Cell]], Sums(sums): &mut Sums) {
    let n_steps = blocks[0].len() / LANES / DEPTH;
    let mut codes = [std::ptr::null(); RANGE / DEPTH];
    for (to, block) in codes.iter_mut().zip(blocks) {
        assert!(block.len() == n_steps * DEPTH * LANES, "two tiles of lanes");
        *to = block.as_ptr();
    }
    assert!(n_steps > 0 && blocks.len() * n_steps * DEPTH <= RANGE, "no deeper than the terms");
    // SAFETY: tiles are configured; terms are sixteen rows of STRIDE, twice, of which a step reads DEPTH; at each of `codes`
    // lie two tiles of `n_steps` · DEPTH · TILE codes; sums have room for sixteen rows by two tiles, twice.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "mov {left}, [{codes}]",
            "lea {right}, [{left} + {tile}]",
            "mov {steps}, {n_steps}",
            "3:",
            "tileloadd tmm6, [{left} + {line}*1]",
            "tileloadd tmm4, [{terms} + {row}*1]",
            "tileloadd tmm5, [{terms} + {row}*1 + {lower}]",
            "tileloadd tmm7, [{right} + {line}*1]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbusd tmm3, tmm5, tmm7",
            "add {left}, 1024",
            "add {right}, 1024",
            "add {terms}, 64",
            "dec {steps}",
            "jnz 3b",
            "add {codes}, 8",
            "dec {n_blocks}",
            "jnz 2b",
            "tilestored [{sums} + {lanes}*1], tmm0",
            "tilestored [{sums} + {lanes}*1 + 64], tmm1",
            "tilestored [{sums} + {lanes}*1 + {half}], tmm2",
            "tilestored [{sums} + {lanes}*1 + {half} + 64], tmm3",
            left = out(reg) _,
            right = out(reg) _,
            steps = out(reg) _,
            codes = inout(reg) codes.as_ptr() => _,
            n_blocks = inout(reg) blocks.len() => _,
            n_steps = in(reg) n_steps,
            tile = in(reg) n_steps * DEPTH * TILE,
            terms = inout(reg) terms.as_ptr() => _,
            lower = const TILE * STRIDE,
            row = in(reg) STRIDE,
            line = in(reg) 64_usize,
            sums = in(reg) sums.as_mut_ptr(),
            lanes = in(reg) LANES * size_of::<i32>(),
            half = const TILE * LANES * size_of::<i32>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// The sums of a row in one tile, of both halves of the terms.
#[inline]
#[target_feature(enable = "avx512f")]
fn whole(Sums([upper, lower]): &Sums, row: usize, tile: usize) -> __m512i {
    // SAFETY: a row has sixteen sums of each tile.
    unsafe {
        let upper = _mm512_loadu_si512(upper[row][tile * TILE..][..TILE].as_ptr().cast());
        let lower = _mm512_loadu_si512(lower[row][tile * TILE..][..TILE].as_ptr().cast());
        _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), lower)
    }
}

/// A row's sums as scores.
#[target_feature(enable = "avx512f")]
fn scores_of(sums: &Sums, row: usize, scores: &mut [f32]) {
    for (tile, scores) in scores[..LANES].chunks_exact_mut(TILE).enumerate() {
        store(_mm512_cvtepi32_ps(whole(sums, row, tile)), scores);
    }
}

/// A row's sums as they are.
#[target_feature(enable = "avx512f")]
fn sums_of(sums: &Sums, row: usize, to: &mut [i32]) {
    for (tile, to) in to[..LANES].chunks_exact_mut(TILE).enumerate() {
        // SAFETY: sixteen sums.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), whole(sums, row, tile)) }
    }
}

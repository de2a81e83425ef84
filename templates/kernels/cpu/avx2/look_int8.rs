//! Products of rows of sixteen bits and codes of eight: AVX2.
//!
//! Codes are widened to sixteen bits in registers. Two rows by a tile are there at a time, each row in four vectors of four
//! lanes by two sums, which are added at the end.

use super::{
    merge::store,
    store::Cell,
    strip::{RANGE, TILE},
};
use std::arch::x86_64::*;

/// Rows in registers.
const PAIR: usize = 2;

/// Vectors of a tile.
const VECTORS: usize = 4;

/// Codes of a line: sixteen lanes of four.
const LINE: usize = 4 * TILE;

/// `scores[r · RANGE + p] = queries[r] · key p of the blocks`, in the units of both.
pub fn score<const CHANNELS: usize, const BLOCK: usize>(
    queries: &[i16],
    blocks: &[&[Cell]],
    scores: &mut [f32],
) {
    let queries = queries.as_chunks::<CHANNELS>().0;
    for (idx, block) in blocks.iter().enumerate() {
        let ahead = blocks[(idx + 1).min(blocks.len() - 1)];
        for (pair, queries) in queries.chunks(PAIR).enumerate() {
            let scores = &mut scores[pair * PAIR * RANGE + idx * BLOCK..];
            // SAFETY: the server refuses to start on a processor without AVX2 and FMA.
            unsafe {
                match queries {
                    [a] => score_rows([a], [block, ahead], scores),
                    [a, b, ..] => score_rows([a, b], [block, ahead], scores),
                    [] => {}
                }
            }
        }
    }
}

/// The scores of R rows in one block.
#[target_feature(enable = "avx2,fma")]
fn score_rows<const CHANNELS: usize, const R: usize>(
    queries: [&[i16; CHANNELS]; R],
    [block, ahead]: [&[Cell]; 2],
    scores: &mut [f32],
) {
    let tiles = |block| <[Cell]>::chunks_exact(block, TILE * CHANNELS);
    for (idx, (tile, ahead)) in tiles(block).zip(tiles(ahead)).enumerate() {
        let mut sums = [[_mm256_setzero_si256(); VECTORS]; R];
        add_products(queries.map(|it| &it[..]), tile, ahead, &mut sums);
        for (row, sums) in sums.into_iter().enumerate() {
            for (half, sums) in lanes(sums).into_iter().enumerate() {
                store(_mm256_cvtepi32_ps(sums), &mut scores[row * RANGE + idx * TILE + 8 * half..]);
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
    for channel in (0..CHANNELS).step_by(TILE) {
        for (pair, sums) in sums.chunks_mut(PAIR * CHANNELS).enumerate() {
            let weights = &weights[pair * PAIR * RANGE..];
            // SAFETY: as above.
            unsafe {
                match sums.len() / CHANNELS {
                    1 => sum_lanes::<CHANNELS, BLOCK, 1>(weights, blocks, channel, sums),
                    _ => sum_lanes::<CHANNELS, BLOCK, 2>(weights, blocks, channel, sums),
                }
            }
        }
    }
}

/// The same for R rows and the tile of channels from `channel` on.
#[target_feature(enable = "avx2,fma")]
fn sum_lanes<const CHANNELS: usize, const BLOCK: usize, const R: usize>(
    weights: &[i16],
    blocks: &[&[Cell]],
    channel: usize,
    sums: &mut [i32],
) {
    let mut of_tile = [[_mm256_setzero_si256(); VECTORS]; R];
    for idx in 0..blocks.len() {
        let weights = std::array::from_fn(|row| &weights[row * RANGE + idx * BLOCK..][..BLOCK]);
        let tile = |block: usize, channel: usize| &blocks[block][channel * BLOCK..][..TILE * BLOCK];
        let ahead = if idx + 1 < blocks.len() {
            tile(idx + 1, channel)
        } else {
            tile(0, (channel + TILE) % CHANNELS)
        };
        add_products(weights, tile(idx, channel), ahead, &mut of_tile);
    }
    for (sums, of_tile) in sums.chunks_exact_mut(CHANNELS).zip(of_tile) {
        for (sums, of_lanes) in sums[channel..].as_chunks_mut::<8>().0.iter_mut().zip(lanes(of_tile)) {
            // SAFETY: eight sums.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), of_lanes) }
        }
    }
}

/// Adds the products of each row's terms and the tile's codes, four to a lane and line. What is needed next is fetched ahead.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_products<const R: usize>(
    rows: [&[i16]; R],
    tile: &[Cell],
    ahead: &[Cell],
    sums: &mut [[__m256i; VECTORS]; R],
) {
    let n_lines = tile.len() / LINE;
    assert!(rows.iter().all(|it| it.len() >= 4 * n_lines), "four terms of a line");
    for line in 0..n_lines {
        _mm_prefetch::<_MM_HINT_T0>(ahead.as_ptr().wrapping_add(line * LINE));
        let mut terms = [_mm256_setzero_si256(); R];
        for (terms, row) in terms.iter_mut().zip(rows) {
            // SAFETY: a row has four terms for each of `n_lines`.
            let four = unsafe { row.as_ptr().add(4 * line).cast::<i64>().read_unaligned() };
            *terms = _mm256_set1_epi64x(four);
        }
        for vector in 0..VECTORS {
            // SAFETY: the tile has a line for each of `n_lines`, of four vectors.
            let four =
                unsafe { _mm_loadu_si128(tile.as_ptr().add(line * LINE + vector * LINE / VECTORS).cast()) };
            let codes = _mm256_cvtepi8_epi16(four);
            for (sums, terms) in sums.iter_mut().zip(terms) {
                sums[vector] = _mm256_add_epi32(sums[vector], _mm256_madd_epi16(terms, codes));
            }
        }
    }
}

/// The sums of a tile's sixteen lanes, each of which stands in two neighbours.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn lanes([a, b, c, d]: [__m256i; VECTORS]) -> [__m256i; 2] {
    // Of two vectors' neighbours; each half has two lanes of either.
    let added = |a, b| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(a, b));
    [added(a, b), added(c, d)]
}

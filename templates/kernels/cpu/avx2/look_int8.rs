//! Products of rows of sixteen bits and codes of eight: AVX2.
//!
//! Codes are widened to sixteen bits in registers. Two rows by a tile are there at a time, each row in four vectors of four
//! lanes by two sums, which are added at the end.

use super::{
    merge::store,
    store::{Ahead, Cell},
    strip::{RANGE, TILE},
};
use std::arch::x86_64::*;

/// Rows in registers.
const PAIR: usize = 2;

/// Vectors of a tile.
const VECTORS: usize = 4;

/// Codes of a line: sixteen lanes of four.
const LINE: usize = 4 * TILE;

/// `scores[r · RANGE + p] = queries[r] · key p of the blocks`, in the units of both. As much is fetched as is read.
pub fn score<const CHANNELS: usize, const BLOCK: usize>(
    queries: &[i16],
    blocks: &[&[Cell]],
    ahead: &mut Ahead,
    scores: &mut [f32],
) {
    let queries = queries.as_chunks::<CHANNELS>().0;
    for (idx, block) in blocks.iter().enumerate() {
        for (pair, queries) in queries.chunks(PAIR).enumerate() {
            let scores = &mut scores[pair * PAIR * RANGE + idx * BLOCK..];
            if pair == 0 {
                score_pair(queries, block, || ahead.fetch(), scores);
            } else {
                score_pair(queries, block, || (), scores);
            }
        }
    }
}

/// The scores of PAIR rows at most in one block. `fetch` is called for each line.
fn score_pair<const CHANNELS: usize>(
    queries: &[[i16; CHANNELS]],
    block: &[Cell],
    fetch: impl FnMut(),
    scores: &mut [f32],
) {
    // SAFETY: the server refuses to start on a processor without AVX2 and FMA.
    unsafe {
        match queries {
            [a] => score_rows([a], block, fetch, scores),
            [a, b, ..] => score_rows([a, b], block, fetch, scores),
            [] => {}
        }
    }
}

/// The scores of R rows in one block.
#[target_feature(enable = "avx2,fma")]
fn score_rows<const CHANNELS: usize, const R: usize>(
    queries: [&[i16; CHANNELS]; R],
    block: &[Cell],
    mut fetch: impl FnMut(),
    scores: &mut [f32],
) {
    for (idx, tile) in block.chunks_exact(TILE * CHANNELS).enumerate() {
        let mut sums = [[_mm256_setzero_si256(); VECTORS]; R];
        add_products(queries.map(|it| &it[..]), tile, &mut fetch, &mut sums);
        for (row, sums) in sums.into_iter().enumerate() {
            for (half, sums) in lanes(sums).into_iter().enumerate() {
                store(_mm256_cvtepi32_ps(sums), &mut scores[row * RANGE + idx * TILE + 8 * half..]);
            }
        }
    }
}

/// `sums[r · CHANNELS + c] = Σ weights[r · RANGE + p] · channel c of value p of the blocks`. As much is fetched as is read.
pub fn sum_values<const CHANNELS: usize, const BLOCK: usize>(
    weights: &[i16],
    blocks: &[&[Cell]],
    ahead: &mut Ahead,
    sums: &mut [i32],
) {
    for channel in (0..CHANNELS).step_by(TILE) {
        for (pair, sums) in sums.chunks_mut(PAIR * CHANNELS).enumerate() {
            let weights = &weights[pair * PAIR * RANGE..];
            if pair == 0 {
                sum_pair::<CHANNELS, BLOCK>(weights, blocks, channel, || ahead.fetch(), sums);
            } else {
                sum_pair::<CHANNELS, BLOCK>(weights, blocks, channel, || (), sums);
            }
        }
    }
}

/// The same for PAIR rows at most and the tile of channels from `channel` on.
fn sum_pair<const CHANNELS: usize, const BLOCK: usize>(
    weights: &[i16],
    blocks: &[&[Cell]],
    channel: usize,
    fetch: impl FnMut(),
    sums: &mut [i32],
) {
    // SAFETY: as above.
    unsafe {
        match sums.len() / CHANNELS {
            1 => sum_lanes::<CHANNELS, BLOCK, 1>(weights, blocks, channel, fetch, sums),
            _ => sum_lanes::<CHANNELS, BLOCK, 2>(weights, blocks, channel, fetch, sums),
        }
    }
}

/// The same for R rows.
#[target_feature(enable = "avx2,fma")]
fn sum_lanes<const CHANNELS: usize, const BLOCK: usize, const R: usize>(
    weights: &[i16],
    blocks: &[&[Cell]],
    channel: usize,
    mut fetch: impl FnMut(),
    sums: &mut [i32],
) {
    let mut of_tile = [[_mm256_setzero_si256(); VECTORS]; R];
    for (idx, block) in blocks.iter().enumerate() {
        let weights = std::array::from_fn(|row| &weights[row * RANGE + idx * BLOCK..][..BLOCK]);
        let tile = &block[channel * BLOCK..][..TILE * BLOCK];
        add_products(weights, tile, &mut fetch, &mut of_tile);
    }
    for (sums, of_tile) in sums.chunks_exact_mut(CHANNELS).zip(of_tile) {
        for (sums, of_lanes) in sums[channel..].as_chunks_mut::<8>().0.iter_mut().zip(lanes(of_tile)) {
            // SAFETY: eight sums.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), of_lanes) }
        }
    }
}

/// Adds the products of each row's terms and the tile's codes, four to a lane and line. `fetch` is called for
/// each line.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_products<const R: usize>(
    rows: [&[i16]; R],
    tile: &[Cell],
    mut fetch: impl FnMut(),
    sums: &mut [[__m256i; VECTORS]; R],
) {
    let n_lines = tile.len() / LINE;
    assert!(rows.iter().all(|it| it.len() >= 4 * n_lines), "four terms of a line");
    for line in 0..n_lines {
        fetch();
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

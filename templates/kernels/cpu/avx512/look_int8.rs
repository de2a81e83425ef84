//! Products of rows of sixteen bits and codes of eight: AVX-512 VNNI.
//!
//! Codes are widened to sixteen bits in registers. Four rows by two tiles are there at a time, each row by a tile in two
//! vectors of eight lanes by two sums, which are added at the end.
//!
//! Two threads of an Intel Xeon that others used as well, best of sixty runs of `kernels_speed`, two heads of 128 to a key
//! head; the probe, disturbed alike, read 27.1 GB/s and multiplied 343 GFLOP/s of f32 in registers:
//!
//! * one row of 8192 from memory: 26.8 GB/s, all there is; of 1024: 25.7
//! * 320 GFLOP/s with 512 rows, 372 with the last 64 of 4096
//!
//! What is read next is fetched a line of each page in turn (ADR 23), in turns with the next block ahead of its use while memory gave less,
//! medians: one row of 8192 18.1 to 23.2 GB/s, of 1024 17.4 to 19.4.

use super::{
    merge::store,
    store::{Ahead, Cell},
    strip::{RANGE, TILE},
};
use std::arch::x86_64::*;

/// Rows in registers.
const QUAD: usize = 4;

/// Tiles in registers.
const PAIR: usize = 2;

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
        for (quad, queries) in queries.chunks(QUAD).enumerate() {
            let scores = &mut scores[quad * QUAD * RANGE + idx * BLOCK..];
            if quad == 0 {
                score_quad(queries, block, || ahead.fetch(), scores);
            } else {
                score_quad(queries, block, || (), scores);
            }
        }
    }
}

/// The scores of QUAD rows at most in one block. `fetch` is called for each line.
fn score_quad<const CHANNELS: usize>(
    queries: &[[i16; CHANNELS]],
    block: &[Cell],
    fetch: impl FnMut(),
    scores: &mut [f32],
) {
    // SAFETY: the server refuses to start on a processor without AVX-512 F, BW and VNNI.
    unsafe {
        match queries {
            [a] => score_rows([a], block, fetch, scores),
            [a, b] => score_rows([a, b], block, fetch, scores),
            [a, b, c] => score_rows([a, b, c], block, fetch, scores),
            [a, b, c, d, ..] => score_rows([a, b, c, d], block, fetch, scores),
            [] => {}
        }
    }
}

/// The scores of R rows in one block.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn score_rows<const CHANNELS: usize, const R: usize>(
    queries: [&[i16; CHANNELS]; R],
    block: &[Cell],
    mut fetch: impl FnMut(),
    scores: &mut [f32],
) {
    for (pair, tiles) in block.chunks_exact(PAIR * TILE * CHANNELS).enumerate() {
        let mut sums = [[[_mm512_setzero_si512(); 2]; PAIR]; R];
        add_products(queries.map(|it| &it[..]), tiles, &mut fetch, &mut sums);
        for (row, sums) in sums.into_iter().enumerate() {
            for (tile, sums) in sums.into_iter().enumerate() {
                let scores = &mut scores[row * RANGE + (pair * PAIR + tile) * TILE..];
                store(_mm512_cvtepi32_ps(lanes(sums)), scores);
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
    for channel in (0..CHANNELS).step_by(PAIR * TILE) {
        for (quad, sums) in sums.chunks_mut(QUAD * CHANNELS).enumerate() {
            let weights = &weights[quad * QUAD * RANGE..];
            if quad == 0 {
                sum_quad::<CHANNELS, BLOCK>(weights, blocks, channel, || ahead.fetch(), sums);
            } else {
                sum_quad::<CHANNELS, BLOCK>(weights, blocks, channel, || (), sums);
            }
        }
    }
}

/// The same for QUAD rows at most and the two tiles of channels from `channel` on.
fn sum_quad<const CHANNELS: usize, const BLOCK: usize>(
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
            2 => sum_lanes::<CHANNELS, BLOCK, 2>(weights, blocks, channel, fetch, sums),
            3 => sum_lanes::<CHANNELS, BLOCK, 3>(weights, blocks, channel, fetch, sums),
            _ => sum_lanes::<CHANNELS, BLOCK, 4>(weights, blocks, channel, fetch, sums),
        }
    }
}

/// The same for R rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sum_lanes<const CHANNELS: usize, const BLOCK: usize, const R: usize>(
    weights: &[i16],
    blocks: &[&[Cell]],
    channel: usize,
    mut fetch: impl FnMut(),
    sums: &mut [i32],
) {
    let mut of_tiles = [[[_mm512_setzero_si512(); 2]; PAIR]; R];
    for (idx, block) in blocks.iter().enumerate() {
        let weights = std::array::from_fn(|row| &weights[row * RANGE + idx * BLOCK..][..BLOCK]);
        let pair = &block[channel * BLOCK..][..PAIR * TILE * BLOCK];
        add_products(weights, pair, &mut fetch, &mut of_tiles);
    }
    for (sums, of_tiles) in sums.chunks_exact_mut(CHANNELS).zip(of_tiles) {
        for (sums, of_tile) in sums[channel..].as_chunks_mut::<TILE>().0.iter_mut().zip(of_tiles) {
            // SAFETY: sixteen sums.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), lanes(of_tile)) }
        }
    }
}

/// Adds the products of each row's terms and the codes of a pair of tiles, four to a lane and line. `fetch` is called
/// for each line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_products<const R: usize>(
    rows: [&[i16]; R],
    tiles: &[Cell],
    mut fetch: impl FnMut(),
    sums: &mut [[[__m512i; 2]; PAIR]; R],
) {
    let n_lines = tiles.len() / PAIR / LINE;
    assert!(rows.iter().all(|it| it.len() >= 4 * n_lines), "four terms of a line");
    for line in 0..n_lines {
        let mut codes = [[_mm512_setzero_si512(); 2]; PAIR];
        for (tile, codes) in codes.iter_mut().enumerate() {
            let at = (tile * n_lines + line) * LINE;
            fetch();
            // SAFETY: each tile has a line for each of `n_lines`, of two halves.
            unsafe {
                for (half, codes) in codes.iter_mut().enumerate() {
                    *codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(
                        tiles.as_ptr().add(at + half * LINE / 2).cast(),
                    ));
                }
            }
        }
        for (row, sums) in rows.iter().zip(&mut *sums) {
            // SAFETY: a row has four terms for each of `n_lines`.
            let terms = unsafe { row.as_ptr().add(4 * line).cast::<i64>().read_unaligned() };
            for (sums, codes) in sums.iter_mut().zip(codes) {
                for (sum, codes) in sums.iter_mut().zip(codes) {
                    *sum = _mm512_dpwssd_epi32(*sum, _mm512_set1_epi64(terms), codes);
                }
            }
        }
    }
}

/// The sums of a tile's sixteen lanes, each of which stands in two neighbours.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes([lower, upper]: [__m512i; 2]) -> __m512i {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    _mm512_add_epi32(
        _mm512_permutex2var_epi32(lower, even, upper),
        _mm512_permutex2var_epi32(lower, odd, upper),
    )
}

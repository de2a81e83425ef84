//! Products of rows of sixteen bits and codes of eight, in plain Rust.

use super::{
    store::{Ahead, Cell},
    strip::{RANGE, TILE},
};

/// `scores[r · RANGE + p] = queries[r] · key p of the blocks`, in the units of both. As much is fetched as is read.
pub fn score<const CHANNELS: usize, const BLOCK: usize>(
    queries: &[i16],
    blocks: &[&[Cell]],
    ahead: &mut Ahead,
    scores: &mut [f32],
) {
    for (row, query) in queries.chunks_exact(CHANNELS).enumerate() {
        let tiles = blocks.iter().flat_map(|block| block.chunks_exact(TILE * CHANNELS));
        for (tile, scores) in tiles.zip(scores[row * RANGE..].chunks_exact_mut(TILE)) {
            let mut sums = [0; TILE];
            add_products(query, tile, ahead, &mut sums);
            scores.iter_mut().zip(sums).for_each(|(score, sum)| *score = sum as f32);
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
    for (row, sums) in sums.chunks_exact_mut(CHANNELS).enumerate() {
        sums.fill(0);
        for (block, weights) in blocks.iter().zip(weights[row * RANGE..].chunks(BLOCK)) {
            for (tile, sums) in block.chunks_exact(TILE * BLOCK).zip(sums.as_chunks_mut().0) {
                add_products(weights, tile, ahead, sums);
            }
        }
    }
}

/// `sums[lane] += Σ terms · codes of the lane`, four of them in each of its cells. With each line one of what is read
/// next is fetched.
fn add_products(terms: &[i16], tile: &[Cell], ahead: &mut Ahead, sums: &mut [i32; TILE]) {
    let lines = tile.as_chunks::<{ 4 * TILE }>().0;
    for (terms, line) in terms.as_chunks::<4>().0.iter().zip(lines) {
        ahead.fetch();
        for (sum, codes) in sums.iter_mut().zip(line.as_chunks::<4>().0) {
            *sum +=
                terms.iter().zip(codes).map(|(term, code)| i32::from(*term) * i32::from(*code)).sum::<i32>();
        }
    }
}

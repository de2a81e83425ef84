//! Attention of one position over a paged cache, for the query heads that share a key head.
//!
//! Two passes: every score into scratch, softmax there, then the values weighted and added in the order of positions.
//! Checked against the same sum in f64; the bound is worked out in the test from Σ |q · k| and Σ w · |v|.
//!
//! One thread of an Intel Xeon, best of sixty runs: GB/s of keys and values read from memory, 1024 positions, two heads
//! of 128 to a key head. The probe reads 16.
//!
//! * plain Rust (`scalar/`): 7.7, 48 %
//! * two heads by four keys at a time, weighted values in registers: 11.9, 74 %
//!
//! Prefetching the next block gave 11.5, summing the lanes of four scores at once 11.9: neither was worth its lines.

use std::arch::x86_64::*;
use std::ops::Range;

use super::activation::exp;

/// out = softmax(query · keysᵀ) · values, for the GROUP query heads of `kv_head`.
///
/// * `query`, `out`: (GROUP, HEAD_DIM); the query is already divided by √HEAD_DIM
/// * `keys`, `values`: the pool of one layer, (n_blocks, n_kv_heads, BLOCK, HEAD_DIM)
/// * `blocks`: the sequence's blocks in order; position p is row p % BLOCK of block `blocks[p / BLOCK]`
/// * `positions`: those attended to, at least one
/// * `scores`: scratch, GROUP × positions.len() values or more
///
/// The result depends on the attended rows alone: not on where their blocks lie, nor on what else the pool holds.
#[expect(clippy::too_many_arguments, reason = "a kernel takes its operands as they are")]
pub fn attend<const HEAD_DIM: usize, const GROUP: usize, const BLOCK: usize>(
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    blocks: &[u32],
    kv_head: usize,
    n_kv_heads: usize,
    positions: Range<usize>,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let n_positions = positions.len();
    assert!(query.len() == GROUP * HEAD_DIM && out.len() == query.len(), "no GROUP heads of HEAD_DIM");
    assert!(n_positions > 0 && kv_head < n_kv_heads, "no positions in {positions:?}, or no head {kv_head}");
    let scores = &mut scores[..GROUP * n_positions];
    // The attended rows of each block lie side by side: the first one's index in `scores`, and where they are.
    let runs = || {
        let (start, end) = (positions.start, positions.end);
        (start / BLOCK..end.div_ceil(BLOCK)).map(move |block_idx| {
            let run = start.max(block_idx * BLOCK)..end.min((block_idx + 1) * BLOCK);
            let block = blocks[block_idx] as usize * n_kv_heads + kv_head;
            let first_row = block * BLOCK + run.start % BLOCK;
            (run.start - start, first_row * HEAD_DIM..(first_row + run.len()) * HEAD_DIM)
        })
    };
    // SAFETY: the server refuses to start on a processor without AVX-512 F.
    unsafe {
        for (first, rows) in runs() {
            score::<HEAD_DIM>(query, &keys[rows], &mut scores[first..], n_positions);
        }
        let mut sums = [0.0; GROUP];
        for (sum, scores) in sums.iter_mut().zip(scores.chunks_exact_mut(n_positions)) {
            *sum = exp_and_sum(scores);
        }
        out.fill(0.0);
        for (first, rows) in runs() {
            add_weighted::<HEAD_DIM>(&scores[first..], n_positions, &values[rows], out);
        }
        for (out, sum) in out.chunks_exact_mut(HEAD_DIM).zip(sums) {
            out.iter_mut().for_each(|value| *value /= sum);
        }
    }
}

// ---- scores
// ----------------------------------------------------------------------------------------------------------

/// `scores[g · stride + i] = query[g] · keys[i]` for every head g and key i, two heads by four keys at a time.
#[target_feature(enable = "avx512f")]
fn score<const HEAD_DIM: usize>(query: &[f32], keys: &[f32], scores: &mut [f32], stride: usize) {
    let (pairs, last) = query.as_chunks::<HEAD_DIM>().0.as_chunks::<2>();
    let (fours, rest) = keys.as_chunks::<HEAD_DIM>().0.as_chunks::<4>();
    for (pair, scores) in pairs.iter().zip(scores.chunks_mut(2 * stride)) {
        for (i, keys) in fours.iter().enumerate() {
            dot_products(pair, keys, &mut scores[4 * i..], stride);
        }
        for (i, key) in rest.iter().enumerate() {
            dot_products(pair, &[*key], &mut scores[4 * fours.len() + i..], stride);
        }
    }
    for query in last {
        let scores = &mut scores[2 * pairs.len() * stride..];
        for (i, keys) in fours.iter().enumerate() {
            dot_products(&[*query], keys, &mut scores[4 * i..], stride);
        }
        for (i, key) in rest.iter().enumerate() {
            dot_products(&[*query], &[*key], &mut scores[4 * fours.len() + i..], stride);
        }
    }
}

/// Each product has one accumulator, whose lane l takes d = l, l + 16, … in order, whichever tile it is in.
#[inline]
#[target_feature(enable = "avx512f")]
fn dot_products<const HEAD_DIM: usize, const G: usize, const N: usize>(
    query: &[[f32; HEAD_DIM]; G],
    keys: &[[f32; HEAD_DIM]; N],
    scores: &mut [f32],
    stride: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); N]; G];
    for d in (0..HEAD_DIM).step_by(16) {
        let mut key_lanes = [_mm512_setzero_ps(); N];
        for (lanes, key) in key_lanes.iter_mut().zip(keys) {
            *lanes = load(key, d);
        }
        for (sums, query) in sums.iter_mut().zip(query) {
            let query_lanes = load(query, d);
            for (sum, key_lanes) in sums.iter_mut().zip(key_lanes) {
                *sum = _mm512_fmadd_ps(query_lanes, key_lanes, *sum);
            }
        }
    }
    for (g, sums) in sums.into_iter().enumerate() {
        for (i, sum) in sums.into_iter().enumerate() {
            scores[g * stride + i] = _mm512_reduce_add_ps(sum);
        }
    }
}

// ---- softmax
// ---------------------------------------------------------------------------------------------------------

/// scores ← exp(scores - their largest), and the sum of that: lane l of sixteen adds i = l, l + 16, … in order.
#[target_feature(enable = "avx512f")]
fn exp_and_sum(scores: &mut [f32]) -> f32 {
    let (chunks, rest) = scores.as_chunks_mut::<16>();
    let mut last = [f32::NEG_INFINITY; 16];
    last[..rest.len()].copy_from_slice(rest);
    let mut largest = load(&last, 0);
    for chunk in &*chunks {
        largest = _mm512_max_ps(largest, load(chunk, 0));
    }
    let largest = _mm512_set1_ps(_mm512_reduce_max_ps(largest));

    let mut sum = _mm512_setzero_ps();
    for chunk in chunks {
        let weights = exp(_mm512_sub_ps(load(chunk, 0), largest));
        store(weights, chunk, 0);
        sum = _mm512_add_ps(sum, weights);
    }
    store(exp(_mm512_sub_ps(load(&last, 0), largest)), &mut last, 0);
    last[rest.len()..].fill(0.0);
    rest.copy_from_slice(&last[..rest.len()]);
    _mm512_reduce_add_ps(_mm512_add_ps(sum, load(&last, 0)))
}

// ---- values
// ----------------------------------------------------------------------------------------------------------

/// `out[g] += weights[g · stride + i] · values[i]` for every head g, in the order of i.
#[target_feature(enable = "avx512f")]
fn add_weighted<const HEAD_DIM: usize>(weights: &[f32], stride: usize, values: &[f32], out: &mut [f32]) {
    let values = values.as_chunks::<HEAD_DIM>().0;
    let (pairs, last) = out.as_chunks_mut::<HEAD_DIM>().0.as_chunks_mut::<2>();
    let first_of_last = 2 * pairs.len() * stride;
    for (pair, weights) in pairs.iter_mut().zip(weights.chunks(2 * stride)) {
        add_weighted_to(weights, stride, values, pair);
    }
    for head in last {
        add_weighted_to(&weights[first_of_last..], stride, values, std::array::from_mut(head));
    }
}

/// The same for G heads, 64 values of each at a time in registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_weighted_to<const HEAD_DIM: usize, const G: usize>(
    weights: &[f32],
    stride: usize,
    values: &[[f32; HEAD_DIM]],
    out: &mut [[f32; HEAD_DIM]; G],
) {
    let mut d = 0;
    while d + 64 <= HEAD_DIM {
        add_weighted_lanes::<HEAD_DIM, G, 4>(weights, stride, values, out, d);
        d += 64;
    }
    while d < HEAD_DIM {
        add_weighted_lanes::<HEAD_DIM, G, 1>(weights, stride, values, out, d);
        d += 16;
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_weighted_lanes<const HEAD_DIM: usize, const G: usize, const C: usize>(
    weights: &[f32],
    stride: usize,
    values: &[[f32; HEAD_DIM]],
    out: &mut [[f32; HEAD_DIM]; G],
    d: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); C]; G];
    for (sums, out) in sums.iter_mut().zip(&*out) {
        for (c, sum) in sums.iter_mut().enumerate() {
            *sum = load(out, d + 16 * c);
        }
    }
    for (i, value) in values.iter().enumerate() {
        let mut value_lanes = [_mm512_setzero_ps(); C];
        for (c, lanes) in value_lanes.iter_mut().enumerate() {
            *lanes = load(value, d + 16 * c);
        }
        for (g, sums) in sums.iter_mut().enumerate() {
            let weight = _mm512_set1_ps(weights[g * stride + i]);
            for (sum, lanes) in sums.iter_mut().zip(value_lanes) {
                *sum = _mm512_fmadd_ps(weight, lanes, *sum);
            }
        }
    }
    for (sums, out) in sums.into_iter().zip(out) {
        for (c, sum) in sums.into_iter().enumerate() {
            store(sum, out, d + 16 * c);
        }
    }
}

// ---- lanes
// -----------------------------------------------------------------------------------------------------------

/// Sixteen values from `at` on, zeros behind the last.
#[inline]
#[target_feature(enable = "avx512f")]
fn load<const N: usize>(values: &[f32; N], at: usize) -> __m512 {
    if at + 16 <= N {
        // SAFETY: 16 values follow.
        unsafe { _mm512_loadu_ps(values.as_ptr().add(at)) }
    } else {
        let mut lanes = [0.0; 16];
        lanes[..N - at].copy_from_slice(&values[at..]);
        load(&lanes, 0)
    }
}

/// As many lanes as there are values from `at` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn store<const N: usize>(lanes: __m512, values: &mut [f32; N], at: usize) {
    if at + 16 <= N {
        // SAFETY: 16 values follow.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr().add(at), lanes) }
    } else {
        let mut some = [0.0; 16];
        store(lanes, &mut some, 0);
        values[at..].copy_from_slice(&some[..N - at]);
    }
}

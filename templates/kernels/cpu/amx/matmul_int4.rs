//! y = x · wᵀ with int4 weights and activations in int8, AMX tiles where rows are many.
//!
//! Checked against Σₖ x · w in f64, of the numbers that the codes stand for: off by less than
//! (groups + 3) · 2⁻²⁴ · Σₖ |x · w|. Each instruction set gives the same bits.
//!
//! Two threads of an Intel Xeon that others used too, best of sixty runs of `kernels_speed`; the probe read 24 to 35 GB/s. Up
//! to 8 rows are multiplied by vectors, whose file has their figures.
//!
//! * a group unpacked for each strip of 32 rows, then as int8: 14 GB/s of weights with 12 rows, groups of 128, K = 1024
//! * one tile of rows where one is enough, the next step's weights fetched ahead, tiles multiplying a group while vectors
//!   unpack the next and scale the one before: 26 GB/s with 12 rows; with 512 rows, K = 3072: 920 GOP/s in groups of 32,
//!   1750 GOP/s in groups of 64, 2400 GOP/s in groups of 128
//! * 4 KiB fetched ahead, in turns with 2 while others used 80 % of the time, by a program that is not kept, medians of
//!   fifty pairs: 7 to 8 % more with 16 rows
//!
//! 512 k of a strip kept in L1 while eight panels pass, in turns with this by builds that are not kept: 5 % less.

use std::arch::x86_64::*;
use std::mem::swap;
use std::ops::Range;

use rt::columns::Finish;
use rt::fetch::PAGE;
use rt::image::{Int4, PANEL, Panels};

use super::dots::{BESIDE, Block, Found, TILE_ROWS, multiply, take};
use super::few_rows;
use super::operand::Operand;
use super::tiles::Tiles;
use super::tuning::{FEW_ROWS, PAGES, PANELS, STRIPS};

/// Cache lines of the weights of a step of 64 k. Where one strip is all rows, weights come from memory, and as many are
/// fetched ahead into L2.
const STEP_LINES: usize = 16;

/// Steps of a group that are too few to be told apart: vectors work beside all of them at once.
const FEW_STEPS: usize = 2;

/// Cache lines that are fetched ahead into L2 with each step where rows are many.
const SOME_LINES: usize = STEP_LINES / STRIPS;

/// Codes of a group unpacked, four to a cell. A group of 32 ends after half a tile: what follows stays zero.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Unpacked([[i8; 4 * PANEL]; LARGEST_GROUP / 4]);

/// Codes of the largest group.
const LARGEST_GROUP: usize = 128;

/// `y[r, c] = Σₖ x[r, k] · w[c, k]` for the first `n_rows` rows r of `x`, and every column c of some panels of `w`: given
/// to `finish` as panel, first row, and rows of cells.
///
/// The product of a group is a whole number. A cell is the sum of its groups in order, each rounded once as it is scaled
/// and added: it depends on its row and its weights alone, not on the other rows, nor their number, nor `panels`.
pub fn matmul<const K: usize, const GROUP: usize>(
    x: &Operand<K, GROUP>,
    n_rows: usize,
    w: &Panels<Int4<GROUP>>,
    panels: Range<usize>,
    finish: impl Finish,
) {
    if n_rows <= FEW_ROWS {
        return few_rows::matmul(x, n_rows, w, panels, finish);
    }
    assert!(n_rows <= x.n_rows(), "{n_rows} rows of {}", x.n_rows());
    let next = |some: Range<usize>| w.bytes(some).as_ptr().addr() + PAGES * PAGE;
    let later = |some: Range<usize>| w.bytes(some).as_ptr_range().end.addr();
    let all = panels.len().max(1);
    // SAFETY: the server refuses to start on a processor without AVX-512 F and BW.
    unsafe {
        if n_rows <= TILE_ROWS {
            strips::<K, GROUP, 1, STEP_LINES>(x, n_rows, w, panels, all, next, finish);
        } else if n_rows <= 2 * TILE_ROWS {
            strips::<K, GROUP, 2, STEP_LINES>(x, n_rows, w, panels, all, next, finish);
        } else {
            strips::<K, GROUP, 2, SOME_LINES>(x, n_rows, w, panels, PANELS, later, finish);
        }
    }
}

/// Strips of TILES tiles of rows by the columns of panels, `width` of which stay in L2 while all strips pass. With each step of
/// 64 k, LINES lines are fetched from where `ahead` of those panels says on, and some rows of the group before are scaled and
/// added, or finished where it was the last of its panel.
#[target_feature(enable = "avx512f,avx512bw")]
fn strips<const K: usize, const GROUP: usize, const TILES: usize, const LINES: usize>(
    x: &Operand<K, GROUP>,
    n_rows: usize,
    w: &Panels<Int4<GROUP>>,
    panels: Range<usize>,
    width: usize,
    ahead: impl Fn(Range<usize>) -> usize,
    finish: impl Finish,
) {
    let tiles = Tiles::configure();
    let mut blocks = [Block::of(0); 2];
    let [mut dots, mut done] = blocks.each_mut();
    let mut sums = Block::of(0.0);
    let mut unpacked = [Unpacked([[0; 4 * PANEL]; LARGEST_GROUP / 4]); 2];
    let mut before: Option<Found> = None;
    for start in panels.clone().step_by(width) {
        let some = start..panels.end.min(start + width);
        let mut ahead = ahead(some.clone());
        for first_row in (0..n_rows).step_by(TILES * TILE_ROWS) {
            for panel in some.clone() {
                for group in 0..Operand::<K, GROUP>::N_GROUPS {
                    let (cells, scales) = w.group(panel, group);
                    let group_bytes = size_of_val(cells) + size_of_val(scales);
                    let unpacked = &mut unpacked[group % 2];
                    unpack(cells, unpacked);
                    let cells = &unpacked.0[..(2 * cells.len()).next_multiple_of(TILE_ROWS)];
                    let n_steps = cells.len() / TILE_ROWS;
                    let n_beside = if n_steps > FEW_STEPS { n_steps } else { 0 };
                    let rows = (first_row, group);
                    let meanwhile = |step| {
                        if step < n_beside
                            && let Some(found) = &before
                        {
                            take(x, found, step * BESIDE, done, &mut sums, finish);
                        }
                    };
                    let cells = (cells, ahead);
                    multiply::<_, _, TILES, LINES>(&tiles, x, rows, cells, dots, |step| step, meanwhile);
                    if let Some(found) = &before {
                        for row in (n_beside * BESIDE..found.n_rows).step_by(BESIDE) {
                            take(x, found, row, done, &mut sums, finish);
                        }
                    }
                    ahead += group_bytes * LINES / STEP_LINES;
                    let n_rows = (n_rows - first_row).min(TILES * TILE_ROWS);
                    before = Some(Found {
                        panel,
                        group,
                        first_row,
                        n_rows,
                        scales: self::scales(w, panel, group),
                    });
                    swap(&mut dots, &mut done);
                }
            }
        }
    }
    if let Some(found) = &before {
        for row in (0..found.n_rows).step_by(BESIDE) {
            take(x, found, row, done, &mut sums, finish);
        }
    }
}

/// The codes of a group, each in the upper half of a byte, where it counts sixteenfold, with its sign.
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack(cells: &[[u8; 4 * PANEL]], unpacked: &mut Unpacked) {
    for (cells, [first, second]) in cells.iter().zip(unpacked.0.as_chunks_mut::<2>().0) {
        for line in [0, 64] {
            // SAFETY: a row of cells is two lines.
            unsafe {
                let codes = _mm512_loadu_si512(cells.as_ptr().add(line).cast());
                let upper = _mm512_set1_epi8(0xF0_u8 as i8);
                let lower = _mm512_and_si512(_mm512_slli_epi32::<4>(codes), upper);
                _mm512_store_si512(first.as_mut_ptr().add(line).cast(), lower);
                _mm512_store_si512(second.as_mut_ptr().add(line).cast(), _mm512_and_si512(codes, upper));
            }
        }
    }
}

/// The scales of a group: of the left and of the right columns of a panel.
#[target_feature(enable = "avx512f")]
fn scales<const GROUP: usize>(w: &Panels<Int4<GROUP>>, panel: usize, group: usize) -> [__m512; 2] {
    let (_, scales) = w.group(panel, group);
    [0, 16].map(|half| {
        // SAFETY: half of the columns are sixteen.
        let scales = unsafe { _mm256_loadu_si256(scales.as_ptr().add(half).cast()) };
        // A bf16 is the upper half of an f32.
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(scales)))
    })
}

//! y = x · wᵀ with weights and activations in int8, AMX tiles where rows are many.
//!
//! Checked against Σₖ x · w in f64, of the numbers that the codes stand for: off by less than
//! (groups + 3) · 2⁻²⁴ · Σₖ |x · w|. Each instruction set gives the same bits.
//!
//! Two threads of an Intel Xeon that others used too, best of sixty runs of `kernels_speed`, groups of 128; the probe read
//! 24 to 35 GB/s. Up to 8 rows are multiplied by vectors, whose file has their figures.
//!
//! * two by two tiles, then vectors: 20 GB/s of weights with 12 rows, K = 1024
//! * one tile of rows where one is enough, the next step's weights fetched ahead, tiles multiplying a group while vectors
//!   scale the one before: 31 GB/s with 12 rows
//! * 4 KiB fetched ahead, in turns with 2 while others used 80 % of the time, by a program that is not kept, medians of
//!   fifty pairs: 9 to 10 % more with 16 rows
//!
//! 512 rows, K = 3072, the best of three runs with nothing beside them, by how many weights share a scale:
//!
//! * 64: 1500 GOP/s
//! * 128: 2100 GOP/s
//! * 256: 2500 GOP/s
//! * all of a row: 3200 GOP/s
//!
//! Vectors scale and finish some rows of the block before beside each step, not all after the last: 5 to 8 % less time for
//! a prompt of 512 with one scale a row, in turns, a server each, by a program that is not kept. A group of two steps is too
//! short for that.
//!
//! Four rows beside a step, in code that the step is compiled with, and every other panel from its last k to its first, where
//! one scale is a row's: 14 % less time for a prompt of 512 of qwen3-0.6b, in turns again, two sevenths of which is the order.
//! Without storing its cells a C program of this shape that is not kept is a quarter faster (K = 1024): their lines are in no near
//! cache. Stored as they are found, in tiles and not in rows, products gain up to a tenth, and who reads rows loses it.
//!
//! 512 k of a strip kept in L1 while eight panels pass, in turns with this by builds that are not kept: 1 to 4 % more, and
//! 5 % less in int4. Not worth its lines.

use std::arch::x86_64::*;
use std::mem::swap;
use std::ops::Range;

use rt::columns::Finish;
use rt::fetch::PAGE;
use rt::image::{Int8, Panels};

use super::dots::{BESIDE, Block, Found, TILE_ROWS, multiply, take};
use super::few_rows;
use super::operand::Operand;
use super::tiles::Tiles;
use super::tuning::{FEW_ROWS, PAGES, PANELS, STRIPS};

/// Cache lines of the weights of a step of 64 k. Where one strip is all rows, weights come from memory, and as many are
/// fetched ahead into L2.
const STEP_LINES: usize = 32;

/// Steps of a group that are too few to be told apart: vectors work beside all of them at once.
const FEW_STEPS: usize = 2;

/// Cache lines that are fetched ahead into L2 with each step where rows are many.
const SOME_LINES: usize = STEP_LINES / STRIPS;

/// `y[r, c] = Σₖ x[r, k] · w[c, k]` for the first `n_rows` rows r of `x`, and every column c of some panels of `w`: given
/// to `finish` as panel, first row, and rows of cells.
///
/// The product of a group is a whole number. A cell is the sum of its groups in order, each rounded once as it is scaled
/// and added: it depends on its row and its weights alone, not on the other rows, nor their number, nor `panels`.
pub fn matmul<const K: usize, const GROUP: usize>(
    x: &Operand<K, GROUP>,
    n_rows: usize,
    w: &Panels<Int8<GROUP>>,
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
    // SAFETY: the server refuses to start on a processor without AVX-512 F.
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
#[target_feature(enable = "avx512f")]
fn strips<const K: usize, const GROUP: usize, const TILES: usize, const LINES: usize>(
    x: &Operand<K, GROUP>,
    n_rows: usize,
    w: &Panels<Int8<GROUP>>,
    panels: Range<usize>,
    width: usize,
    ahead: impl Fn(Range<usize>) -> usize,
    finish: impl Finish,
) {
    let tiles = Tiles::configure();
    let mut blocks = [Block::of(0); 2];
    let [mut dots, mut done] = blocks.each_mut();
    let mut sums = Block::of(0.0);
    let n_groups = Operand::<K, GROUP>::N_GROUPS;
    let (mut before, mut is_back): (Option<Found>, bool) = (None, false);
    for start in panels.clone().step_by(width) {
        let some = start..panels.end.min(start + width);
        let mut ahead = ahead(some.clone());
        for first_row in (0..n_rows).step_by(TILES * TILE_ROWS) {
            for panel in some.clone() {
                for group in 0..n_groups {
                    let (cells, scales) = w.group(panel, group);
                    let group_bytes = size_of_val(cells) + size_of_val(scales);
                    let n_steps = cells.len() / TILE_ROWS;
                    let n_beside = if n_steps > FEW_STEPS { n_steps } else { 0 };
                    let rows = (first_row, group);
                    let order = |turn| if is_back { back(n_steps, turn) } else { turn };
                    let meanwhile = |turn| {
                        if turn < n_beside
                            && let Some(found) = &before
                        {
                            take(x, found, turn * BESIDE, done, &mut sums, finish);
                        }
                    };
                    multiply::<_, _, TILES, LINES>(&tiles, x, rows, (cells, ahead), dots, order, meanwhile);
                    is_back = LINES == SOME_LINES && n_groups == 1 && !is_back;
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

/// Steps that follow each other in either order: of theirs the codes of a strip are half of L1.
const PIECE: usize = 8;

/// The step of a turn on the way back, piece by piece: it begins with the codes of the strip that the way there ended with,
/// while they are in L1. Within a piece steps go forwards, as memory is fetched.
fn back(n_steps: usize, turn: usize) -> usize {
    n_steps.saturating_sub((turn / PIECE + 1) * PIECE) + turn % PIECE
}

/// The scales of a group: of the left and of the right columns of a panel.
#[target_feature(enable = "avx512f")]
fn scales<const GROUP: usize>(w: &Panels<Int8<GROUP>>, panel: usize, group: usize) -> [__m512; 2] {
    let (_, scales) = w.group(panel, group);
    // SAFETY: half of the columns are sixteen.
    [0, 16].map(|half| unsafe { _mm512_loadu_ps(scales.as_ptr().add(half)) })
}

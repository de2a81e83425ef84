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
//! 512 k of a strip kept in L1 while eight panels pass, in turns with this by builds that are not kept: 1 to 4 % more, and
//! 5 % less in int4. Not worth its lines.

use std::arch::x86_64::*;
use std::mem::swap;
use std::ops::Range;

use rt::image::{Int8, PANEL, Panels};

use super::dots::{Block, TILE_ROWS, add, multiply, piece};
use super::few_rows;
use super::operand::Operand;
use super::tiles::Tiles;
use super::tuning::{AHEAD, FEW_ROWS, PANELS, STRIPS};

/// Cache lines of the weights of a step of 64 k. Where one strip is all rows, weights come from memory, and as many are
/// fetched ahead into L1.
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
    finish: impl FnMut(usize, usize, &[[f32; PANEL]]),
) {
    if n_rows <= FEW_ROWS {
        return few_rows::matmul(x, n_rows, w, panels, finish);
    }
    assert!(n_rows <= x.n_rows(), "{n_rows} rows of {}", x.n_rows());
    let next = |some: Range<usize>| w.bytes(some).as_ptr().wrapping_add(64 * AHEAD);
    let later = |some: Range<usize>| w.bytes(some).as_ptr_range().end;
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
    ahead: impl Fn(Range<usize>) -> *const u8,
    mut finish: impl FnMut(usize, usize, &[[f32; PANEL]]),
) {
    let tiles = Tiles::configure();
    let n_groups = Operand::<K, GROUP>::N_GROUPS;
    let mut blocks = [Block::of(0); 2];
    let [mut dots, mut done] = blocks.each_mut();
    let mut sums = Block::of(0.0);
    let mut add =
        |(first_row, panel, group): (usize, usize, usize), rows: Range<usize>, done: &Block<i32>| {
            add(x, first_row, rows.clone(), group, scales(w, panel, group), done, &mut sums);
            if group + 1 == n_groups {
                finish(panel, first_row + rows.start, &sums.0[rows]);
            }
        };
    let rows_from = |first_row: usize| (n_rows - first_row).min(TILES * TILE_ROWS);
    let mut before: Option<(usize, usize, usize)> = None;
    for start in panels.clone().step_by(width) {
        let some = start..panels.end.min(start + width);
        let mut ahead = ahead(some.clone());
        for first_row in (0..n_rows).step_by(TILES * TILE_ROWS) {
            for panel in some.clone() {
                for group in 0..n_groups {
                    let (cells, scales) = w.group(panel, group);
                    let group_bytes = size_of_val(cells) + size_of_val(scales);
                    let n_steps = cells.len() / TILE_ROWS;
                    multiply::<K, GROUP, TILES, LINES>(
                        &tiles,
                        x,
                        (first_row, group),
                        cells,
                        ahead,
                        dots,
                        |step| {
                            if n_steps > FEW_STEPS
                                && let Some(before @ (first_row, ..)) = before
                            {
                                add(before, piece(rows_from(first_row), step, n_steps), done);
                            }
                        },
                    );
                    if n_steps <= FEW_STEPS
                        && let Some(before @ (first_row, ..)) = before
                    {
                        add(before, 0..rows_from(first_row), done);
                    }
                    ahead = ahead.wrapping_add(group_bytes * LINES / STEP_LINES);
                    before = Some((first_row, panel, group));
                    swap(&mut dots, &mut done);
                }
            }
        }
    }
    if let Some(before @ (first_row, ..)) = before {
        add(before, 0..rows_from(first_row), done);
    }
}

/// The scales of a group: of the left and of the right columns of a panel.
#[target_feature(enable = "avx512f")]
fn scales<const GROUP: usize>(w: &Panels<Int8<GROUP>>, panel: usize, group: usize) -> [__m512; 2] {
    let (_, scales) = w.group(panel, group);
    // SAFETY: half of the columns are sixteen.
    [0, 16].map(|half| unsafe { _mm512_loadu_ps(scales.as_ptr().add(half)) })
}

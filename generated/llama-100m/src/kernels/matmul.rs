//! y = x · wᵀ in AMX tiles: bf16 weights in panels, activations in one or three bf16 terms, summed in f32.
//!
//! Checked against Σₖ x · w in f64: with three terms off by less than (K + 9) · 2⁻²⁴ · Σₖ |x · w|, with one by 2⁻⁸
//! more.
//!
//! Two threads of an Intel Xeon, best of sixty runs of `kernels_speed`, K = 1024; the probe reads 32 GB/s:
//!
//! * one term: 34 GB/s of weights with one row, 30 with 8, 28 with 16; 2060 GFLOP/s with 512 rows
//! * three terms: 34 GB/s with one row, 25 with 8, 16 with 16; 857 GFLOP/s with 512 rows
//!
//! On the way there, by programs that are not kept. A core multiplies 3870 GFLOP/s in tiles that are loaded already,
//! and 2400 where each step loads all four from L2, whose 48 bytes a cycle are the bound.
//!
//! * two by two tiles over all of K: 1300 GFLOP/s a core, both operands from L2
//! * 256 k of a strip of x stay in L1 while eight panels pass: 1650 a core, as long as no cell is stored; sums come and
//!   go
//! * three terms as rows of tiles, not as three products of a tile: one row at 27 GB/s where it was 20
//! * the next step's weights fetched ahead where rows are few: 33 GB/s
//! * all k of a panel at once, and vectors finish some rows of the block before beside each step: 7 % more at K = 1024
//!   and 30 % more at K = 3072 with one term, 10 % less with three (bests of `kernels_speed`, in turns, others used a
//!   third of the time)
//! * four panels stay in L2, not eight: 11 % less time for a prompt of 512 of qwen3-0.6b, one term, in turns, and most
//!   where both processors share one L2
//! * weights of few rows fetched from eight pages in turn (ADR 23), beside 4 KiB ahead while memory gave less: 18.1 to
//!   28.1 GB/s with one row and one term, 18.5 to 26.8 with 8, medians

use std::arch::asm;
use std::mem::swap;
use std::ops::Range;

use half::bf16;
use rt::columns::Finish;
use rt::fetch::{PAGE, some_in_turn, spread};
use rt::image::{PANEL, Panels};

use super::operand::Operand;
use super::tiles::Tiles;
use super::tuning::{PAGES, PANELS, STRIPS};

/// Rows of a tile.
const TILE_ROWS: usize = 16;

/// Rows that vectors take beside a step of tiles, while what tiles found is still in L1.
const BESIDE: usize = 4;

/// Weights of a tile.
const TILE: usize = 512;

/// Cache lines of the weights of a step of 32 k. Where rows are few, weights come from memory, and as many are fetched
/// ahead into L2.
const STEP_LINES: usize = 32;

/// Cache lines that are fetched ahead into L2 with each step where rows are many.
const SOME_LINES: usize = STEP_LINES / STRIPS;

/// Sums of two tiles of terms, one above the other, by the columns of a panel.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Block([[f32; PANEL]; 2 * TILE_ROWS]);

/// Some rows by a panel, which tiles have multiplied and vectors have not taken.
struct Found {
    panel: usize,
    first_row: usize,
    n_rows: usize,
}

/// `y[r, c] = Σₖ x[r, k] · w[c, k]` for the first `n_rows` rows r of `x`, and every column c of some panels of `w`:
/// given to `finish` as panel, first row, and rows of cells.
///
/// A cell is the sum of its terms, each summed over k in order. It depends on its row and its weights alone: not on the
/// other rows, nor their number, nor `panels`.
pub fn matmul<const K: usize, const TERMS: usize>(
    x: &Operand<K, TERMS>,
    n_rows: usize,
    w: &Panels<bf16>,
    panels: Range<usize>,
    finish: impl Finish,
) {
    assert!(n_rows <= x.n_rows(), "{n_rows} rows of {}", x.n_rows());
    // Whole rows to a tile.
    let half = TILE_ROWS / TERMS;
    // SAFETY: the server refuses to start on a processor without AVX-512 F.
    unsafe {
        if n_rows <= half {
            strip::<K, TERMS, 1>(x, n_rows, w, panels, finish);
        } else if n_rows <= 2 * half {
            strip::<K, TERMS, 2>(x, n_rows, w, panels, finish);
        } else {
            strips(x, n_rows, w, panels, finish);
        }
    }
}

/// TILES tiles of rows at most: weights come from memory, a panel after the other.
#[target_feature(enable = "avx512f")]
fn strip<const K: usize, const TERMS: usize, const TILES: usize>(
    x: &Operand<K, TERMS>,
    n_rows: usize,
    w: &Panels<bf16>,
    panels: Range<usize>,
    finish: impl Finish,
) {
    let tiles = Tiles::configure();
    let mut block = Block::ZERO;
    for panel in panels {
        let weights = w.tiles(panel..panel + 1);
        let ahead = weights.as_ptr().addr() + PAGES * PAGE;
        multiply::<K, TERMS, TILES, STEP_LINES>(&tiles, x, 0, weights, ahead, &mut block, |_| ());
        for row in 0..n_rows {
            finish.take(panel, row, block.cells::<TERMS, 1>(row));
        }
    }
}

/// Some panels stay in L2 while all rows pass, a strip after the other. Beside each step vectors take some rows of the
/// block before.
#[target_feature(enable = "avx512f")]
fn strips<const K: usize, const TERMS: usize>(
    x: &Operand<K, TERMS>,
    n_rows: usize,
    w: &Panels<bf16>,
    panels: Range<usize>,
    finish: impl Finish,
) {
    let tiles = Tiles::configure();
    let n_steps = K.div_ceil(32);
    let rows = 2 * (TILE_ROWS / TERMS);
    let mut blocks = [Block::ZERO; 2];
    let [mut block, mut done] = blocks.each_mut();
    let mut before: Option<Found> = None;
    for start in panels.clone().step_by(PANELS) {
        let some = start..panels.end.min(start + PANELS);
        let mut ahead = w.tiles(some.clone()).as_ptr_range().end.addr();
        for first_row in (0..n_rows).step_by(rows) {
            for panel in some.clone() {
                let weights = w.tiles(panel..panel + 1);
                multiply::<K, TERMS, 2, SOME_LINES>(&tiles, x, first_row, weights, ahead, block, |step| {
                    if let Some(found) = &before {
                        take::<TERMS>(found, step * BESIDE, done, finish);
                    }
                });
                if let Some(found) = &before {
                    for row in (n_steps * BESIDE..found.n_rows).step_by(BESIDE) {
                        take::<TERMS>(found, row, done, finish);
                    }
                }
                ahead += n_steps * SOME_LINES * 64;
                before = Some(Found { panel, first_row, n_rows: (n_rows - first_row).min(rows) });
                swap(&mut block, &mut done);
            }
        }
    }
    if let Some(found) = &before {
        for row in (0..found.n_rows).step_by(BESIDE) {
            take::<TERMS>(found, row, done, finish);
        }
    }
}

/// Gives BESIDE rows of a block to `finish`, or as many as are left, from `row` on.
#[target_feature(enable = "avx512f")]
fn take<const TERMS: usize>(found: &Found, row: usize, block: &mut Block, finish: impl Finish) {
    // Of a number of rows that is known there are no loops.
    if row + BESIDE <= found.n_rows {
        finish.take(found.panel, found.first_row + row, block.cells::<TERMS, BESIDE>(row));
    } else {
        for row in row..found.n_rows {
            finish.take(found.panel, found.first_row + row, block.cells::<TERMS, 1>(row));
        }
    }
}

impl Block {
    const ZERO: Self = Self([[0.0; PANEL]; 2 * TILE_ROWS]);

    /// The cells of N rows, each the sum of its terms, the smallest first. Rows are taken in order, once.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn cells<const TERMS: usize, const N: usize>(&mut self, first: usize) -> &[[f32; PANEL]] {
        let half = TILE_ROWS / TERMS;
        for row in first..first + N {
            let terms = row / half * TILE_ROWS + row % half * TERMS;
            // Terms lie in their row of cells or behind it: none is lost before it is added.
            let mut sums = self.0[terms + TERMS - 1];
            for term in self.0[terms..terms + TERMS - 1].iter().rev() {
                sums.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
            }
            self.0[row] = sums;
        }
        &self.0[first..][..N]
    }
}

/// The products of a panel, of TILES tiles of terms, one or two; LINES lines are fetched from `ahead` on with each
/// step. Tiles leave vectors idle: `meanwhile` is what those do beside each step.
#[target_feature(enable = "avx512f")]
fn multiply<const K: usize, const TERMS: usize, const TILES: usize, const LINES: usize>(
    _: &Tiles,
    x: &Operand<K, TERMS>,
    first_row: usize,
    weights: &[bf16],
    ahead: usize,
    block: &mut Block,
    mut meanwhile: impl FnMut(usize),
) {
    let term_bytes = Operand::<K, TERMS>::STRIDE * size_of::<bf16>();
    let weights: &[[bf16; 2 * TILE]] = weights.as_chunks().0;
    assert!(weights.len() == K.div_ceil(32), "a panel has all steps of {K}");
    let upper = x.row_ptr(first_row);
    // SAFETY: tiles are configured. Nothing but the lines below changes them: the compiler does not use tiles.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            ".if {tiles} == 2",
            "tilezero tmm2",
            "tilezero tmm3",
            ".endif",
            tiles = const TILES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, nomem),
        );
    }
    for (step, weights) in weights.iter().enumerate() {
        let upper = upper.wrapping_add(64 * step);
        // SAFETY: x has rows of terms for two tiles from its row on, a line of each for every step; weights are two
        // tiles, and what is ahead is only fetched.
        unsafe {
            asm!(
                "tileloadd tmm6, [{weights} + {line}*1]",
                "tileloadd tmm4, [{upper} + {term}*1]",
                "tileloadd tmm7, [{weights} + {line}*1 + 1024]",
                ".if {tiles} == 2",
                "tileloadd tmm5, [{lower} + {term}*1]",
                ".endif",
                ".set page, 0",
                ".rept {n_pages}",
                ".set line, page",
                ".rept {n_lines}",
                "prefetcht1 [{ahead} + line]",
                ".set line, line + 64",
                ".endr",
                ".set page, page + {page}",
                ".endr",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                ".if {tiles} == 2",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                ".endif",
                weights = in(reg) weights.as_ptr(),
                line = in(reg) 64_usize,
                upper = in(reg) upper,
                lower = in(reg) upper.wrapping_add(TILE_ROWS / TERMS * TERMS * term_bytes),
                term = in(reg) term_bytes,
                ahead = in(reg) some_in_turn::<PAGES, LINES>(ahead + 64 * LINES * step),
                tiles = const TILES,
                n_pages = const spread(PAGES, LINES),
                n_lines = const LINES / spread(PAGES, LINES),
                page = const PAGE,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
        meanwhile(step);
    }
    // SAFETY: a block is four tiles.
    unsafe {
        asm!(
            "tilestored [{cells} + {row}*1], tmm0",
            "tilestored [{cells} + {row}*1 + 64], tmm1",
            ".if {tiles} == 2",
            "tilestored [{cells} + {row}*1 + 2048], tmm2",
            "tilestored [{cells} + {row}*1 + 2112], tmm3",
            ".endif",
            cells = in(reg) block.0.as_mut_ptr(),
            row = in(reg) 128_usize,
            tiles = const TILES,
            options(nostack),
        );
    }
}

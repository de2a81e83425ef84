//! y = x · wᵀ in AMX tiles: bf16 weights in panels, activations in one or three bf16 terms, summed in f32.
//!
//! Checked against Σₖ x · w in f64: with three terms off by less than (K + 9) · 2⁻²⁴ · Σₖ |x · w|, with one by 2⁻⁸ more.
//!
//! Two threads of an Intel Xeon, best of sixty runs of `kernels_speed`, K = 1024. Tiles in registers reach 7750 GFLOP/s; with all four
//! loaded from L2 for each step, 4800: L2 gives 48 bytes a cycle, and a step of 64 cycles loads 4 KiB.
//!
//! * two by two tiles over all of K, one term: 1300 GFLOP/s a thread with weights in L2, both operands from there
//! * 256 k of a strip of x stay in L1 while eight panels pass: 1850 with weights from memory and every cell stored, 3300
//!   from L3 with none stored
//! * three terms as rows of tiles instead of three products a tile: decoding 20 to 33 GB/s
//! * the next step's weights fetched ahead where rows are few: 27 to 33 GB/s, the probe reads 29
//!
//! With 512 rows, cells that are stored and weights that come from memory take the other half of the time.

use std::arch::asm;
use std::ops::Range;

use half::bf16;
use rt::image::{PANEL, Panels};

use super::operand::Operand;
use super::tiles::Tiles;

/// Rows of a tile.
const TILE_ROWS: usize = 16;

/// Weights of a tile.
const TILE: usize = 512;

/// Panels that share a strip of x while it is in L1.
const PANELS: usize = 8;

/// Steps of 32 k before the next panel comes: 32 terms of 256 k, and the weights of the step, fit into L1.
const DEPTH: usize = 8;

/// Sums of two tiles of terms, one above the other, by the columns of a panel.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Block([[f32; PANEL]; 2 * TILE_ROWS]);

/// `y[r, c] = Σₖ x[r, k] · w[c, k]` for the first `n_rows` rows r of `x`, and every column c of some panels of `w`: given
/// to `finish` as panel, first row, and rows of cells.
///
/// A cell is the sum of its terms, each summed over k in order. It depends on its row and its weights alone: not on the
/// other rows, nor their number, nor `panels`.
pub fn matmul<const K: usize, const TERMS: usize>(
    x: &Operand<K, TERMS>,
    n_rows: usize,
    w: &Panels<bf16>,
    panels: Range<usize>,
    mut finish: impl FnMut(usize, usize, &[[f32; PANEL]]),
) {
    assert!(n_rows <= x.n_rows(), "{n_rows} rows of {}", x.n_rows());
    let tiles = Tiles::configure();
    // Whole rows to a tile.
    let half = TILE_ROWS / TERMS;
    let n_steps = K.div_ceil(32);
    // A few rows read weights from memory, panel by panel; many have them in L2, and then x is what should stay close.
    let is_few = n_rows <= 2 * half;
    let (width, depth) = if is_few { (1, n_steps) } else { (PANELS, DEPTH) };
    let mut blocks = [Block([[0.0; PANEL]; 2 * TILE_ROWS]); PANELS];
    for start in panels.clone().step_by(width) {
        let group = start..panels.end.min(start + width);
        // What comes next lies behind the group.
        let mut next = w.tiles(group.clone()).as_ptr_range().end.cast::<u8>();
        for first_row in (0..n_rows).step_by(2 * half) {
            let n = (n_rows - first_row).min(2 * half);
            blocks[..group.len()].fill(Block([[0.0; PANEL]; 2 * TILE_ROWS]));
            for step in (0..n_steps).step_by(depth) {
                let steps = depth.min(n_steps - step);
                for (panel, block) in group.clone().zip(&mut blocks) {
                    let weights = &w.tiles(panel..panel + 1)[step * 2 * TILE..][..steps * 2 * TILE];
                    let ahead = weights.as_ptr().wrapping_add(2 * TILE).cast();
                    match (n <= half, is_few) {
                        (true, true) => multiply_upper::<K, TERMS, STEP_LINES>(
                            &tiles, x, first_row, step, weights, ahead, block,
                        ),
                        (true, false) => multiply_upper::<K, TERMS, SOME_LINES>(
                            &tiles, x, first_row, step, weights, next, block,
                        ),
                        (false, true) => multiply::<K, TERMS, STEP_LINES>(
                            &tiles, x, first_row, step, weights, ahead, block,
                        ),
                        (false, false) => {
                            multiply::<K, TERMS, SOME_LINES>(&tiles, x, first_row, step, weights, next, block)
                        }
                    }
                    next = next.wrapping_add(steps * SOME_LINES * 64);
                }
            }
            for (panel, block) in group.clone().zip(&mut blocks) {
                let cells = &mut block.0;
                if TERMS > 1 {
                    for row in 0..n {
                        cells[row] =
                            sum_of_terms::<TERMS>(cells, row / half * TILE_ROWS + row % half * TERMS);
                    }
                }
                finish(panel, first_row, &cells[..n]);
            }
        }
    }
}

/// Cache lines of the weights of a step. Where rows are few, weights come from memory, and all of the next step's are
/// fetched ahead into L1.
const STEP_LINES: usize = 32;

/// Cache lines that are fetched ahead into L2 with each step where rows are many: with 512 rows, all of the next group
/// while this one is computed.
const SOME_LINES: usize = 2;

/// The smallest first.
fn sum_of_terms<const TERMS: usize>(cells: &[[f32; PANEL]], first: usize) -> [f32; PANEL] {
    let mut sums = cells[first + TERMS - 1];
    for term in cells[first..first + TERMS - 1].iter().rev() {
        sums.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
    }
    sums
}

/// Adds the products of some steps of 32 k to both rows of tiles of a block, and fetches LINES lines a step from `ahead`
/// on.
fn multiply<const K: usize, const TERMS: usize, const LINES: usize>(
    _: &Tiles,
    x: &Operand<K, TERMS>,
    first_row: usize,
    step: usize,
    weights: &[bf16],
    ahead: *const u8,
    block: &mut Block,
) {
    let term_bytes = Operand::<K, TERMS>::STRIDE * size_of::<bf16>();
    let n_steps = weights.len() / (2 * TILE);
    assert!(n_steps > 0 && step + n_steps <= K.div_ceil(32), "no steps {step} + {n_steps} of {K}");
    let upper = x.row_ptr(first_row).wrapping_add(step * 64);
    // SAFETY: tiles are configured; x has rows of terms for two tiles from its row on, `n_steps` lines of each from
    // `step` on; weights are two tiles for each step, and what is ahead is only fetched; a block is four tiles.
    unsafe {
        asm!(
            "tileloadd tmm0, [{cells} + {line}*2]",
            "tileloadd tmm1, [{cells} + {line}*2 + 64]",
            "tileloadd tmm2, [{cells} + {line}*2 + 2048]",
            "tileloadd tmm3, [{cells} + {line}*2 + 2112]",
            "2:",
            "tileloadd tmm6, [{weights} + {line}*1]",
            "tileloadd tmm4, [{upper} + {term}*1]",
            "tileloadd tmm7, [{weights} + {line}*1 + 1024]",
            "tileloadd tmm5, [{lower} + {term}*1]",
            ".rept {lines}",
            ".if {lines} > 2",
            "prefetcht0 [{ahead}]",
            ".else",
            "prefetcht1 [{ahead}]",
            ".endif",
            "add {ahead}, 64",
            ".endr",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {weights}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{cells} + {line}*2], tmm0",
            "tilestored [{cells} + {line}*2 + 64], tmm1",
            "tilestored [{cells} + {line}*2 + 2048], tmm2",
            "tilestored [{cells} + {line}*2 + 2112], tmm3",
            cells = in(reg) block.0.as_mut_ptr(),
            line = in(reg) 64_usize,
            weights = inout(reg) weights.as_ptr() => _,
            upper = inout(reg) upper => _,
            lower = inout(reg) upper.wrapping_add(TILE_ROWS / TERMS * TERMS * term_bytes) => _,
            term = in(reg) term_bytes,
            steps = inout(reg) n_steps => _,
            ahead = inout(reg) ahead => _,
            lines = const LINES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// The same for the upper row of tiles alone.
fn multiply_upper<const K: usize, const TERMS: usize, const LINES: usize>(
    _: &Tiles,
    x: &Operand<K, TERMS>,
    first_row: usize,
    step: usize,
    weights: &[bf16],
    ahead: *const u8,
    block: &mut Block,
) {
    let term_bytes = Operand::<K, TERMS>::STRIDE * size_of::<bf16>();
    let n_steps = weights.len() / (2 * TILE);
    assert!(n_steps > 0 && step + n_steps <= K.div_ceil(32), "no steps {step} + {n_steps} of {K}");
    // SAFETY: as for `multiply`.
    unsafe {
        asm!(
            "tileloadd tmm0, [{cells} + {line}*2]",
            "tileloadd tmm1, [{cells} + {line}*2 + 64]",
            "2:",
            "tileloadd tmm6, [{weights} + {line}*1]",
            "tileloadd tmm7, [{weights} + {line}*1 + 1024]",
            "tileloadd tmm4, [{upper} + {term}*1]",
            ".rept {lines}",
            ".if {lines} > 2",
            "prefetcht0 [{ahead}]",
            ".else",
            "prefetcht1 [{ahead}]",
            ".endif",
            "add {ahead}, 64",
            ".endr",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {upper}, 64",
            "add {weights}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{cells} + {line}*2], tmm0",
            "tilestored [{cells} + {line}*2 + 64], tmm1",
            cells = in(reg) block.0.as_mut_ptr(),
            line = in(reg) 64_usize,
            weights = inout(reg) weights.as_ptr() => _,
            upper = inout(reg) x.row_ptr(first_row).wrapping_add(step * 64) => _,
            term = in(reg) term_bytes,
            steps = inout(reg) n_steps => _,
            ahead = inout(reg) ahead => _,
            lines = const LINES,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

//! y = x · wᵀ with weights and activations in int8, AMX tiles where rows are many.
//!
//! Checked against Σₖ x · w in f64, of the numbers that the codes stand for: off by less than
//! (groups + 3) · 2⁻²⁴ · Σₖ |x · w|. Each instruction set gives the same bits.
//!
//! Two threads of an Intel Xeon that others used too, best of sixty runs of `kernels_speed`, groups of 128; the probe read
//! 28 to 33 GB/s. Up to 8 rows are multiplied by vectors, whose file has their figures.
//!
//! * two by two tiles, then vectors: 20 GB/s of weights with 12 rows, K = 1024; 2200 GOP/s with 512 rows, K = 3072
//! * one tile of rows where one is enough, the next step's weights fetched ahead: 29 GB/s with 12 rows
//! * tiles multiply a group while vectors scale the one before, 512 k of a strip stay in L1 while eight panels pass: no other
//!   figure than before, between noise

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use rt::image::{Int8, PANEL, Panels};

use super::few_rows;
use super::operand::Operand;
use super::tiles::Tiles;

/// Rows of a tile.
const TILE_ROWS: usize = 16;

/// Rows that vectors multiply as fast as their weights come from memory.
const FEW_ROWS: usize = 8;

/// Panels that stay in L2 while all rows pass.
const PANELS: usize = 8;

/// Codes of a row before the next panel comes: those of 32 rows, and the weights of a group, fit into L1.
const DEPTH: usize = 512;

/// Cache lines of the weights of a step of 64 k. Where one strip is all rows, weights come from memory, and all of the next
/// step's are fetched ahead into L1.
const STEP_LINES: usize = 32;

/// Cache lines that are fetched ahead into L2 with each step where rows are many: with 512 rows, all of the next panels
/// while these are computed.
const SOME_LINES: usize = 2;

/// Two tiles, one above the other, by the columns of a panel.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Block<T>([[T; PANEL]; 2 * TILE_ROWS]);

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
    mut finish: impl FnMut(usize, usize, &[[f32; PANEL]]),
) {
    if n_rows <= FEW_ROWS {
        return few_rows::matmul(x, n_rows, w, panels, finish);
    }
    assert!(n_rows <= x.n_rows(), "{n_rows} rows of {}", x.n_rows());
    let tiles = Tiles::configure();
    if n_rows <= 2 * TILE_ROWS {
        // Weights come from memory, a panel after the other.
        let mut ahead = w.bytes(panels.clone()).as_ptr().wrapping_add(64 * STEP_LINES);
        for panel in panels {
            let (sums, panels) = (&mut [Block::ZERO], panel..panel + 1);
            if n_rows <= TILE_ROWS {
                strip::<K, GROUP, 1, STEP_LINES>(&tiles, x, 0..n_rows, w, panels, sums, &mut ahead);
            } else {
                strip::<K, GROUP, 2, STEP_LINES>(&tiles, x, 0..n_rows, w, panels, sums, &mut ahead);
            }
            finish(panel, 0, &sums[0].0[..n_rows]);
        }
        return;
    }
    // Some panels stay in L2 while all rows pass, and of each strip of rows some k stay in L1 while the panels do.
    let mut sums = [Block::ZERO; PANELS];
    for start in panels.clone().step_by(PANELS) {
        let some = start..panels.end.min(start + PANELS);
        let mut ahead = w.bytes(some.clone()).as_ptr_range().end;
        for row in (0..n_rows).step_by(2 * TILE_ROWS) {
            let rows = row..n_rows.min(row + 2 * TILE_ROWS);
            sums.fill(Block::ZERO);
            strip::<K, GROUP, 2, SOME_LINES>(&tiles, x, rows.clone(), w, some.clone(), &mut sums, &mut ahead);
            for (panel, sums) in some.clone().zip(&sums) {
                finish(panel, row, &sums.0[..rows.len()]);
            }
        }
    }
}

impl Block<f32> {
    const ZERO: Self = Self([[0.0; PANEL]; 2 * TILE_ROWS]);
}

/// Adds the products of one or two tiles of rows, TILES of them, and some panels to the sums of each panel. With each
/// step of 64 k, LINES lines are fetched from `ahead` on.
fn strip<const K: usize, const GROUP: usize, const TILES: usize, const LINES: usize>(
    tiles: &Tiles,
    x: &Operand<K, GROUP>,
    rows: Range<usize>,
    w: &Panels<Int8<GROUP>>,
    panels: Range<usize>,
    sums: &mut [Block<f32>],
    ahead: &mut *const u8,
) {
    let n_groups = Operand::<K, GROUP>::N_GROUPS;
    let blocks = (0..n_groups).step_by(DEPTH / GROUP).map(|start| start..n_groups.min(start + DEPTH / GROUP));
    let steps = blocks.flat_map(|block| panels.clone().map(move |panel| (panel, block.clone())));
    let mut steps = steps.flat_map(|(panel, block)| block.map(move |group| (panel, group)));
    let mut dots = [Block([[0; PANEL]; 2 * TILE_ROWS]); 2];
    let mut before = None;
    // Tiles multiply a group while vectors scale and add the one before.
    for turn in [0, 1].into_iter().cycle() {
        let step = steps.next();
        if let Some((panel, group)) = step {
            let (cells, scales) = w.group(panel, group);
            let group_bytes = size_of_val(cells) + size_of_val(scales);
            let dots = &mut dots[turn];
            multiply::<K, GROUP, TILES, LINES>(tiles, x, rows.start, group, cells, *ahead, dots);
            *ahead = ahead.wrapping_add(group_bytes * LINES / STEP_LINES);
        }
        if let Some((panel, group)) = before {
            let (sums, dots) = (&mut sums[panel - panels.start], &dots[1 - turn]);
            // SAFETY: the server refuses to start on a processor without AVX-512 F.
            unsafe { add(x, rows.clone(), w, panel, group, dots, sums) };
        }
        before = step;
        if before.is_none() {
            return;
        }
    }
}

/// Adds the scaled products of a group to the sums.
#[target_feature(enable = "avx512f")]
fn add<const K: usize, const GROUP: usize>(
    x: &Operand<K, GROUP>,
    rows: Range<usize>,
    w: &Panels<Int8<GROUP>>,
    panel: usize,
    group: usize,
    dots: &Block<i32>,
    sums: &mut Block<f32>,
) {
    let (_, scales) = w.group(panel, group);
    // SAFETY: half of the columns are sixteen.
    let scales = [0, 16].map(|half| unsafe { _mm512_loadu_ps(scales.as_ptr().add(half)) });
    for (row, (dots, sums)) in rows.zip(dots.0.iter().zip(&mut sums.0)) {
        let x_scale = _mm512_set1_ps(x.scale(row, group));
        for (half, scale) in [0, 16].into_iter().zip(scales) {
            // SAFETY: half of the columns are sixteen.
            unsafe {
                let dot = _mm512_cvtepi32_ps(_mm512_load_si512(dots.as_ptr().add(half).cast()));
                let sum = sums.as_mut_ptr().add(half);
                _mm512_store_ps(
                    sum,
                    _mm512_fmadd_ps(dot, _mm512_mul_ps(scale, x_scale), _mm512_load_ps(sum)),
                );
            }
        }
    }
}

/// The products of a group, of TILES tiles of rows, one or two; LINES lines are fetched from `ahead` on with each step.
fn multiply<const K: usize, const GROUP: usize, const TILES: usize, const LINES: usize>(
    _: &Tiles,
    x: &Operand<K, GROUP>,
    first_row: usize,
    group: usize,
    cells: &[[i8; 4 * PANEL]],
    ahead: *const u8,
    dots: &mut Block<i32>,
) {
    let row_bytes = Operand::<K, GROUP>::STRIDE;
    let n_steps = cells.len() / TILE_ROWS;
    assert!(n_steps > 0 && group * GROUP + 64 * n_steps <= row_bytes, "no group {group} of {K}");
    let upper = x.row_ptr(first_row).wrapping_add(group * GROUP);
    // SAFETY: tiles are configured; x has 32 rows from its row on, `n_steps` lines of each from the group on; cells are
    // sixteen rows of two lines for each step, and what is ahead is only fetched; a block is four tiles.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            ".if {tiles} == 2",
            "tilezero tmm2",
            "tilezero tmm3",
            ".endif",
            "2:",
            "tileloadd tmm6, [{weights} + {lines}*1]",
            "tileloadd tmm4, [{upper} + {row}*1]",
            "tileloadd tmm7, [{weights} + {lines}*1 + 64]",
            ".if {tiles} == 2",
            "tileloadd tmm5, [{lower} + {row}*1]",
            ".endif",
            ".rept {n_ahead}",
            ".if {is_next}",
            "prefetcht0 [{ahead}]",
            ".else",
            "prefetcht1 [{ahead}]",
            ".endif",
            "add {ahead}, 64",
            ".endr",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            ".if {tiles} == 2",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            ".endif",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {weights}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{dots} + {lines}*1], tmm0",
            "tilestored [{dots} + {lines}*1 + 64], tmm1",
            ".if {tiles} == 2",
            "tilestored [{dots} + {lines}*1 + 2048], tmm2",
            "tilestored [{dots} + {lines}*1 + 2112], tmm3",
            ".endif",
            dots = in(reg) dots.0.as_mut_ptr(),
            lines = in(reg) 128_usize,
            weights = inout(reg) cells.as_ptr() => _,
            upper = inout(reg) upper => _,
            lower = inout(reg) upper.wrapping_add(TILE_ROWS * row_bytes) => _,
            row = in(reg) row_bytes,
            steps = inout(reg) n_steps => _,
            ahead = inout(reg) ahead => _,
            tiles = const TILES,
            n_ahead = const LINES,
            is_next = const (LINES == STEP_LINES) as usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

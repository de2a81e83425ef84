//! y = x · wᵀ with weights and activations in int8, AMX tiles where rows are many.
//!
//! Checked against Σₖ x · w in f64, of the numbers that the codes stand for: off by less than
//! (groups + 3) · 2⁻²⁴ · Σₖ |x · w|. Each instruction set gives the same bits.

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
    let mut dots = [Block([[0; PANEL]; 2 * TILE_ROWS]); 2];
    for start in panels.clone().step_by(PANELS) {
        let group = start..panels.end.min(start + PANELS);
        for first_row in (0..n_rows).step_by(2 * TILE_ROWS) {
            let n_rows = (n_rows - first_row).min(2 * TILE_ROWS);
            for panel in group.clone() {
                let mut sums = Block([[0.0; PANEL]; 2 * TILE_ROWS]);
                let groups = 0..Operand::<K, GROUP>::N_GROUPS;
                for group in groups {
                    let (cells, scales) = w.group(panel, group);
                    let dots = &mut dots[group % 2];
                    multiply(&tiles, x, first_row, group, cells, dots);
                    // SAFETY: the server refuses to start on a processor without AVX-512 F.
                    unsafe { add(x, first_row, n_rows, group, scales, dots, &mut sums) };
                }
                finish(panel, first_row, &sums.0[..n_rows]);
            }
        }
    }
}

/// Adds the scaled products of a group to the sums.
#[target_feature(enable = "avx512f")]
fn add<const K: usize, const GROUP: usize>(
    x: &Operand<K, GROUP>,
    first_row: usize,
    n_rows: usize,
    group: usize,
    scales: &[f32; PANEL],
    dots: &Block<i32>,
    sums: &mut Block<f32>,
) {
    // SAFETY: half of the columns are sixteen.
    let scales = [0, 16].map(|half| unsafe { _mm512_loadu_ps(scales.as_ptr().add(half)) });
    for (row, (dots, sums)) in dots.0.iter().zip(&mut sums.0).enumerate().take(n_rows) {
        let x_scale = _mm512_set1_ps(x.scale(first_row + row, group));
        for (half, scale) in scales.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                let dot = _mm512_cvtepi32_ps(_mm512_load_si512(dots.as_ptr().add(16 * half).cast()));
                let sum = sums.as_mut_ptr().add(16 * half);
                _mm512_store_ps(sum, _mm512_fmadd_ps(dot, _mm512_mul_ps(scale, x_scale), _mm512_load_ps(sum)));
            }
        }
    }
}

/// The products of a group of 32 rows.
fn multiply<const K: usize, const GROUP: usize>(
    _: &Tiles,
    x: &Operand<K, GROUP>,
    first_row: usize,
    group: usize,
    cells: &[[i8; 4 * PANEL]],
    dots: &mut Block<i32>,
) {
    let n_steps = cells.len() / TILE_ROWS;
    assert!(n_steps > 0 && group * GROUP + 64 * n_steps <= Operand::<K, GROUP>::STRIDE, "no group {group} of {K}");
    let upper = x.row_ptr(first_row).wrapping_add(group * GROUP);
    // SAFETY: tiles are configured; x has 32 rows from its row on, `n_steps` lines of each from the group on; cells are
    // sixteen rows of two lines for each step; a block is four tiles.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{weights} + {lines}*1]",
            "tileloadd tmm4, [{upper} + {row}*1]",
            "tileloadd tmm7, [{weights} + {lines}*1 + 64]",
            "tileloadd tmm5, [{lower} + {row}*1]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {weights}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{dots} + {lines}*1], tmm0",
            "tilestored [{dots} + {lines}*1 + 64], tmm1",
            "tilestored [{dots} + {lines}*1 + 2048], tmm2",
            "tilestored [{dots} + {lines}*1 + 2112], tmm3",
            dots = in(reg) dots.0.as_mut_ptr(),
            lines = in(reg) 128_usize,
            weights = inout(reg) cells.as_ptr() => _,
            upper = inout(reg) upper => _,
            lower = inout(reg) upper.wrapping_add(TILE_ROWS * Operand::<K, GROUP>::STRIDE) => _,
            row = in(reg) Operand::<K, GROUP>::STRIDE,
            steps = inout(reg) n_steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

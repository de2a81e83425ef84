//! Products of codes and their scales: AMX tiles of whole numbers, and what vectors make of them.
//!
//! What codes of eight and of four bits have in common; the files that use it have their figures.

use std::arch::asm;
use std::arch::x86_64::*;

use rt::columns::Finish;
use rt::fetch::{PAGE, some_in_turn, spread};
use rt::image::PANEL;

use super::operand::Operand;
use super::tiles::Tiles;
use super::tuning::PAGES;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;

/// Rows that vectors take beside a step of tiles, while what tiles found is still in L1.
pub const BESIDE: usize = 4;

/// Two tiles, one above the other, by the columns of a panel.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Block<T>(pub [[T; PANEL]; 2 * TILE_ROWS]);

impl<T: Copy> Block<T> {
    /// All cells alike.
    pub const fn of(cell: T) -> Self {
        Self([[cell; PANEL]; 2 * TILE_ROWS])
    }
}

/// A group of some rows by a panel, which tiles have multiplied and vectors have not taken.
pub struct Found {
    pub panel: usize,
    pub group: usize,
    pub first_row: usize,
    pub n_rows: usize,
    /// Of the left and of the right columns of the panel.
    pub scales: [__m512; 2],
}

/// Takes BESIDE rows of a group, or as many as are left, from `row` of its block on: adds their products, scaled, to their
/// sums, and gives them to `finish` where the group is the last of its panel.
#[target_feature(enable = "avx512f")]
pub fn take<const K: usize, const GROUP: usize>(
    x: &Operand<K, GROUP>,
    found: &Found,
    row: usize,
    dots: &Block<i32>,
    sums: &mut Block<f32>,
    finish: impl Finish,
) {
    if row + BESIDE <= found.n_rows {
        take_rows::<K, GROUP, BESIDE>(x, found, row, dots, sums, finish);
    } else {
        for row in row..found.n_rows {
            take_rows::<K, GROUP, 1>(x, found, row, dots, sums, finish);
        }
    }
}

/// The same of N rows: of a number that is known there are no loops.
#[inline]
#[target_feature(enable = "avx512f")]
fn take_rows<const K: usize, const GROUP: usize, const N: usize>(
    x: &Operand<K, GROUP>,
    found: &Found,
    first: usize,
    dots: &Block<i32>,
    sums: &mut Block<f32>,
    finish: impl Finish,
) {
    let (dots, sums) = (&dots.0[first..][..N], &mut sums.0[first..][..N]);
    let n_groups = Operand::<K, GROUP>::N_GROUPS;
    // Where a row is one group the compiler knows it.
    let group = if n_groups == 1 { 0 } else { found.group };
    for (row, (dots, sums)) in dots.iter().zip(sums.iter_mut()).enumerate() {
        let x_scale = _mm512_set1_ps(x.scale(found.first_row + first + row, group));
        for (half, scale) in [0, 16].into_iter().zip(found.scales) {
            // SAFETY: half of the columns are sixteen.
            unsafe {
                let dot = _mm512_cvtepi32_ps(_mm512_load_si512(dots.as_ptr().add(half).cast()));
                let sum = sums.as_mut_ptr().add(half);
                let scale = _mm512_mul_ps(scale, x_scale);
                let before = if group == 0 { _mm512_setzero_ps() } else { _mm512_load_ps(sum) };
                _mm512_store_ps(sum, _mm512_fmadd_ps(dot, scale, before));
            }
        }
    }
    if group + 1 == n_groups {
        finish.take(found.panel, found.first_row + first, sums);
    }
}

/// The products of a group, of TILES tiles of rows from the first on, one or two; LINES lines are fetched with each step, in turn from
/// where `ahead` says on. `order` says which step is taken in which turn: sums of whole numbers are the same. Tiles leave vectors idle:
/// `meanwhile` is what those do beside each turn.
#[target_feature(enable = "avx512f")]
pub fn multiply<const K: usize, const GROUP: usize, const TILES: usize, const LINES: usize>(
    _: &Tiles,
    x: &Operand<K, GROUP>,
    (first_row, group): (usize, usize),
    (cells, ahead): (&[[i8; 4 * PANEL]], usize),
    dots: &mut Block<i32>,
    order: impl Fn(usize) -> usize,
    mut meanwhile: impl FnMut(usize),
) {
    let row_bytes = Operand::<K, GROUP>::STRIDE;
    let n_steps = cells.len() / TILE_ROWS;
    assert!(n_steps > 0 && group * GROUP + 64 * n_steps <= row_bytes, "no group {group} of {K}");
    let upper = x.row_ptr(first_row).wrapping_add(group * GROUP);
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
    for turn in 0..n_steps {
        let step = order(turn);
        let upper = upper.wrapping_add(64 * step);
        // SAFETY: x has 32 rows from its row on, `n_steps` lines of each from the group on; cells are sixteen rows of two lines
        // for each step, and what is ahead is only fetched.
        unsafe {
            asm!(
                "tileloadd tmm6, [{weights} + {lines}*1]",
                "tileloadd tmm4, [{upper} + {row}*1]",
                "tileloadd tmm7, [{weights} + {lines}*1 + 64]",
                ".if {tiles} == 2",
                "tileloadd tmm5, [{lower} + {row}*1]",
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
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                ".if {tiles} == 2",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                ".endif",
                weights = in(reg) cells[TILE_ROWS * step..].as_ptr(),
                lines = in(reg) 128_usize,
                upper = in(reg) upper,
                lower = in(reg) upper.wrapping_add(TILE_ROWS * row_bytes),
                row = in(reg) row_bytes,
                ahead = in(reg) some_in_turn::<PAGES, LINES>(ahead + 64 * LINES * turn),
                tiles = const TILES,
                n_pages = const spread(PAGES, LINES),
                n_lines = const LINES / spread(PAGES, LINES),
                page = const PAGE,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
        meanwhile(turn);
    }
    // SAFETY: a block is four tiles.
    unsafe {
        asm!(
            "tilestored [{dots} + {lines}*1], tmm0",
            "tilestored [{dots} + {lines}*1 + 64], tmm1",
            ".if {tiles} == 2",
            "tilestored [{dots} + {lines}*1 + 2048], tmm2",
            "tilestored [{dots} + {lines}*1 + 2112], tmm3",
            ".endif",
            dots = in(reg) dots.0.as_mut_ptr(),
            lines = in(reg) 128_usize,
            tiles = const TILES,
            options(nostack),
        );
    }
}

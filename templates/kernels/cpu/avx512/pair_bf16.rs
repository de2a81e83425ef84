//! Cells of the cache as the kernels read them: bf16, widened in registers.

use std::arch::x86_64::*;

use super::store::Cell;

/// Two neighbouring lines of a tile: of keys two channels by sixteen positions, of values two positions by sixteen channels.
///
/// # Safety
/// 32 cells follow.
#[inline]
#[target_feature(enable = "avx512f")]
pub unsafe fn pair(cells: *const Cell) -> [__m512; 2] {
    // SAFETY: as the caller promises.
    let cells = unsafe { _mm512_loadu_si512(cells.cast()) };
    // Two cells lie in one lane, the first in its lower half; a bf16 is the upper half of an f32.
    let first = _mm512_slli_epi32::<16>(cells);
    let second = _mm512_and_si512(cells, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
    [_mm512_castsi512_ps(first), _mm512_castsi512_ps(second)]
}

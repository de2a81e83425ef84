//! Cells of the cache as the kernels read them: f32 as it is.

use std::arch::x86_64::*;

use super::store::Cell;

/// Two neighbouring lines of a tile: of keys two channels by sixteen positions, of values two positions by sixteen
/// channels.
///
/// # Safety
/// 32 cells follow.
#[inline]
#[target_feature(enable = "avx512f")]
pub unsafe fn pair(cells: *const Cell) -> [__m512; 2] {
    // SAFETY: as the caller promises.
    unsafe { [_mm512_loadu_ps(cells), _mm512_loadu_ps(cells.add(16))] }
}

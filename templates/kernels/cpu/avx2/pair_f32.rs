//! Cells of the cache as the kernels read them: f32 as it is.

use std::arch::x86_64::*;

use super::store::Cell;

/// Half of two neighbouring lines of a tile: of keys two channels by eight positions, of values two positions by eight
/// channels.
///
/// # Safety
/// 32 cells follow, and `half` is 0 or 1.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub unsafe fn pair(cells: *const Cell, half: usize) -> [__m256; 2] {
    // SAFETY: as the caller promises.
    unsafe { [_mm256_loadu_ps(cells.add(8 * half)), _mm256_loadu_ps(cells.add(16 + 8 * half))] }
}

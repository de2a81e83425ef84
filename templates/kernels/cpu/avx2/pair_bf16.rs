//! Cells of the cache as the kernels read them: bf16, widened in registers.

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
    let cells = unsafe { _mm256_loadu_si256(cells.add(16 * half).cast()) };
    // Two cells lie in one lane, the first in its lower half; a bf16 is the upper half of an f32.
    let first = _mm256_slli_epi32::<16>(cells);
    let second = _mm256_and_si256(cells, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
    [_mm256_castsi256_ps(first), _mm256_castsi256_ps(second)]
}

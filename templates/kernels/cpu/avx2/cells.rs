//! Where the cells of a product go, AVX2: a part of a row of y.

use std::arch::x86_64::*;

use rt::image::PANEL;

/// y ← cells
#[inline(always)]
pub fn put(y: &mut [f32; PANEL], cells: &[f32; PANEL]) {
    // SAFETY: the server refuses to start on a processor without AVX2.
    unsafe { put_lanes(y, cells) }
}

/// y ← y + cells
#[inline(always)]
pub fn add(y: &mut [f32; PANEL], cells: &[f32; PANEL]) {
    // SAFETY: as above.
    unsafe { add_lanes(y, cells) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn put_lanes(y: &mut [f32; PANEL], cells: &[f32; PANEL]) {
    for first in [0, 8, 16, 24] {
        // SAFETY: a panel's columns are four times eight.
        unsafe { _mm256_storeu_ps(y.as_mut_ptr().add(first), _mm256_loadu_ps(cells.as_ptr().add(first))) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_lanes(y: &mut [f32; PANEL], cells: &[f32; PANEL]) {
    for first in [0, 8, 16, 24] {
        // SAFETY: a panel's columns are four times eight.
        unsafe {
            let (y, cells) = (y.as_mut_ptr().add(first), cells.as_ptr().add(first));
            _mm256_storeu_ps(y, _mm256_add_ps(_mm256_loadu_ps(y), _mm256_loadu_ps(cells)));
        }
    }
}

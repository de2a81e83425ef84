//! Where the cells of a product go, AVX-512 F: a part of a row of y.

use std::arch::x86_64::*;

use rt::image::PANEL;

/// y ← cells
#[inline(always)]
pub fn put(y: &mut [f32; PANEL], cells: &[f32; PANEL]) {
    // SAFETY: the server refuses to start on a processor without AVX-512 F.
    unsafe { put_lanes(y, cells) }
}

/// y ← y + cells
#[inline(always)]
pub fn add(y: &mut [f32; PANEL], cells: &[f32; PANEL]) {
    // SAFETY: as above.
    unsafe { add_lanes(y, cells) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn put_lanes(y: &mut [f32; PANEL], cells: &[f32; PANEL]) {
    for half in [0, 16] {
        // SAFETY: half of a panel's columns are sixteen.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr().add(half), _mm512_loadu_ps(cells.as_ptr().add(half))) }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_lanes(y: &mut [f32; PANEL], cells: &[f32; PANEL]) {
    for half in [0, 16] {
        // SAFETY: half of a panel's columns are sixteen.
        unsafe {
            let (y, cells) = (y.as_mut_ptr().add(half), cells.as_ptr().add(half));
            _mm512_storeu_ps(y, _mm512_add_ps(_mm512_loadu_ps(y), _mm512_loadu_ps(cells)));
        }
    }
}

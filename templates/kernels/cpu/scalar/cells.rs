//! Where the cells of a product go: a part of a row of y.

use rt::image::PANEL;

/// y ← cells
#[inline(always)]
pub fn put(y: &mut [f32; PANEL], cells: &[f32; PANEL]) {
    *y = *cells;
}

/// y ← y + cells
#[inline(always)]
pub fn add(y: &mut [f32; PANEL], cells: &[f32; PANEL]) {
    y.iter_mut().zip(cells).for_each(|(y, cell)| *y += cell);
}

//! Where the cells of a product go: a row of y, which is shorter than they are in the last panel alone.

use rt::image::PANEL;

/// y ← cells
#[inline(always)]
pub fn put(y: &mut [f32], cells: &[f32; PANEL]) {
    bring(y, cells, |y, cell| *y = cell);
}

/// y ← y + cells
#[inline(always)]
pub fn add(y: &mut [f32], cells: &[f32; PANEL]) {
    bring(y, cells, |y, cell| *y += cell);
}

#[inline(always)]
fn bring(y: &mut [f32], cells: &[f32; PANEL], bring: impl Fn(&mut f32, f32)) {
    match y.first_chunk_mut::<PANEL>() {
        // Of a length that is known there is no loop.
        Some(y) => y.iter_mut().zip(cells).for_each(|(y, cell)| bring(y, *cell)),
        None => y.iter_mut().zip(cells).for_each(|(y, cell)| bring(y, *cell)),
    }
}

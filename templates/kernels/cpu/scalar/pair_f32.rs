//! Cells of the cache as the kernels read them: f32 as it is.

use super::store::Cell;

/// Two neighbouring lines of a tile: of keys two channels by sixteen positions, of values two positions by sixteen channels.
pub fn pair(cells: &[Cell; 32]) -> [[f32; 16]; 2] {
    let mut lines = [[0.0; 16]; 2];
    lines.as_flattened_mut().copy_from_slice(cells);
    lines
}

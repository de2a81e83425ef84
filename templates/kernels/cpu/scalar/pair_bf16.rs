//! Cells of the cache as the kernels read them: bf16, widened.

use super::store::Cell;

/// Two neighbouring lines of a tile: of keys two channels by sixteen positions, of values two positions by sixteen channels.
pub fn pair(cells: &[Cell; 32]) -> [[f32; 16]; 2] {
    // A bf16 is the upper half of an f32.
    let widened = |cell: Cell| f32::from_bits(u32::from(cell) << 16);
    let line = |half: usize| std::array::from_fn(|lane| widened(cells[2 * lane + half]));
    [line(0), line(1)]
}

//! Where a server that computes with fewer bits rounds, so that the oracle itself can say what that costs.

/// Rounds numbers at the places where a server may hold or multiply them with fewer bits. What it does not override
/// stays as it is.
pub trait Rounding: Send + Sync {
    /// Whole rows, `n_in` wide, of the matrix `name`, before they are kept. Called once for each row.
    fn weights(&self, name: &str, rows: &mut [f32], n_in: usize) {
        let _ = (name, rows, n_in);
    }

    /// Rows, `n_in` wide, that matrices of a layer are about to multiply.
    fn layer_input(&self, rows: &mut [f32], n_in: usize) {
        let _ = (rows, n_in);
    }

    /// Rows, `n_in` wide, that the head is about to multiply.
    fn head_input(&self, rows: &mut [f32], n_in: usize) {
        let _ = (rows, n_in);
    }

    /// Rotated keys, or values, of heads `head_dim` wide, before they are kept.
    fn kept(&self, heads: &mut [f32], head_dim: usize) {
        let _ = (heads, head_dim);
    }

    /// What keys and values are multiplied by: rotated queries, and the weights that values are summed with.
    fn attention(&self, x: &mut [f32]) {
        let _ = x;
    }
}

/// Rounds nothing: the model as it is.
pub struct Exact;

impl Rounding for Exact {}

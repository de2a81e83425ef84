//! Matrix times rows of activations.

use crate::threads::fill_rows;

/// A row-major (`n_out`, `n_in`) matrix, and a bias of `n_out` where the family has one.
pub struct Linear {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    n_in: usize,
}

impl Linear {
    /// `weight` is row-major (`n_out`, `n_in`); `bias`, if any, has `n_out` elements.
    pub fn new(weight: Vec<f32>, bias: Option<Vec<f32>>, n_in: usize) -> Linear {
        Linear { weight, bias, n_in }
    }

    /// Row `row` of the matrix, which is what an embedding looks up.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.weight[row * self.n_in..][..self.n_in]
    }

    /// Number of rows of the matrix: the width of its output.
    pub fn n_out(&self) -> usize {
        self.weight.len() / self.n_in
    }

    /// `x` is (`n`, `n_in`), the result is (`n`, `n_out`): each element is one dot product and its bias.
    ///
    /// An element never depends on `n` or on the number of threads.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let (n, n_out) = (x.len() / self.n_in, self.n_out());
        let mut columns = vec![0.0; n_out * n];
        fill_rows(&mut columns, n, n_out * x.len(), |first, columns| self.columns(x, first, columns));
        (0..n * n_out).map(|i| columns[i % n_out * n + i / n_out]).collect()
    }

    /// Output columns from `first` on, each as `n` elements, so that a row of the matrix is read once.
    fn columns(&self, x: &[f32], first: usize, columns: &mut [f32]) {
        let n = x.len() / self.n_in;
        for (i, column) in columns.chunks_mut(n).enumerate() {
            let row = self.row(first + i);
            let bias = self.bias.as_ref().map_or(0.0, |bias| bias[first + i]);
            for (y, x) in column.iter_mut().zip(x.chunks(self.n_in)) {
                *y = dot(row, x) + bias;
            }
        }
    }
}

/// Σ a·b in sixteen partial sums, which the compiler keeps in vector registers.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = a.as_chunks::<16>();
    let (b, b_tail) = b.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + tail
}

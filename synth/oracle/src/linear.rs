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
        let mut y = vec![0.0; n * n_out];
        fill_rows(&mut y, n_out, n * n_out, |first, rows| {
            for (i, row) in rows.chunks_mut(n_out).enumerate() {
                row.iter_mut().zip(columns.chunks(n)).for_each(|(y, column)| *y = column[first + i]);
            }
        });
        y
    }

    /// Output columns from `first` on, each as `n` elements, so that a row of the matrix is read once.
    fn columns(&self, x: &[f32], first: usize, columns: &mut [f32]) {
        let n = x.len() / self.n_in;
        let bias = |row: usize| self.bias.as_ref().map_or(0.0, |bias| bias[row]);
        let x = |i: usize| &x[i * self.n_in..][..self.n_in];
        for (i, pair) in columns.chunks_mut(2 * n).enumerate() {
            let above = first + 2 * i;
            // The last row may have no partner, nor the last of `x`: then it is its own.
            let (upper, lower) = pair.split_at_mut(n);
            let below = above + usize::from(!lower.is_empty());
            for left in (0..n).step_by(2) {
                let right = (left + 1).min(n - 1);
                let sums = match left == right {
                    true => [above, below].map(|row| [dot(self.row(row), x(left)); 2]),
                    false => dots([self.row(above), self.row(below)], [x(left), x(right)]),
                };
                for (column, sums, row) in [(&mut *upper, sums[0], above), (&mut *lower, sums[1], below)] {
                    if !column.is_empty() {
                        column[left] = sums[0] + bias(row);
                        column[right] = sums[1] + bias(row);
                    }
                }
            }
        }
    }
}

/// Partial sums of a dot product: as many as the compiler keeps in vector registers for four products at once.
const LANES: usize = 8;

/// Σ a·b.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let chunks = a.as_chunks().0.iter().zip(b.as_chunks().0);
    total(chunks.fold([0.0; LANES], |sums, (a, b)| plus(sums, a, b))) + tail(a, b)
}

/// The dot product of each row of `a` with each of `b`, to the bit as [`dot`] has it. Two by two, every number that is
/// loaded is used twice.
fn dots(a: [&[f32]; 2], b: [&[f32]; 2]) -> [[f32; 2]; 2] {
    let ([a0, a1], [b0, b1]) = (a.map(|a| a.as_chunks().0), b.map(|b| b.as_chunks().0));
    let mut sums = [[[0.0; LANES]; 2]; 2];
    for (((a0, a1), b0), b1) in a0.iter().zip(a1).zip(b0).zip(b1) {
        sums[0] = [plus(sums[0][0], a0, b0), plus(sums[0][1], a0, b1)];
        sums[1] = [plus(sums[1][0], a1, b0), plus(sums[1][1], a1, b1)];
    }
    let whole = |sums: [f32; LANES], a, b| total(sums) + tail(a, b);
    [
        [whole(sums[0][0], a[0], b[0]), whole(sums[0][1], a[0], b[1])],
        [whole(sums[1][0], a[1], b[0]), whole(sums[1][1], a[1], b[1])],
    ]
}

/// `sums` plus the products of `a` and `b`, lane by lane.
#[inline(always)]
fn plus(mut sums: [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) -> [f32; LANES] {
    for lane in 0..LANES {
        sums[lane] += a[lane] * b[lane];
    }
    sums
}

/// The sum of all lanes: the upper half onto the lower half until one is left.
///
/// Not inlined, since the compiler would otherwise shuffle the sums within the loop that makes them.
#[inline(never)]
fn total(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// The products of what is left beyond the last whole chunk.
fn tail(a: &[f32], b: &[f32]) -> f32 {
    a.as_chunks::<LANES>().1.iter().zip(b.as_chunks::<LANES>().1).map(|(a, b)| a * b).sum()
}

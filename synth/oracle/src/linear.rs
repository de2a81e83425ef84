//! Matrix times rows of activations.

use std::array::from_fn;

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
        let last = first + columns.len() / n - 1;
        for (i, block) in columns.chunks_mut(ROWS * n).enumerate() {
            // Where rows or columns run out the last of them stands in, and what it gives is not kept.
            let row_of = |i_row: usize| (first + ROWS * i + i_row).min(last);
            let rows = from_fn(|i_row| self.row(row_of(i_row)));
            for left in (0..n).step_by(COLUMNS) {
                let x_of = |i_column: usize| &x[(left + i_column).min(n - 1) * self.n_in..][..self.n_in];
                let products = match n {
                    1 => rows.map(|row| [dot(row, x); COLUMNS]),
                    _ => dots(rows, from_fn(x_of)),
                };
                for (i_row, column) in block.chunks_mut(n).enumerate() {
                    let bias = self.bias.as_ref().map_or(0.0, |bias| bias[row_of(i_row)]);
                    column[left..]
                        .iter_mut()
                        .zip(products[i_row])
                        .for_each(|(y, product)| *y = product + bias);
                }
            }
        }
    }
}

/// Rows of the matrix, and of what it multiplies, that are worked on together, so that a number that is loaded is used
/// more than once. More would not fit the sixteen vector registers.
const ROWS: usize = 3;
const COLUMNS: usize = 2;

/// Partial sums of a dot product, as wide as a vector register.
const LANES: usize = 8;

/// Σ a·b.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let chunks = a.as_chunks().0.iter().zip(b.as_chunks().0);
    total(chunks.fold([0.0; LANES], |sums, (a, b)| plus(sums, a, b))) + tail(a, b)
}

/// The dot product of each row of `a` with each of `b`, to the bit as [`dot`] has it.
fn dots(a: [&[f32]; ROWS], b: [&[f32]; COLUMNS]) -> [[f32; COLUMNS]; ROWS] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just been found to have AVX2.
        return unsafe { dots_avx2(a, b) };
    }
    dots_by_lanes(a, b)
}

/// The same code, compiled for registers of eight lanes. Nothing is fused or reordered, so no bit differs.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dots_avx2(a: [&[f32]; ROWS], b: [&[f32]; COLUMNS]) -> [[f32; COLUMNS]; ROWS] {
    dots_by_lanes(a, b)
}

#[inline(always)]
fn dots_by_lanes(a: [&[f32]; ROWS], b: [&[f32]; COLUMNS]) -> [[f32; COLUMNS]; ROWS] {
    let n_chunks = a[0].len() / LANES;
    let (a_chunks, b_chunks) =
        (a.map(|a| &a.as_chunks().0[..n_chunks]), b.map(|b| &b.as_chunks().0[..n_chunks]));
    let mut sums = [[[0.0; LANES]; COLUMNS]; ROWS];
    for i in 0..n_chunks {
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                sums[row][column] = plus(sums[row][column], &a_chunks[row][i], &b_chunks[column][i]);
            }
        }
    }
    from_fn(|row| from_fn(|column| total(sums[row][column]) + tail(a[row], b[column])))
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

//! Every CPU kernel of the catalogue, on every instruction set, against plain f64 and against its laws.
//!
//! An instruction set this processor lacks is named in the output of
//! `cargo test -p savile-tests kernels -- --nocapture`.

mod amx;
mod amx_int4;
mod amx_int8;
mod avx2;
mod avx2_codes;
mod avx512;
mod avx512_codes;
mod avx512_dot;
#[path = "../templates/kernels/cpu/avx512/operand_int8.rs"]
mod avx512_operand_int8;
#[path = "../templates/kernels/cpu/avx512/operand_bf16.rs"]
mod operand_bf16;
#[path = "../templates/kernels/cpu/operand_f32.rs"]
mod operand_f32;
#[path = "../templates/kernels/cpu/operand_int8.rs"]
mod operand_int8;
mod scalar;
mod scalar_codes;
mod table;

use std::ops::Range;

use harness::quantise::{INT4, INT8};
use rt::image::{Int4, Int8, PANEL};
use synth::image::Layout;

use table::{Attention, Product, isas, panels};

/// Half a unit in the last place of an f32 around one.
const HALF_ULP: f64 = 1.0 / (1 << 24) as f64;

/// A seeded stream of values.
struct Values(u64);

impl Values {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }

    /// Between -1 and 1, times a power of two between 2⁻⁸ and 2⁸: sums cancel, magnitudes differ.
    fn value(&mut self) -> f32 {
        let unit = self.bits() as f32 / (1u64 << 30) as f32 - 1.0;
        unit * ((self.below(17) as i32 - 8) as f32).exp2()
    }

    fn many(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

// ---- matmul ----------------------------------------------------------------------------------------------------------

/// The first cell of y = x · wᵀ that is further from f64 than rounding explains.
fn wrong_cell(product: &Product, n_rows: usize, n_cols: usize, seed: u64) -> Option<String> {
    let k = product.k;
    let mut values = Values(seed);
    let x: Vec<_> = (0..n_rows).map(|_| values.many(k)).collect();
    let w: Vec<_> = (0..n_cols).map(|_| values.many(k)).collect();
    let y = (product.run)(&x, &w, 0..n_cols.div_ceil(PANEL));
    let rounded = |rows: &[Vec<f32>], round: fn(&mut [f32])| {
        let mut rows = rows.to_vec();
        rows.iter_mut().for_each(|row| round(row));
        rows
    };
    let (x, w) = (rounded(&x, product.held), rounded(&w, product.stored));
    for (row, x) in x.iter().enumerate() {
        for (col, w) in w.iter().enumerate() {
            let terms = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let (truth, magnitude): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
            let got = f64::from(y[row][col]);
            let bound = (product.input_error + product.n_roundings * HALF_ULP) * magnitude;
            if got.is_nan() || (got - truth).abs() > bound {
                return Some(format!("k {k}, cell ({row}, {col}): {got} for {truth} ± {bound}"));
            }
        }
        if y[row][n_cols..].iter().any(|cell| *cell != 0.0) {
            return Some(format!("k {k}, row {row}: columns that fill a panel up are not zero"));
        }
    }
    None
}

/// The first way in which a cell of y depends on more than its row and its weights.
fn dependence(product: &Product) -> Option<String> {
    /// Three panels, the last not full.
    const N_COLS: usize = 75;
    /// Every way in which a kernel may cut rows into strips, of 32, 16, 10, 8, 5, 4, 2 and 1.
    const N_ROWS: [usize; 12] = [1, 2, 3, 5, 6, 8, 10, 11, 16, 17, 33, 43];
    let (k, panels) = (product.k, 0..N_COLS.div_ceil(PANEL));
    let mut values = Values(k as u64);
    let x: Vec<_> = (0..43).map(|_| values.many(k)).collect();
    let w: Vec<_> = (0..N_COLS).map(|_| values.many(k)).collect();
    let run = |x: &[Vec<f32>], panels| (product.run)(x, &w, panels);
    let alone: Vec<Vec<f32>> = x.iter().flat_map(|x| run(std::slice::from_ref(x), panels.clone())).collect();
    for n_rows in N_ROWS {
        if run(&x[..n_rows], panels.clone()) != alone[..n_rows] {
            return Some(format!("k {k}: {n_rows} rows differ from each alone"));
        }
        let mut rotated = (x[..n_rows].to_vec(), alone[..n_rows].to_vec());
        rotated.0.rotate_left(1);
        rotated.1.rotate_left(1);
        if run(&rotated.0, panels.clone()) != rotated.1 {
            return Some(format!("k {k}: {n_rows} rows in another order differ"));
        }
        for panel in panels.clone() {
            let some = run(&x[..n_rows], panel..panel + 1);
            let cols = panel * PANEL..(panel + 1) * PANEL;
            if some.iter().zip(&alone).any(|(some, alone)| some[cols.clone()] != alone[cols.clone()]) {
                return Some(format!("k {k}: {n_rows} rows differ when panel {panel} is computed alone"));
            }
        }
    }
    None
}

#[test]
fn matmul_is_the_sum_of_products() {
    for isa in isas() {
        for (rows, cols) in [(1, 1), (1, 33), (2, 16), (3, 9), (5, 12), (10, 70), (11, 7), (17, 26), (33, 5)]
        {
            for product in &isa.products {
                let wrong = wrong_cell(product, rows, cols, 1);
                assert_eq!(wrong, None, "{} {}: {rows} rows, {cols} columns", isa.name, product.name);
            }
        }
    }
}

#[test]
fn a_cell_depends_on_its_row_and_its_weights_alone() {
    for isa in isas() {
        for product in &isa.products {
            assert_eq!(dependence(product), None, "{} {}", isa.name, product.name);
        }
    }
}

/// An embedding is looked up in the panels of the head.
#[test]
fn rows_of_codes_are_the_rounded_weights() {
    let mut values = Values(9);
    let rows: Vec<_> = (0..70).map(|_| values.many(200)).collect();
    let int8 = panels::<Int8<64>>(Layout::Int8Panels(64), &rows);
    let int4 = panels::<Int4<32>>(Layout::Int4Panels(32), &rows);
    for (idx, row) in rows.iter().enumerate() {
        let (mut eight, mut four) = (row.clone(), row.clone());
        INT8.round_weights(&mut eight, 200, 64);
        INT4.round_weights(&mut four, 200, 32);
        assert_eq!(int8.row(idx).collect::<Vec<_>>(), eight);
        assert_eq!(int4.row(idx).collect::<Vec<_>>(), four);
    }
}

/// Sums of whole numbers are exact, and groups are scaled and added in one order.
#[test]
fn products_of_codes_are_the_same_bits_on_every_instruction_set() {
    let isas = isas();
    let codes = || isas.iter().flat_map(|isa| &isa.products).filter(|it| it.name.contains("in groups of"));
    for (n_rows, n_cols) in [(1, 33usize), (8, 40), (11, 7), (40, 64)] {
        for product in codes() {
            let mut values = Values(product.k as u64);
            let x: Vec<_> = (0..n_rows).map(|_| values.many(product.k)).collect();
            let w: Vec<_> = (0..n_cols).map(|_| values.many(product.k)).collect();
            let bits = |product: &Product| {
                let y = (product.run)(&x, &w, 0..n_cols.div_ceil(PANEL));
                y.iter().flatten().map(|cell| cell.to_bits()).collect::<Vec<_>>()
            };
            let same = codes().find(|it| (it.name, it.k) == (product.name, product.k)).expect("it is itself");
            assert!(bits(product) == bits(same), "{}, k {}: {n_rows} rows differ", product.name, product.k);
        }
    }
}

// ---- attention -------------------------------------------------------------------------------------------------------

/// One call: a pool in which only the attended rows are numbers, so that any other read shows as NaN.
struct Call {
    query: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    blocks: Vec<u32>,
    kv_head: usize,
    n_kv_heads: usize,
    positions: Range<usize>,
}

impl Call {
    /// The rows depend on `seed`, their place in the pool on `placement`.
    fn new(shape: &Attention, positions: Range<usize>, seed: u64, placement: u64) -> Self {
        let (mut values, mut places) = (Values(seed), Values(placement));
        let n_kv_heads = 1 + places.below(3);
        let kv_head = places.below(n_kv_heads);
        let n_blocks = positions.end.div_ceil(shape.block) + 3;
        let mut blocks: Vec<u32> = (0..n_blocks as u32).collect();
        (0..n_blocks).for_each(|i| blocks.swap(i, places.below(n_blocks)));
        blocks.truncate(positions.end.div_ceil(shape.block));
        let query = (0..shape.group * shape.head_dim).map(|_| values.value() / 1024.0).collect();
        let mut pool = [(); 2].map(|()| vec![f32::NAN; n_blocks * n_kv_heads * shape.block * shape.head_dim]);
        for position in positions.clone() {
            let block = blocks[position / shape.block] as usize * n_kv_heads + kv_head;
            let start = (block * shape.block + position % shape.block) * shape.head_dim;
            for pool in &mut pool {
                pool[start..start + shape.head_dim].copy_from_slice(&values.many(shape.head_dim));
            }
        }
        let [keys, values] = pool;
        Call { query, keys, values, blocks, kv_head, n_kv_heads, positions }
    }

    fn run(&self, shape: &Attention) -> Vec<f32> {
        let mut scores = vec![f32::NAN; shape.group * self.positions.len() + 3];
        let mut out = vec![f32::NAN; self.query.len()];
        let (blocks, positions) = (&self.blocks, self.positions.clone());
        let run = shape.run;
        run(
            &self.query,
            &self.keys,
            &self.values,
            blocks,
            self.kv_head,
            self.n_kv_heads,
            positions,
            &mut scores,
            &mut out,
        );
        out
    }

    /// The attended rows of a pool, in f64.
    fn rows(&self, shape: &Attention, pool: &[f32]) -> Vec<Vec<f64>> {
        let row = |position: usize| {
            let block = self.blocks[position / shape.block] as usize * self.n_kv_heads + self.kv_head;
            let start = (block * shape.block + position % shape.block) * shape.head_dim;
            pool[start..start + shape.head_dim].iter().map(|x| f64::from(*x)).collect()
        };
        self.positions.clone().map(row).collect()
    }

    /// Softmax attention in f64, and how far f32 may be from it.
    fn truth(&self, shape: &Attention) -> Vec<(f64, f64)> {
        let (keys, values) = (self.rows(shape, &self.keys), self.rows(shape, &self.values));
        let n = keys.len() as f64;
        let mut out = vec![];
        for query in self.query.chunks(shape.head_dim) {
            let terms =
                |key: &[f64]| -> Vec<f64> { query.iter().zip(key).map(|(q, k)| f64::from(*q) * k).collect() };
            let scores: Vec<f64> = keys.iter().map(|key| terms(key).iter().sum()).collect();
            let magnitude =
                keys.iter().map(|key| terms(key).iter().map(|t| t.abs()).sum()).fold(0.0, f64::max);
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            // A score is off by its dot product and its difference from the largest; a weight by `exp` and two sums.
            let relative =
                HALF_ULP * (2.0 * (shape.head_dim as f64 / 8.0 + 7.0) * magnitude + 2.0 * n + 16.0);
            for d in 0..shape.head_dim {
                let terms = || weights.iter().zip(&values).map(|(weight, value)| weight / total * value[d]);
                out.push((terms().sum(), relative * terms().map(f64::abs).sum::<f64>()));
            }
        }
        out
    }
}

const POSITIONS: [Range<usize>; 9] = [0..1, 0..2, 0..8, 0..33, 3..4, 5..21, 16..48, 31..100, 0..130];

#[test]
fn attention_is_softmax_of_scores_times_values() {
    for isa in isas() {
        for shape in &isa.attention {
            for positions in POSITIONS {
                let call = Call::new(shape, positions.clone(), 3, 4);
                for (i, (got, (truth, bound))) in
                    call.run(shape).into_iter().zip(call.truth(shape)).enumerate()
                {
                    let off = (f64::from(got) - truth).abs();
                    assert!(
                        off <= bound,
                        "{}: {shape:?} over {positions:?}, value {i}: {got} for {truth} ± {bound}",
                        isa.name
                    );
                }
            }
        }
    }
}

#[test]
fn attention_depends_on_the_attended_rows_alone() {
    for isa in isas() {
        for shape in &isa.attention {
            for positions in POSITIONS {
                let out = Call::new(shape, positions.clone(), 5, 0).run(shape);
                for placement in 1..4 {
                    let moved = Call::new(shape, positions.clone(), 5, placement);
                    assert_eq!(moved.run(shape), out, "{}: {shape:?}, blocks placed elsewhere", isa.name);
                }
                let mut shared = Call::new(shape, positions.clone(), 5, 0);
                shared.query.rotate_left(shape.head_dim);
                let mut rotated = out;
                rotated.rotate_left(shape.head_dim);
                assert_eq!(shared.run(shape), rotated, "{}: {shape:?}, heads in another order", isa.name);
            }
        }
    }
}

// ---- norm, rope, activation ------------------------------------------------------------------------------------------

#[test]
fn rms_norm_divides_by_the_root_of_the_mean_square() {
    let eps = 1e-6;
    for isa in isas() {
        for n in (1..70).chain([128, 1000, 4096]) {
            let mut values = Values(n as u64);
            let (x, weight) = (values.many(n), values.many(n));
            let mut out = vec![f32::NAN; n];
            (isa.rms_norm)(&x, &weight, eps, &mut out);
            let square: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
            let scale = 1.0 / (square / n as f64 + f64::from(eps)).sqrt();
            for ((x, weight), got) in x.iter().zip(&weight).zip(out) {
                let truth = f64::from(*x) * scale * f64::from(*weight);
                let bound = (n as f64 / 16.0 + 8.0) * HALF_ULP * truth.abs();
                assert!((f64::from(got) - truth).abs() <= bound, "{}: {got} for {truth}, n {n}", isa.name);
            }
        }
    }
}

#[test]
fn rotate_turns_each_pair_by_its_angle() {
    for isa in isas() {
        for half in 1..70 {
            let mut values = Values(half as u64);
            let x = values.many(2 * half);
            let angles: Vec<f64> = values.many(half).into_iter().map(f64::from).collect();
            let cos: Vec<f32> = angles.iter().map(|angle| angle.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|angle| angle.sin() as f32).collect();
            let mut turned = x.clone();
            (isa.rotate)(&mut turned, &cos, &sin);
            for i in 0..half {
                let (a, b) = (f64::from(x[i]), f64::from(x[i + half]));
                let (sin, cos) = angles[i].sin_cos();
                let bound = 3.0 * HALF_ULP * (a.abs() + b.abs());
                assert!(
                    (f64::from(turned[i]) - (a * cos - b * sin)).abs() <= bound,
                    "{}: first of {i}",
                    isa.name
                );
                assert!(
                    (f64::from(turned[i + half]) - (b * cos + a * sin)).abs() <= bound,
                    "{}: second",
                    isa.name
                );
            }
        }
    }
}

/// silu(x) = x / (1 + exp(-x)) measures `exp` too: for x ≪ 0 it is x · exp(x).
#[test]
fn silu_is_x_over_one_plus_exp_of_minus_x() {
    let steps: Vec<f32> = (-87_000..=88_000).map(|step| step as f32 / 1000.0).collect();
    for isa in isas() {
        let mut out = steps.clone();
        (isa.silu_mul)(&mut out, &vec![2.0; steps.len()]);
        for (x, got) in steps.iter().zip(&out) {
            let truth = 2.0 * f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
            // `exp` within 2⁻²², then a sum, a quotient and a product.
            let bound = 7.0 * HALF_ULP * truth.abs();
            assert!(
                (f64::from(*got) - truth).abs() <= bound,
                "{}: silu({x}) · 2 is {truth}, not {got}",
                isa.name
            );
        }
        for n in 0..40 {
            let mut some = steps[50_000..50_000 + n].to_vec();
            (isa.silu_mul)(&mut some, &vec![2.0; n]);
            assert_eq!(some, out[50_000..50_000 + n], "{}: a value depends on its place in {n}", isa.name);
        }
        let mut far = [-1e30, -200.0, 200.0, f32::NAN];
        (isa.silu_mul)(&mut far, &[1.0; 4]);
        assert!(far[1].abs() < 1e-30 && far[2] == 200.0 && far[3].is_nan(), "{}: {far:?}", isa.name);
    }
}

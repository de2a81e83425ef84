//! Every CPU kernel of the catalogue, on every instruction set, against plain f64 and against its laws.
//!
//! An instruction set this processor lacks is named in the output of
//! `cargo test -p savile-tests kernels -- --nocapture`.

mod amx;
mod amx_int4;
mod amx_int8;
mod amx_int8_kv;
mod avx2;
mod avx2_bf16;
mod avx2_codes;
mod avx2_int8_kv;
mod avx512;
mod avx512_bf16;
mod avx512_codes;
mod avx512_dot;
mod avx512_int8_kv;
#[path = "../templates/kernels/cpu/avx512/operand_int8.rs"]
mod avx512_operand_int8;
#[path = "../templates/kernels/cpu/avx512/operand_bf16.rs"]
mod operand_bf16;
#[path = "../templates/kernels/cpu/operand_f32.rs"]
mod operand_f32;
#[path = "../templates/kernels/cpu/operand_int8.rs"]
mod operand_int8;
mod scalar;
mod scalar_bf16;
mod scalar_codes;
mod scalar_int8_kv;
#[path = "../templates/kernels/cpu/store_bf16.rs"]
mod store_bf16;
#[path = "../templates/kernels/cpu/store_f32.rs"]
mod store_f32;
#[path = "../templates/kernels/cpu/store_int8.rs"]
mod store_int8;
#[path = "../templates/kernels/cpu/strip.rs"]
mod strip;
mod table;
mod tuned;

use std::ops::Range;

use harness::quantise::{INT4, INT8};
use rt::image::{Int4, Int8, PANEL};
use synth::{axis::Axis, image::Layout};
use templates::CATALOGUE;

use scalar_int8_kv::weigh;
use table::{Attention, Past, Product, Spread, Tuned, isas, panels, tuned};

/// Half a unit in the last place of an f32 around one.
const HALF_ULP: f64 = 1.0 / (1 << 24) as f64;

/// Whether kernels in tiles can run here.
pub fn runs_tiles() -> bool {
    amx::tiles::allowed()
}

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

/// More panels than stay in L2 at most, and more rows than any strip has.
#[test]
fn numbers_of_a_plan_change_no_bit() {
    const N_COLS: usize = 17 * PANEL + 5;
    let tuned = tuned();
    let Some((usual, others)) = tuned.split_first() else { return };
    for (idx, product) in usual.products.iter().enumerate() {
        let mut values = Values(product.k as u64);
        let x: Vec<_> = (0..75).map(|_| values.many(product.k)).collect();
        let w: Vec<_> = (0..N_COLS).map(|_| values.many(product.k)).collect();
        let bits = |product: &Product, n_rows| {
            let y = (product.run)(&x[..n_rows], &w, 0..N_COLS.div_ceil(PANEL));
            y.iter().flatten().map(|cell| cell.to_bits()).collect::<Vec<_>>()
        };
        let wrong = wrong_cell(product, 35, N_COLS, 7);
        assert_eq!(wrong, None, "{}", product.name);
        let (usual, some) = (bits(product, x.len()), bits(product, 6));
        for Tuned { numbers, products } in others {
            let other = &products[idx];
            assert_eq!((other.name, other.k), (product.name, product.k));
            assert!(bits(other, x.len()) == usual, "{}, k {}: {numbers:?}", product.name, product.k);
            assert!(bits(other, 6) == some, "{}, k {}, few rows: {numbers:?}", product.name, product.k);
        }
    }
}

#[test]
fn every_number_that_a_plan_may_have_is_tested() {
    let numbers: Vec<_> = tuned().iter().flat_map(|it| it.numbers).collect();
    for mechanism in CATALOGUE.mechanisms.iter().filter(|it| it.axis() == Axis::Kernels) {
        for knob in mechanism.knobs() {
            assert!(knob.is_closed, "{}: any number may stand for {}", mechanism.name(), knob.name);
            for value in knob.values {
                let number = (knob.name.to_uppercase(), *value as usize);
                let is_tested = numbers.iter().any(|(name, value)| (*name, *value) == (&number.0, number.1));
                assert!(is_tested, "{}: {number:?}", mechanism.name());
            }
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

/// Rows of one sequence, `group` of them at each of its last positions.
struct Call {
    queries: Vec<Vec<f32>>,
    past: Past,
    group: usize,
    window: usize,
}

impl Call {
    /// The numbers depend on `seed`, their place in the pool on `placement`.
    fn new(shape: &Attention, n_positions: usize, rows: Rows, seed: u64, placement: u64) -> Self {
        let (mut values, mut places) = (Values(seed), Values(placement));
        let n_heads = 1 + places.below(3);
        let n_blocks = n_positions.div_ceil(shape.block) + 3;
        let mut blocks: Vec<u32> = (0..n_blocks as u32).collect();
        (0..n_blocks).for_each(|i| blocks.swap(i, places.below(n_blocks)));
        let n_queries = rows.group * rows.n.min(n_positions);
        let query = |values: &mut Values| values.many(shape.head_dim).iter().map(|x| x / 1024.0).collect();
        let queries = (0..n_queries).map(|_| query(&mut values)).collect();
        let rows_of = |values: &mut Values| [(); 2].map(|()| values.many(shape.head_dim));
        let past = Past {
            rows: (0..n_positions).map(|_| rows_of(&mut values)).collect(),
            blocks,
            n_blocks,
            head: places.below(n_heads),
            n_heads,
            stale: f32::NAN,
        };
        Call { queries, past, group: rows.group, window: rows.window }
    }

    /// What a row sees: the last positions up to its own.
    fn seen(&self, row: usize) -> Range<usize> {
        let n_rows = self.queries.len() / self.group;
        let position = self.past.rows.len() - n_rows + row / self.group;
        (position + 1).saturating_sub(self.window)..position + 1
    }

    fn run(&self, shape: &Attention, n_rows: usize, spread: Spread) -> Vec<Vec<f32>> {
        (shape.run)(&self.queries, &|row| self.seen(row), &self.past, n_rows, spread)
    }

    /// Softmax attention of a row in f64, and how far the kernel may be from it.
    fn truth(&self, shape: &Attention, row: usize) -> Vec<(f64, f64)> {
        let stored = |row: &Vec<f32>| -> Vec<f64> {
            let mut row = row.clone();
            (shape.stored)(&mut row);
            row.into_iter().map(f64::from).collect()
        };
        let largest = |row: &[f64]| row.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        let seen = self.seen(row);
        let past: Vec<[Vec<f64>; 2]> =
            self.past.rows[seen.clone()].iter().map(|it| it.each_ref().map(stored)).collect();
        let query: Vec<f64> = self.queries[row].iter().map(|q| f64::from(*q)).collect();
        let terms = |key: &[f64]| -> Vec<f64> { query.iter().zip(key).map(|(q, k)| q * k).collect() };
        let scores: Vec<f64> = past.iter().map(|[key, _]| terms(key).iter().sum()).collect();
        let magnitude =
            past.iter().map(|[key, _]| terms(key).iter().map(|t| t.abs()).sum()).fold(0.0, f64::max);
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        let n = past.len() as f64;
        // A score is off by its dot product, channel by channel, and by its difference from the largest; a weight by both,
        // by `exp`, by two sums, and by two products for each range.
        let of_keys = past.iter().map(|[key, _]| key.iter().map(|k| k.abs()).sum()).fold(0.0, f64::max);
        let of_scores = 2.0 * (shape.rounding + (shape.head_dim as f64 + 2.0) * HALF_ULP) * magnitude
            + 2.0 * shape.step * largest(&query) * of_keys;
        let relative = of_scores.exp_m1() + shape.rounding + HALF_ULP * (2.0 * n + 24.0);
        // A step of a range is that of its largest weighted value; each position is off by half of it, code by code.
        let mut steps = vec![0.0; shape.head_dim];
        let ranges = seen.clone().zip(weights.iter().zip(&past)).collect::<Vec<_>>();
        for range in ranges.chunk_by(|(a, _), (b, _)| a / strip::RANGE == b / strip::RANGE) {
            let weighted = |(weight, [_, value]): &(&f64, &[Vec<f64>; 2])| *weight / total * largest(value);
            let most = range.iter().map(|(_, it)| weighted(it)).fold(0.0, f64::max);
            for (_, (_, [_, value])) in range {
                let unit = shape.step * most / largest(value).max(f64::MIN_POSITIVE);
                steps.iter_mut().zip(value).for_each(|(step, value)| *step += unit * value.abs());
            }
        }
        (0..shape.head_dim)
            .map(|d| {
                let terms =
                    || weights.iter().zip(&past).map(|(weight, [_, value])| weight / total * value[d]);
                (terms().sum(), relative * terms().map(f64::abs).sum::<f64>() + steps[d] * (1.0 + relative))
            })
            .collect()
    }
}

/// How many rows attend, how many heads share a key head, and how far they see.
#[derive(Clone, Copy, Debug)]
struct Rows {
    n: usize,
    group: usize,
    window: usize,
}

/// Lengths of a sequence, and of what is computed at its end: within a tile, at the edges of blocks and ranges, and
/// beyond; with and without a window.
const STEPS: [(usize, Rows); 8] = [
    (1, Rows { n: 1, group: 1, window: usize::MAX }),
    (33, Rows { n: 33, group: 1, window: usize::MAX }),
    (70, Rows { n: 25, group: 7, window: 5 }),
    (130, Rows { n: 35, group: 2, window: 64 }),
    (512, Rows { n: 2, group: 2, window: usize::MAX }),
    (530, Rows { n: 27, group: 2, window: usize::MAX }),
    (1100, Rows { n: 70, group: 1, window: 513 }),
    (1540, Rows { n: 1, group: 5, window: usize::MAX }),
];

#[test]
fn attention_is_softmax_of_scores_times_values() {
    for isa in isas() {
        for shape in &isa.attention {
            for (n_positions, rows) in STEPS {
                let call = Call::new(shape, n_positions, rows, 3, 4);
                for (row, out) in call.run(shape, usize::MAX, Spread::Together).into_iter().enumerate() {
                    for (i, (got, (truth, bound))) in out.into_iter().zip(call.truth(shape, row)).enumerate()
                    {
                        let off = (f64::from(got) - truth).abs();
                        assert!(
                            off <= bound,
                            "{}: {shape:?}, {rows:?} of {n_positions}, row {row}, value {i}: {got} for {truth} ± {bound}",
                            isa.name
                        );
                    }
                }
            }
        }
    }
}

/// Rounded away, what went wrong in one position would look like an answer in all that see it.
#[test]
fn a_head_that_is_no_number_somewhere_is_stored_with_a_scale_that_is_none() {
    for channel in [0, 40, 63] {
        let mut head = [0.5; 64];
        head[channel] = f32::NAN;
        let [mut keys, mut values] = [[0; 64 * (64 + store_int8::SCALE)]; 2];
        store_int8::store::<64, 64, 64>(&mut keys, &mut values, 3, &head, &head);
        for cells in [keys, values] {
            let mut scales = [0.0; 64];
            store_int8::parts::<64, 64>(&cells, &mut scales);
            assert!(scales[3].is_nan(), "channel {channel}: {}", scales[3]);
        }
    }
}

#[test]
fn attention_depends_on_the_attended_rows_alone() {
    for isa in isas() {
        for shape in &isa.attention {
            for (n_positions, rows) in STEPS {
                let call = Call::new(shape, n_positions, rows, 5, 0);
                let out = call.run(shape, 1, Spread::Together);
                assert!(out.iter().flatten().all(|it| it.is_finite()), "{}: {shape:?}, {rows:?}", isa.name);
                for (n_rows, spread) in [(3, Spread::Apart), (21, Spread::Together), (1000, Spread::Apart)] {
                    let strips = call.run(shape, n_rows, spread);
                    assert_eq!(strips, out, "{}: {shape:?}, {rows:?} in strips of {n_rows}", isa.name);
                }
                let moved = Call::new(shape, n_positions, rows, 5, 1).run(shape, 64, Spread::Together);
                assert_eq!(moved, out, "{}: {shape:?}, blocks placed elsewhere", isa.name);
                // What no row sees may be any number, and what another sequence left may be none.
                let mut other = Call::new(shape, n_positions, rows, 5, 0);
                other.past.stale = 3e38;
                for row in &mut other.past.rows[..call.seen(0).start] {
                    row.iter_mut().for_each(|it| it.fill(1e30));
                }
                let other = other.run(shape, 64, Spread::Apart);
                assert_eq!(other, out, "{}: {shape:?}, {rows:?}: something else is read", isa.name);
            }
        }
    }
}

/// Their products are whole numbers, and what is between them has one order.
#[test]
fn attention_over_codes_is_the_same_bits_in_tiles_and_in_vectors() {
    for isa in isas() {
        let over_codes = || isa.attention.iter().filter(|it| it.name == "store_int8");
        for shape in over_codes() {
            let same = over_codes()
                .find(|it| (it.head_dim, it.block) == (shape.head_dim, shape.block))
                .expect("it is itself");
            for (n_positions, rows) in STEPS {
                let call = Call::new(shape, n_positions, rows, 7, 2);
                let [found, expected] = [shape, same].map(|it| call.run(it, 64, Spread::Together));
                assert!(found == expected, "{}: {shape:?}, {rows:?} of {n_positions}", isa.name);
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

#[test]
fn cells_are_put_and_added_column_by_column() {
    let cells = std::array::from_fn(|col| col as f32 + 0.5);
    for isa in isas() {
        let mut y = [-1.0; PANEL];
        (isa.put)(&mut y, &cells);
        assert_eq!(y, cells, "{}", isa.name);
        (isa.add)(&mut y, &cells);
        assert!(y.iter().zip(&cells).all(|(y, cell)| *y == 2.0 * cell), "{}", isa.name);
    }
}

/// silu(x) = x / (1 + exp(-x)) measures `exp` too: for x ≪ 0 it is x · exp(x).
#[test]
fn silu_is_x_over_one_plus_exp_of_minus_x() {
    let steps: Vec<f32> = (-87_000..=88_000).map(|step| step as f32 / 1000.0).collect();
    for isa in isas() {
        let silu = |gates: &[f32], up: f32| {
            let mut gated = vec![[0.0; PANEL / 2]; gates.len().div_ceil(PANEL / 2)];
            for (gates, gated) in gates.chunks(PANEL / 2).zip(&mut gated) {
                let mut cells = [up; PANEL];
                cells[..gates.len()].copy_from_slice(gates);
                (isa.silu_mul)(&cells, gated);
            }
            gated.as_flattened()[..gates.len()].to_vec()
        };
        let out = silu(&steps, 2.0);
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
            let some = silu(&steps[50_000..50_000 + n], 2.0);
            assert_eq!(some, out[50_000..50_000 + n], "{}: a value depends on its place in {n}", isa.name);
        }
        let far = silu(&[-1e30, -200.0, 200.0, f32::NAN], 1.0);
        assert!(far[1].abs() < 1e-30 && far[2] == 200.0 && far[3].is_nan(), "{}: {far:?}", isa.name);
    }
}

//! The kernels under one type, instruction set by instruction set, at the shapes they are tested at.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::bf16;
use harness::{image::laid_out, quantise};
use memmap2::MmapMut;
use rt::columns::{Finish, PerRow};
use rt::image::{Int4, Int8, PANEL, Packed, Panels};
use synth::image::Layout;

use super::{
    amx, amx_int4, amx_int8, amx_int8_kv, avx2, avx2_bf16, avx2_codes, avx2_int8_kv, avx512, avx512_bf16,
    avx512_codes, avx512_dot, avx512_int8_kv, avx512_operand_int8, operand_bf16, operand_f32, operand_int8,
    scalar, scalar_bf16, scalar_codes, scalar_int8_kv, store_bf16, store_f32, store_int8, strip,
};

/// The cells of some panels: rows `x` of K, a matrix of weights, and which of its panels.
pub type Matmul = fn(&[Vec<f32>], &[Vec<f32>], Range<usize>) -> Vec<Vec<f32>>;
/// Attends rows of queries, HEAD_DIM each, to the positions that each sees of a sequence, in strips of this many rows;
/// where ranges are spread over threads each is looked at alone.
pub type Attend = fn(&[Vec<f32>], &dyn Fn(usize) -> Range<usize>, &Past, usize, Spread) -> Vec<Vec<f32>>;

/// How the ranges of a strip are looked at.
#[derive(Clone, Copy, Debug)]
pub enum Spread {
    /// One after the other.
    Together,
    /// Each alone, and then put together.
    Apart,
}

/// The past of one head of a sequence.
pub struct Past {
    /// Of every position a key and a value.
    pub rows: Vec<[Vec<f32>; 2]>,
    /// Where its blocks lie in a pool of so many.
    pub blocks: Vec<u32>,
    pub n_blocks: usize,
    /// Which of how many heads it is.
    pub head: usize,
    pub n_heads: usize,
    /// What another sequence has left in the pool.
    pub stale: f32,
}

/// One matrix product at one K.
pub struct Product {
    /// The file it is in.
    pub name: &'static str,
    pub k: usize,
    pub run: Matmul,
    /// What a row of weights is once it is in the image.
    pub stored: fn(&mut [f32]),
    /// What a row of activations is once it is an operand, where that is not for `input_error` to say.
    pub held: fn(&mut [f32]),
    /// Roundings on the way of a product into its cell.
    pub n_roundings: f64,
    /// Relative error of a product before it is summed: what rounding the activations costs.
    pub input_error: f64,
}

/// A matrix as the kernels read it.
pub fn panels<W: Packed>(layout: Layout, rows: &[Vec<f32>]) -> Panels<W> {
    let bytes = laid_out(layout, rows);
    let mut map = MmapMut::map_anon(bytes.len()).expect("memory");
    map.copy_from_slice(&bytes);
    let map = Arc::new(map.make_read_only().expect("memory"));
    Panels::of_map(&map, 0..bytes.len(), rows.len(), rows[0].len()).expect("whole panels")
}

/// Collects what a product finds: rows of cells, panel by panel.
pub struct Cells(RefCell<Vec<Vec<f32>>>);

impl Cells {
    pub fn new(n_rows: usize, n_panels: usize) -> Self {
        Self(RefCell::new(vec![vec![f32::NAN; n_panels * PANEL]; n_rows]))
    }

    pub fn rows(self) -> Vec<Vec<f32>> {
        self.0.into_inner()
    }
}

impl Finish for &Cells {
    fn take(self, panel: usize, first_row: usize, cells: &[[f32; PANEL]]) {
        for (row, cells) in self.0.borrow_mut()[first_row..].iter_mut().zip(cells) {
            row[panel * PANEL..(panel + 1) * PANEL].copy_from_slice(cells);
        }
    }
}

/// Attention at one shape.
pub struct Attention {
    /// The cells of the cache.
    pub name: &'static str,
    pub head_dim: usize,
    pub block: usize,
    pub run: Attend,
    /// What a key or value is once it is in the cache.
    pub stored: fn(&mut [f32]),
    /// Relative error of a query, and of a weight, before it is multiplied.
    pub rounding: f64,
    /// Error of a query's channel, as a share of its largest; and of a position's weighted value likewise, in a range.
    pub step: f64,
}

impl fmt::Debug for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, head dim {}, block {}", self.name, self.head_dim, self.block)
    }
}

/// What one folder of kernels offers.
pub struct Isa {
    pub name: &'static str,
    pub products: Vec<Product>,
    pub attention: Vec<Attention>,
    pub rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    pub rotate: fn(&mut [f32], &[f32], &[f32]),
    pub silu_mul: fn(&[f32; PANEL], &mut [f32; PANEL / 2]),
    pub put: fn(&mut [f32; PANEL], &[f32; PANEL]),
    pub add: fn(&mut [f32; PANEL], &[f32; PANEL]),
}

/// The products of one file at several K, with the operand that they take.
macro_rules! products {
    ($isa:ident::$kernel:ident, $operand:ident, $element:ty, $layout:expr; $n_sums:expr, $input_error:expr) => {
        products!(
            $isa::$kernel, $operand, $element, $layout; $n_sums, $input_error;
            1 2 3 5 7 8 9 15 16 17 24 31 32 33 40 63 64 65 100 257 300
        )
    };
    ($isa:ident::$kernel:ident, $operand:ident, $element:ty, $layout:expr; $n_sums:expr, $input_error:expr; $($k:literal)*) => {
        vec![$(Product {
            name: stringify!($kernel),
            k: $k,
            run: |x, w, some| {
                let mut operand = $operand::<$k>::new(x.len());
                for (row, x) in x.iter().enumerate() {
                    let mut values = [0.0; $k];
                    values.copy_from_slice(x);
                    // A row is the same, written whole or in parts.
                    for (part, x) in x.chunks(16).enumerate().filter(|_| row % 2 == 1) {
                        // SAFETY: one thread, and nobody holds a row.
                        unsafe { operand.rows().set_part(row, 16 * part, x) };
                    }
                    if row % 2 == 0 {
                        // SAFETY: as above.
                        unsafe { operand.rows().row(row) }.set(&values);
                    }
                }
                let w = panels::<$element>($layout, w);
                let cells = Cells::new(x.len(), w.count());
                $isa::$kernel::matmul(&operand, x.len(), &w, some, &cells);
                cells.rows()
            },
            stored: |row| row.iter_mut().for_each(|it| *it = <$element as Number>::from_f32(*it).to_f32()),
            held: |_| (),
            n_roundings: f64::from($k) + $n_sums,
            input_error: $input_error,
        }),*]
    };
}

/// The products of one file of codes at several K and groups, with the operand that they take.
macro_rules! codes {
    ($isa:ident::$kernel:ident, $operand:ident, $weight:ident, $layout:ident, $codes:ident; $($group:literal)*) => {
        [$(codes!(
            $isa::$kernel, $operand, $weight, $layout, $codes, $group;
            1 3 4 5 31 32 33 63 64 65 100 127 128 129 256 257 300 640
        )),*].into_iter().flatten().collect::<Vec<_>>()
    };
    ($isa:ident::$kernel:ident, $operand:ident, $weight:ident, $layout:ident, $codes:ident, $group:literal; $($k:literal)*) => {
        vec![$(Product {
            name: concat!(stringify!($kernel), " in groups of ", $group),
            k: $k,
            run: |x, w, some| {
                let mut operand = $operand::Operand::<$k, $group>::new(x.len());
                for (row, x) in x.iter().enumerate() {
                    let x = x.as_slice().try_into().expect("a row of K");
                    // SAFETY: one thread, and nobody holds a row.
                    unsafe { operand.rows().row(row) }.set(x);
                }
                let w = panels::<$weight<$group>>(Layout::$layout($group), w);
                let cells = Cells::new(x.len(), w.count());
                $isa::$kernel::matmul(&operand, x.len(), &w, some, &cells);
                cells.rows()
            },
            stored: |row| quantise::$codes.round_weights(row, $k, $group),
            held: |row| quantise::round_activations(row, $k, $group),
            // Two are what f32 makes of a code and its scale here; each group is scaled, and added.
            n_roundings: f64::from($k as i32 / $group) + 5.0,
            input_error: 0.0,
        }),*]
    };
}

type PlainOperand<const K: usize> = operand_f32::Operand<K>;
type RoundedOperand<const K: usize> = operand_bf16::Operand<K, 1>;
type WholeOperand<const K: usize> = operand_bf16::Operand<K, 3>;

macro_rules! attentions {
    (
        $isa:ident, $store:ident, $stale:expr, $stored:expr, $rounding:expr, $step:expr, $scale:expr;
        $(($head_dim:literal $channels:literal $block:literal))*
    ) => {
        vec![$(Attention {
            name: stringify!($store),
            head_dim: $head_dim,
            block: $block,
            stored: $stored,
            rounding: $rounding,
            step: $step,
            run: |queries, seen, past, n_rows, spread| {
                type Cells = Vec<$store::Cell>;
                let block_len = past.n_heads * $block * ($channels + $scale);
                let stale: $store::Cell = $stale(past.stale);
                let [mut keys, mut values]: [Cells; 2] = [(); 2].map(|()| vec![stale; past.n_blocks * block_len]);
                for (position, [key, value]) in past.rows.iter().enumerate() {
                    let start = past.blocks[position / $block] as usize * block_len;
                    // The other heads hold what this one does not.
                    let all = |of: &[f32]| {
                        let mut all = vec![-7.0; past.n_heads * $head_dim];
                        all[past.head * $head_dim..][..$head_dim].copy_from_slice(of);
                        all
                    };
                    $store::store::<$head_dim, $channels, $block>(
                        &mut keys[start..][..block_len],
                        &mut values[start..][..block_len],
                        position % $block,
                        &all(key),
                        &all(value),
                    );
                }
                let past = strip::Past {
                    keys: &keys, values: &values, blocks: &past.blocks, head: past.head, n_heads: past.n_heads
                };
                let mut scratch = $isa::attend::Scratch::new($channels);
                let mut out = vec![];
                for (strip_idx, strip) in queries.chunks(n_rows).enumerate() {
                    let mut padded = vec![0.0; strip.len() * $channels];
                    for (padded, query) in padded.chunks_mut($channels).zip(strip) {
                        padded[..$head_dim].copy_from_slice(query);
                    }
                    let seen = |row: usize| seen(strip_idx * n_rows + row);
                    let ranges = seen(0).start / strip::RANGE..seen(strip.len() - 1).end.div_ceil(strip::RANGE);
                    let found_len = strip::found_len($channels);
                    let mut attended = vec![f32::NAN; strip.len() * found_len];
                    attended.chunks_mut(found_len).for_each(strip::nothing);
                    let mut look = |range, attended: &mut [f32]| {
                        $isa::attend::attend::<$channels, $block>(&padded, &past, range, seen, &mut scratch, attended);
                    };
                    for range in ranges {
                        match spread {
                            Spread::Together => look(range, &mut attended),
                            Spread::Apart => {
                                let mut found = vec![f32::NAN; attended.len()];
                                found.chunks_mut(found_len).for_each(strip::nothing);
                                look(range, &mut found);
                                for (attended, found) in attended.chunks_mut(found_len).zip(found.chunks(found_len)) {
                                    $isa::merge::merge(attended, found);
                                }
                            }
                        }
                    }
                    out.extend(attended.chunks(found_len).map(|row| {
                        let mut out = vec![f32::NAN; $head_dim];
                        $isa::merge::share(row, &mut out);
                        out
                    }));
                }
                out
            },
        }),*]
    };
}

/// Attention over a cache in bf16, whose blocks are of 32 positions.
macro_rules! bf16_attentions {
    ($isa:ident, $rounding:expr) => {
        attentions!(
            $isa, store_bf16, |x| bf16::from_f32(x).to_bits(), quantise::round_bf16, $rounding, 0.0, 0;
            (6 32 64) (24 32 32) (64 64 32) (80 96 64) (128 128 32)
        )
    };
}

/// Attention over a cache in int8, whose blocks are of 64 positions.
macro_rules! int8_attentions {
    ($isa:ident) => {
        attentions!(
            // Four cells of all bits are a scale that is no number, four of 0x7f the largest that is one.
            $isa, store_int8, |x: f32| if x.is_nan() { -1 } else { 0x7f },
            |row| quantise::round_activations(row, row.len(), row.len()), 0.0, 0.5 / 32767.0, store_int8::SCALE;
            (6 64 64) (24 64 128) (80 128 64) (128 128 128) (250 256 64)
        )
    };
}

macro_rules! isa {
    ($isa:ident, $bf16:ident, $int8:ident) => {
        Isa {
            name: stringify!($isa),
            products: [
                products!($isa::matmul_f32, PlainOperand, f32, Layout::F32Panels; 5.0, 0.0),
                products!($isa::matmul_bf16, PlainOperand, bf16, Layout::Bf16Panels; 5.0, 0.0),
            ]
            .into_iter()
            .flatten()
            .collect(),
            attention: [
                attentions!($isa, store_f32, |x| x, |_| (), 0.0, 0.0, 0;
                    (2 16 16) (6 16 64) (10 16 32) (16 16 16) (24 32 16) (40 48 16) (64 64 32) (80 80 64) (128 128 16)),
                bf16_attentions!($bf16, 0.0),
                int8_attentions!($int8),
            ]
            .into_iter()
            .flatten()
            .collect(),
            rms_norm: $isa::norm::rms_norm,
            rotate: $isa::rope::rotate,
            silu_mul: $isa::activation::silu_mul,
            put: $isa::cells::put,
            add: $isa::cells::add,
        }
    };
}

/// Products with some numbers that a plan may have.
pub struct Tuned {
    pub numbers: &'static [(&'static str, usize)],
    pub products: Vec<Product>,
}

/// The products of one set of numbers, at few K: within a step of tiles, and beyond as many as stay in L1.
macro_rules! tuned {
    ($set:ident) => {{
        use super::tuned::$set::*;
        let mut products = vec![];
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            products.extend(products!(avx2::matmul_f32, PlainOperand, f32, Layout::F32Panels; 5.0, 0.0; 33 600));
            products.extend(products!(avx2::matmul_bf16, PlainOperand, bf16, Layout::Bf16Panels; 5.0, 0.0; 33 600));
            products.extend(codes!(avx2_codes::matmul_int8, operand_int8, Int8, Int8Panels, INT8, 64; 33 600));
            products.extend(codes!(avx2_codes::matmul_int4, operand_int8, Int4, Int4Panels, INT4, 32; 33 600));
        }
        if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni") {
            products.extend(products!(avx512::matmul_f32, PlainOperand, f32, Layout::F32Panels; 5.0, 0.0; 33 600));
            products.extend(products!(avx512::matmul_bf16, PlainOperand, bf16, Layout::Bf16Panels; 5.0, 0.0; 33 600));
            products.extend(products!(
                avx512_dot::matmul_bf16_dot, RoundedOperand, bf16, Layout::Bf16Panels; 5.0, BF16_ROUNDING; 33 600
            ));
            products.extend(codes!(
                avx512_codes::matmul_int8, avx512_operand_int8, Int8, Int8Panels, INT8, 64; 33 600
            ));
            products.extend(codes!(
                avx512_codes::matmul_int4, avx512_operand_int8, Int4, Int4Panels, INT4, 32; 33 600
            ));
            if amx::tiles::allowed() {
                products.extend(products!(
                    amx::matmul_bf16, RoundedOperand, bf16, Layout::Bf16Panels; 5.0, BF16_ROUNDING; 33 600
                ));
                products.extend(products!(amx::matmul_bf16, WholeOperand, bf16, Layout::Bf16Panels; 9.0, 0.0; 33 600));
                products.extend(codes!(
                    amx_int8::matmul_int8, avx512_operand_int8, Int8, Int8Panels, INT8, 64; 33 600
                ));
                products.extend(codes!(
                    amx_int4::matmul_int4, avx512_operand_int8, Int4, Int4Panels, INT4, 32; 33 600
                ));
            }
        }
        Tuned { numbers: tuning::ALL, products }
    }};
}

/// The products with every number that a plan may have, first with those that most rules take.
pub fn tuned() -> Vec<Tuned> {
    vec![tuned!(usual), tuned!(far), tuned!(least), tuned!(most)]
}

/// A number that a weight may be.
trait Number {
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
}

impl Number for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Number for bf16 {
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

/// A bf16 holds eight bits: rounding to the nearest is off by half of the last.
const BF16_ROUNDING: f64 = 1.0 / (1 << 8) as f64;

/// The instruction sets that can run here; the others are named in the output.
pub fn isas() -> Vec<Isa> {
    let mut plain = isa!(scalar, scalar_bf16, scalar_int8_kv);
    plain
        .products
        .extend(codes!(scalar_codes::matmul_int8, operand_int8, Int8, Int8Panels, INT8; 64 128 256 65536));
    plain.products.extend(codes!(scalar_codes::matmul_int4, operand_int8, Int4, Int4Panels, INT4; 32 64 128));
    let mut isas = vec![plain];
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        let mut wide = isa!(avx2, avx2_bf16, avx2_int8_kv);
        wide.products
            .extend(codes!(avx2_codes::matmul_int8, operand_int8, Int8, Int8Panels, INT8; 64 128 256 65536));
        wide.products
            .extend(codes!(avx2_codes::matmul_int4, operand_int8, Int4, Int4Panels, INT4; 32 64 128));
        isas.push(wide);
    } else {
        println!("not run: avx2 kernels, this processor has no AVX2 and FMA");
    }
    if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni") {
        let mut widest = isa!(avx512, avx512_bf16, avx512_int8_kv);
        let dot = products!(
            avx512_dot::matmul_bf16_dot, RoundedOperand, bf16, Layout::Bf16Panels; 5.0, BF16_ROUNDING
        );
        widest.products.extend(dot);
        widest.products.extend(
            codes!(avx512_codes::matmul_int8, avx512_operand_int8, Int8, Int8Panels, INT8; 64 128 256 65536),
        );
        widest.products.extend(
            codes!(avx512_codes::matmul_int4, avx512_operand_int8, Int4, Int4Panels, INT4; 32 64 128),
        );
        if amx::tiles::allowed() {
            let rounded =
                products!(amx::matmul_bf16, RoundedOperand, bf16, Layout::Bf16Panels; 5.0, BF16_ROUNDING);
            // Three terms are summed apart, each a little more than a third of the way.
            let whole = products!(amx::matmul_bf16, WholeOperand, bf16, Layout::Bf16Panels; 9.0, 0.0);
            widest.products.extend(rounded.into_iter().chain(whole));
            widest.products.extend(
                codes!(amx_int8::matmul_int8, avx512_operand_int8, Int8, Int8Panels, INT8; 64 128 256 65536),
            );
            widest.products.extend(
                codes!(amx_int4::matmul_int4, avx512_operand_int8, Int4, Int4Panels, INT4; 32 64 128),
            );
            widest.attention.extend(bf16_attentions!(amx, BF16_ROUNDING));
            widest.attention.extend(int8_attentions!(amx_int8_kv));
        } else {
            println!("not run: amx kernels, this processor has no AMX or the system does not let it be used");
        }
        isas.push(widest);
    } else {
        println!("not run: avx512 and amx kernels, this processor has no AVX-512 BF16 and VNNI");
    }
    isas
}

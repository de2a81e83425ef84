//! The kernels under one type, instruction set by instruction set, at the shapes they are tested at.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::bf16;
use harness::{image::laid_out, quantise};
use memmap2::MmapMut;
use rt::columns::PerRow;
use rt::image::{Int4, Int8, PANEL, Packed, Panels};
use synth::image::Layout;

use super::{
    amx, amx_int4, amx_int8, avx2, avx2_codes, avx512, avx512_codes, avx512_dot, avx512_operand_int8,
    operand_bf16, operand_f32, operand_int8, scalar, scalar_codes,
};

/// The cells of some panels: rows `x` of K, a matrix of weights, and which of its panels.
pub type Matmul = fn(&[Vec<f32>], &[Vec<f32>], Range<usize>) -> Vec<Vec<f32>>;
pub type Attend = fn(&[f32], &[f32], &[f32], &[u32], usize, usize, Range<usize>, &mut [f32], &mut [f32]);

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

/// Collects what a product gives to its `finish`: rows of cells, panel by panel.
#[derive(Default)]
pub struct Cells(Vec<Vec<f32>>);

impl Cells {
    pub fn new(n_rows: usize, n_panels: usize) -> Self {
        Self(vec![vec![f32::NAN; n_panels * PANEL]; n_rows])
    }

    pub fn put(&mut self, panel: usize, first_row: usize, cells: &[[f32; PANEL]]) {
        for (row, cells) in self.0[first_row..].iter_mut().zip(cells) {
            row[panel * PANEL..(panel + 1) * PANEL].copy_from_slice(cells);
        }
    }
}

/// Attention at one shape.
pub struct Attention {
    pub head_dim: usize,
    pub group: usize,
    pub block: usize,
    pub run: Attend,
}

impl fmt::Debug for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "head dim {}, group {}, block {}", self.head_dim, self.group, self.block)
    }
}

/// What one folder of kernels offers.
pub struct Isa {
    pub name: &'static str,
    pub products: Vec<Product>,
    pub attention: Vec<Attention>,
    pub rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    pub rotate: fn(&mut [f32], &[f32], &[f32]),
    pub silu_mul: fn(&mut [f32], &[f32]),
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
                let mut cells = Cells::new(x.len(), w.count());
                $isa::$kernel::matmul(&operand, x.len(), &w, some, |panel, row, it| cells.put(panel, row, it));
                cells.0
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
                let mut cells = Cells::new(x.len(), w.count());
                $isa::$kernel::matmul(&operand, x.len(), &w, some, |panel, row, it| cells.put(panel, row, it));
                cells.0
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
    ($isa:ident, $(($head_dim:literal $group:literal $block:literal))*) => {
        vec![$(Attention {
            head_dim: $head_dim,
            group: $group,
            block: $block,
            run: $isa::attention::attend::<$head_dim, $group, $block>,
        }),*]
    };
}

macro_rules! isa {
    ($isa:ident) => {
        Isa {
            name: stringify!($isa),
            products: [
                products!($isa::matmul_f32, PlainOperand, f32, Layout::F32Panels; 5.0, 0.0),
                products!($isa::matmul_bf16, PlainOperand, bf16, Layout::Bf16Panels; 5.0, 0.0),
            ]
            .into_iter()
            .flatten()
            .collect(),
            attention: attentions!($isa,
                (2 1 1) (2 3 4) (4 7 16) (6 2 3) (8 1 16) (10 5 8) (16 2 16) (18 6 16) (24 4 7)
                (40 3 16) (64 1 16) (64 7 16) (80 2 32) (96 8 16) (128 2 16) (128 9 16)),
            rms_norm: $isa::norm::rms_norm,
            rotate: $isa::rope::rotate,
            silu_mul: $isa::activation::silu_mul,
        }
    };
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
    let mut plain = isa!(scalar);
    plain
        .products
        .extend(codes!(scalar_codes::matmul_int8, operand_int8, Int8, Int8Panels, INT8; 64 128 256));
    plain.products.extend(codes!(scalar_codes::matmul_int4, operand_int8, Int4, Int4Panels, INT4; 32 64 128));
    let mut isas = vec![plain];
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        let mut wide = isa!(avx2);
        wide.products
            .extend(codes!(avx2_codes::matmul_int8, operand_int8, Int8, Int8Panels, INT8; 64 128 256));
        wide.products
            .extend(codes!(avx2_codes::matmul_int4, operand_int8, Int4, Int4Panels, INT4; 32 64 128));
        isas.push(wide);
    } else {
        println!("not run: avx2 kernels, this processor has no AVX2 and FMA");
    }
    if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni") {
        let mut widest = isa!(avx512);
        let dot = products!(
            avx512_dot::matmul_bf16_dot, RoundedOperand, bf16, Layout::Bf16Panels; 5.0, BF16_ROUNDING
        );
        widest.products.extend(dot);
        widest.products.extend(
            codes!(avx512_codes::matmul_int8, avx512_operand_int8, Int8, Int8Panels, INT8; 64 128 256),
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
                codes!(amx_int8::matmul_int8, avx512_operand_int8, Int8, Int8Panels, INT8; 64 128 256),
            );
            widest.products.extend(
                codes!(amx_int4::matmul_int4, avx512_operand_int8, Int4, Int4Panels, INT4; 32 64 128),
            );
        } else {
            println!("not run: amx kernels, this processor has no AMX or the system does not let it be used");
        }
        isas.push(widest);
    } else {
        println!("not run: avx512 and amx kernels, this processor has no AVX-512 BF16 and VNNI");
    }
    isas
}

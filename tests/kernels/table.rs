//! The kernels under one type, instruction set by instruction set, at the shapes they are tested at.

use std::fmt;
use std::ops::Range;

use half::bf16;
use rt::columns::Columns;

use super::{avx2, avx512, scalar};

pub type Matmul<W> = fn(&[f32], &[W], Range<usize>, Columns<'_>);
pub type Attend = fn(&[f32], &[f32], &[f32], &[u32], usize, usize, Range<usize>, &mut [f32], &mut [f32]);

/// A weight as stored.
pub trait Weight: Copy {
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
}

impl Weight for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Weight for bf16 {
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

/// One matrix product at one K.
pub struct Product<W> {
    /// The file it is in.
    pub name: &'static str,
    pub k: usize,
    pub run: Matmul<W>,
    /// Partial sums of a cell, which share its products evenly.
    pub n_lanes: usize,
    /// Relative error of a product before it is summed: what rounding the activations costs.
    pub input_error: f64,
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
    pub matmul_f32: Vec<Product<f32>>,
    pub matmul_bf16: Vec<Product<bf16>>,
    pub attention: Vec<Attention>,
    pub rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    pub rotate: fn(&mut [f32], &[f32], &[f32]),
    pub silu_mul: fn(&mut [f32], &[f32]),
}

macro_rules! products {
    ($isa:ident::$kernel:ident, $n_lanes:expr, $input_error:expr) => {
        products!(
            $isa::$kernel, $n_lanes, $input_error,
            1 2 3 5 7 8 9 15 16 17 24 31 32 33 40 63 64 65 100 257
        )
    };
    ($isa:ident::$kernel:ident, $n_lanes:expr, $input_error:expr, $($k:literal)*) => {
        vec![$(Product {
            name: stringify!($kernel),
            k: $k,
            run: $isa::$kernel::matmul::<$k>,
            n_lanes: $n_lanes,
            input_error: $input_error,
        }),*]
    };
}

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
    ($isa:ident, $n_lanes:expr) => {
        Isa {
            name: stringify!($isa),
            matmul_f32: products!($isa::matmul_f32, $n_lanes, 0.0),
            matmul_bf16: products!($isa::matmul_bf16, $n_lanes, 0.0),
            attention: attentions!($isa,
                (2 1 1) (2 3 4) (4 7 16) (6 2 3) (8 1 16) (10 5 8) (16 2 16) (18 6 16) (24 4 7)
                (40 3 16) (64 1 16) (64 7 16) (80 2 32) (96 8 16) (128 2 16) (128 9 16)),
            rms_norm: $isa::norm::rms_norm,
            rotate: $isa::rope::rotate,
            silu_mul: $isa::activation::silu_mul,
        }
    };
}

/// A bf16 holds eight bits: rounding to the nearest is off by half of the last.
const BF16_ROUNDING: f64 = 1.0 / (1 << 8) as f64;

/// The instruction sets that can run here; the others are named in the output.
pub fn isas() -> Vec<Isa> {
    let mut isas = vec![isa!(scalar, 8)];
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        isas.push(isa!(avx2, 8));
    } else {
        println!("not run: avx2 kernels, this processor has no AVX2 and FMA");
    }
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
        let mut avx512 = isa!(avx512, 16);
        avx512.matmul_bf16.extend(products!(avx512::matmul_bf16_dot, 16, BF16_ROUNDING));
        isas.push(avx512);
    } else {
        println!("not run: avx512 kernels, this processor has no AVX-512 F and BF16");
    }
    isas
}

//! The dot products of `templates/kernels/cpu/avx512` and their operand, as an emitted crate compiles them.

pub(super) use super::operand_bf16 as operand;
use super::tuned::usual::tuning;

#[path = "../../templates/kernels/cpu/avx512/matmul_bf16_dot.rs"]
pub mod matmul_bf16_dot;

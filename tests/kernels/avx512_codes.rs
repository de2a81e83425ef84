//! The products of codes in `templates/kernels/cpu/avx512` and their operand, as an emitted crate compiles them.

pub(super) use super::avx512_operand_int8 as operand;
use super::tuned::usual::tuning;

#[path = "../../templates/kernels/cpu/avx512/matmul_int4.rs"]
pub mod matmul_int4;
#[path = "../../templates/kernels/cpu/avx512/matmul_int8.rs"]
pub mod matmul_int8;

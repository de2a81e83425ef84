//! The products of int4 in `templates/kernels/cpu/amx` and their operand, as an emitted crate compiles them.

use super::amx::tiles;
use super::amx_int8::dots;
use super::avx512_codes::matmul_int4 as few_rows;
pub(super) use super::avx512_operand_int8 as operand;
use super::tuned::usual::tuning;

#[path = "../../templates/kernels/cpu/amx/matmul_int4.rs"]
pub mod matmul_int4;

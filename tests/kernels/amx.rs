//! The kernels in `templates/kernels/cpu/amx`, as an emitted crate compiles them.

pub(super) use super::operand_bf16 as operand;

#[path = "../../templates/kernels/cpu/amx/matmul_bf16.rs"]
pub mod matmul_bf16;
#[path = "../../templates/kernels/cpu/amx/tiles.rs"]
pub mod tiles;

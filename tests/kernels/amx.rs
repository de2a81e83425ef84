//! The kernels in `templates/kernels/cpu/amx`, as an emitted crate compiles them.

use super::tuned::usual::tuning;
pub(super) use super::{
    avx512::{activation, merge},
    operand_bf16 as operand, store_bf16 as store, strip,
};

#[path = "../../templates/kernels/cpu/amx/attend.rs"]
pub mod attend;
#[path = "../../templates/kernels/cpu/amx/matmul_bf16.rs"]
pub mod matmul_bf16;
#[path = "../../templates/kernels/cpu/amx/tiles.rs"]
pub mod tiles;

//! The kernels in `templates/kernels/cpu/scalar`, as an emitted crate compiles them.

pub(super) use super::{operand_f32 as operand, store_f32 as store, strip};

#[path = "../../templates/kernels/cpu/scalar/activation.rs"]
pub mod activation;
#[path = "../../templates/kernels/cpu/scalar/attend.rs"]
pub mod attend;
#[path = "../../templates/kernels/cpu/scalar/cells.rs"]
pub mod cells;
#[path = "../../templates/kernels/cpu/scalar/matmul_bf16.rs"]
pub mod matmul_bf16;
#[path = "../../templates/kernels/cpu/scalar/matmul_f32.rs"]
pub mod matmul_f32;
#[path = "../../templates/kernels/cpu/scalar/merge.rs"]
pub mod merge;
#[path = "../../templates/kernels/cpu/scalar/norm.rs"]
pub mod norm;
#[path = "../../templates/kernels/cpu/scalar/pair_f32.rs"]
pub mod pair;
#[path = "../../templates/kernels/cpu/scalar/rope.rs"]
pub mod rope;

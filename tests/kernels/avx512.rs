//! The kernels in `templates/kernels/cpu/avx512`, as an emitted crate compiles them.

use super::tuned::usual::tuning;
pub(super) use super::{operand_f32 as operand, store_f32 as store, strip};

#[path = "../../templates/kernels/cpu/avx512/activation.rs"]
pub mod activation;
#[path = "../../templates/kernels/cpu/avx512/attend.rs"]
pub mod attend;
#[path = "../../templates/kernels/cpu/avx512/cells.rs"]
pub mod cells;
#[path = "../../templates/kernels/cpu/avx512/matmul_bf16.rs"]
pub mod matmul_bf16;
#[path = "../../templates/kernels/cpu/avx512/matmul_f32.rs"]
pub mod matmul_f32;
#[path = "../../templates/kernels/cpu/avx512/merge.rs"]
pub mod merge;
#[path = "../../templates/kernels/cpu/avx512/norm.rs"]
pub mod norm;
#[path = "../../templates/kernels/cpu/avx512/pair_f32.rs"]
pub mod pair;
#[path = "../../templates/kernels/cpu/avx512/rope.rs"]
pub mod rope;

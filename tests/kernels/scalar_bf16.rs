//! Attention in `templates/kernels/cpu/scalar` over a cache in bf16, as an emitted crate compiles it.

pub(super) use super::{store_bf16 as store, strip};

#[path = "../../templates/kernels/cpu/scalar/activation.rs"]
#[expect(dead_code, reason = "attention takes exponentials, and is not followed by an MLP here")]
pub mod activation;
#[path = "../../templates/kernels/cpu/scalar/attend.rs"]
pub mod attend;
#[path = "../../templates/kernels/cpu/scalar/merge.rs"]
pub mod merge;
#[path = "../../templates/kernels/cpu/scalar/pair_bf16.rs"]
pub mod pair;

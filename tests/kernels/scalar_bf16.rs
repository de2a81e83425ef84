//! Attention in `templates/kernels/cpu/scalar` over a cache in bf16, as an emitted crate compiles it.

pub(super) use super::{
    scalar::{activation, merge},
    store_bf16 as store, strip,
};

#[path = "../../templates/kernels/cpu/scalar/attend.rs"]
#[expect(clippy::duplicate_mod, reason = "the same kernel, over other keys and values")]
pub mod attend;
#[path = "../../templates/kernels/cpu/scalar/pair_bf16.rs"]
pub mod pair;

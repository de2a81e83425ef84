//! Attention in `templates/kernels/cpu/avx2` over a cache in bf16, as an emitted crate compiles it.

pub(super) use super::{
    avx2::{activation, merge},
    store_bf16 as store, strip,
};

#[path = "../../templates/kernels/cpu/avx2/attend.rs"]
#[expect(clippy::duplicate_mod, reason = "the same kernel, over other keys and values")]
pub mod attend;
#[path = "../../templates/kernels/cpu/avx2/pair_bf16.rs"]
pub mod pair;

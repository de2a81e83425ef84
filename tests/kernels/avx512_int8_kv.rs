//! Attention over a cache in int8 with the products of `templates/kernels/cpu/avx512`, as an emitted crate compiles it.

pub(super) use super::{avx512::merge, store_int8 as store, strip};

#[path = "../../templates/kernels/cpu/attend_int8.rs"]
#[expect(clippy::duplicate_mod, reason = "the same rows and ranges, with other products")]
pub mod attend;
#[path = "../../templates/kernels/cpu/avx512/look_int8.rs"]
pub mod look;
#[path = "../../templates/kernels/cpu/avx512/weigh_int8.rs"]
pub mod weigh;

//! Attention over a cache in int8 with the products of `templates/kernels/cpu/amx`, as an emitted crate compiles it.

pub(super) use super::{
    amx::tiles,
    avx512::merge,
    avx512_int8_kv::{look as look_few, weigh},
    store_int8 as store, strip,
};

#[path = "../../templates/kernels/cpu/attend_int8.rs"]
#[expect(clippy::duplicate_mod, reason = "the same rows and ranges, with other products")]
pub mod attend;
#[path = "../../templates/kernels/cpu/amx/look_int8.rs"]
pub mod look;

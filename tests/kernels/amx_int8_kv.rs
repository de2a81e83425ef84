//! Attention over a cache in int8 in tiles, as an emitted crate compiles it.

pub(super) use super::{
    amx::tiles,
    avx512::merge,
    avx512_int8_kv::{attend as attend_few, weigh},
    store_int8 as store, strip,
};

#[path = "../../templates/kernels/cpu/amx/attend_int8.rs"]
pub mod attend;

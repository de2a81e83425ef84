//! Attention over a cache in int8 with the products of `templates/kernels/cpu/avx2`, as an emitted crate compiles it.

pub(super) use super::{
    avx2::{activation, merge},
    store_int8 as store, strip,
};

#[path = "../../templates/kernels/cpu/attend_int8.rs"]
pub mod attend;
#[path = "../../templates/kernels/cpu/avx2/look_int8.rs"]
pub mod look;
#[path = "../../templates/kernels/cpu/avx2/weigh_int8.rs"]
pub mod weigh;

//! The catalogue: every way to serve that Savile knows, one folder each.
//!
//! A folder holds the rule (`mod.rs`), what it emits, and a README that says when it wins. To add one: write the
//! folder, name it here, and give it a workload that needs it.

mod amx_bf16_kernels;
mod amx_kernels;
mod avx2_kernels;
mod avx512_bf16_dot_kernels;
mod avx512_kernels;
mod bf16_weights;
mod continuous_batching;
mod f32_weights;
mod families;
mod int4_weights;
mod int8_weights;
mod kernels;
mod paged_kv;
mod paged_kv_bf16;
mod paged_kv_int8;
mod prefix_cache;
mod rounded;
mod sampling;
mod scalar_kernels;
mod skeleton;

use synth::emit::Catalogue;

/// Every mechanism, in the order in which the planner prefers equals.
pub const CATALOGUE: Catalogue = Catalogue {
    mechanisms: &[
        &families::dense_decoder::DenseDecoder,
        &f32_weights::F32Weights,
        &bf16_weights::Bf16Weights,
        &int8_weights::Int8Weights,
        &int4_weights::Int4Weights,
        &amx_kernels::AmxKernels,
        &amx_bf16_kernels::AmxBf16Kernels,
        &avx512_kernels::Avx512Kernels,
        &avx512_bf16_dot_kernels::Avx512Bf16DotKernels,
        &avx2_kernels::Avx2Kernels,
        &scalar_kernels::ScalarKernels,
        &paged_kv::PagedKv,
        &paged_kv_bf16::PagedKvBf16,
        &paged_kv_int8::PagedKvInt8,
        &continuous_batching::ContinuousBatching,
        &prefix_cache::PrefixCache,
        &sampling::Sampling,
    ],
    skeleton: skeleton::assemble,
};

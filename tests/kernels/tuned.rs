//! The products in `templates/kernels/cpu` with every number that a plan may give them, as an emitted crate compiles them.

/// The products, with these numbers.
macro_rules! tuned {
    ($name:ident: $($knob:ident = $value:literal),*) => {
        #[path = "."]
        #[expect(clippy::duplicate_mod, reason = "the same kernels, with other numbers")]
        pub mod $name {
            pub mod tuning {
                $(pub const $knob: usize = $value;)*

                /// All of them, by name.
                pub const ALL: &[(&str, usize)] = &[$((stringify!($knob), $knob)),*];
            }

            #[path = "."]
            pub mod avx2 {
                pub(in super::super::super) use super::super::super::operand_f32 as operand;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/avx2/matmul_bf16.rs"]
                pub mod matmul_bf16;
                #[path = "../../templates/kernels/cpu/avx2/matmul_f32.rs"]
                pub mod matmul_f32;
            }

            #[path = "."]
            pub mod avx2_codes {
                pub(in super::super::super) use super::super::super::operand_int8 as operand;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/avx2/matmul_int4.rs"]
                pub mod matmul_int4;
                #[path = "../../templates/kernels/cpu/avx2/matmul_int8.rs"]
                pub mod matmul_int8;
            }

            #[path = "."]
            pub mod avx512 {
                pub(in super::super::super) use super::super::super::operand_f32 as operand;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/avx512/matmul_bf16.rs"]
                pub mod matmul_bf16;
                #[path = "../../templates/kernels/cpu/avx512/matmul_f32.rs"]
                pub mod matmul_f32;
            }

            #[path = "."]
            pub mod avx512_codes {
                pub(in super::super::super) use super::super::super::avx512_operand_int8 as operand;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/avx512/matmul_int4.rs"]
                pub mod matmul_int4;
                #[path = "../../templates/kernels/cpu/avx512/matmul_int8.rs"]
                pub mod matmul_int8;
            }

            #[path = "."]
            pub mod avx512_dot {
                pub(in super::super::super) use super::super::super::operand_bf16 as operand;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/avx512/matmul_bf16_dot.rs"]
                pub mod matmul_bf16_dot;
            }

            #[path = "."]
            pub mod amx {
                pub(in super::super::super) use super::super::super::operand_bf16 as operand;
                pub(in super::super::super) use super::super::super::amx::tiles;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/amx/matmul_bf16.rs"]
                pub mod matmul_bf16;
            }

            #[path = "."]
            pub mod amx_int8 {
                pub(in super::super::super) use super::super::super::avx512_operand_int8 as operand;
                use super::avx512_codes::matmul_int8 as few_rows;
                use super::super::super::{amx::tiles, amx_int8::dots};
                use super::tuning;

                #[path = "../../templates/kernels/cpu/amx/matmul_int8.rs"]
                pub mod matmul_int8;
            }

            #[path = "."]
            pub mod amx_int4 {
                pub(in super::super::super) use super::super::super::avx512_operand_int8 as operand;
                use super::avx512_codes::matmul_int4 as few_rows;
                use super::super::super::{amx::tiles, amx_int8::dots};
                use super::tuning;

                #[path = "../../templates/kernels/cpu/amx/matmul_int4.rs"]
                pub mod matmul_int4;
            }
        }
    };
}

tuned!(usual: FEW_ROWS = 8, PAGES = 8, PANELS = 8, STRIPS = 16);
tuned!(far: FEW_ROWS = 8, PAGES = 16, PANELS = 8, STRIPS = 16);
tuned!(least: FEW_ROWS = 4, PAGES = 1, PANELS = 4, STRIPS = 4);
tuned!(most: FEW_ROWS = 16, PAGES = 4, PANELS = 16, STRIPS = 8);

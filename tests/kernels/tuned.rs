//! The products in `templates/kernels/cpu` with every number that a plan may give them, as an emitted crate compiles them.

/// The products, with these numbers.
macro_rules! tuned {
    ($name:ident: $($knob:ident = $value:literal),*) => {
        #[path = "."]
        pub mod $name {
            pub mod tuning {
                $(pub const $knob: usize = $value;)*
            }

            #[path = "."]
            pub mod avx2 {
                pub(crate) use super::super::super::operand_f32 as operand;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/avx2/matmul_bf16.rs"]
                pub mod matmul_bf16;
                #[path = "../../templates/kernels/cpu/avx2/matmul_f32.rs"]
                pub mod matmul_f32;
            }

            #[path = "."]
            pub mod avx2_codes {
                pub(crate) use super::super::super::operand_int8 as operand;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/avx2/matmul_int4.rs"]
                pub mod matmul_int4;
                #[path = "../../templates/kernels/cpu/avx2/matmul_int8.rs"]
                pub mod matmul_int8;
            }

            #[path = "."]
            pub mod avx512 {
                pub(crate) use super::super::super::operand_f32 as operand;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/avx512/matmul_bf16.rs"]
                pub mod matmul_bf16;
                #[path = "../../templates/kernels/cpu/avx512/matmul_f32.rs"]
                pub mod matmul_f32;
            }

            #[path = "."]
            pub mod avx512_codes {
                pub(crate) use super::super::super::avx512_operand_int8 as operand;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/avx512/matmul_int4.rs"]
                pub mod matmul_int4;
                #[path = "../../templates/kernels/cpu/avx512/matmul_int8.rs"]
                pub mod matmul_int8;
            }

            #[path = "."]
            pub mod avx512_dot {
                pub(crate) use super::super::super::operand_bf16 as operand;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/avx512/matmul_bf16_dot.rs"]
                pub mod matmul_bf16_dot;
            }

            #[path = "."]
            pub mod amx {
                pub(crate) use super::super::super::operand_bf16 as operand;
                pub(crate) use super::super::super::amx::tiles;
                use super::tuning;

                #[path = "../../templates/kernels/cpu/amx/matmul_bf16.rs"]
                pub mod matmul_bf16;
            }

            #[path = "."]
            pub mod amx_int8 {
                pub(crate) use super::super::super::avx512_operand_int8 as operand;
                use super::avx512_codes::matmul_int8 as few_rows;
                use super::super::super::{amx::tiles, amx_int8::dots};
                use super::tuning;

                #[path = "../../templates/kernels/cpu/amx/matmul_int8.rs"]
                pub mod matmul_int8;
            }

            #[path = "."]
            pub mod amx_int4 {
                pub(crate) use super::super::super::avx512_operand_int8 as operand;
                use super::avx512_codes::matmul_int4 as few_rows;
                use super::super::super::{amx::tiles, amx_int8::dots};
                use super::tuning;

                #[path = "../../templates/kernels/cpu/amx/matmul_int4.rs"]
                pub mod matmul_int4;
            }
        }
    };
}

tuned!(usual: AHEAD = 32, DEPTH = 8, FEW_ROWS = 8, PANELS = 8, STRIPS = 16);
tuned!(ahead16: AHEAD = 16, DEPTH = 8, FEW_ROWS = 8, PANELS = 8, STRIPS = 16);
tuned!(ahead64: AHEAD = 64, DEPTH = 8, FEW_ROWS = 8, PANELS = 8, STRIPS = 16);
tuned!(ahead128: AHEAD = 128, DEPTH = 8, FEW_ROWS = 8, PANELS = 8, STRIPS = 16);
tuned!(few4: AHEAD = 64, DEPTH = 8, FEW_ROWS = 4, PANELS = 8, STRIPS = 16);
tuned!(few16: AHEAD = 64, DEPTH = 8, FEW_ROWS = 16, PANELS = 8, STRIPS = 16);
tuned!(depth4: AHEAD = 32, DEPTH = 4, FEW_ROWS = 8, PANELS = 8, STRIPS = 16);
tuned!(depth16: AHEAD = 32, DEPTH = 16, FEW_ROWS = 8, PANELS = 8, STRIPS = 16);
tuned!(panels4: AHEAD = 32, DEPTH = 8, FEW_ROWS = 8, PANELS = 4, STRIPS = 16);
tuned!(panels16: AHEAD = 32, DEPTH = 8, FEW_ROWS = 8, PANELS = 16, STRIPS = 16);
tuned!(strips4: AHEAD = 32, DEPTH = 8, FEW_ROWS = 8, PANELS = 8, STRIPS = 4);
tuned!(strips8: AHEAD = 32, DEPTH = 8, FEW_ROWS = 8, PANELS = 8, STRIPS = 8);

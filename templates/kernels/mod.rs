//! What the kernel mechanisms share: the same files from another folder, and their cost.

use synth::{
    axis::Axis,
    emit::EmitError,
    mechanism::{Cost, Part, Site},
    model::Model,
    target::Isa,
    workload::Precision,
};
use synth_macros::Template;

/// The files of one instruction set.
pub struct Kernels {
    /// Processor features they need, as Rust names them.
    pub features: &'static [&'static str],
    /// bf16 terms of an activation, where they are held so.
    pub terms: Option<Terms>,
    /// Whether they need AMX's tiles.
    pub tiles: bool,
    /// `Operand`
    pub operand: &'static str,
    /// `matmul` over f32 weights.
    pub matmul_f32: &'static str,
    /// `matmul` over bf16 weights.
    pub matmul_bf16: &'static str,
    /// `attend`
    pub attend: &'static str,
    /// `merge`
    pub merge: &'static str,
    /// `pair`, over keys and values in f32.
    pub pair_f32: &'static str,
    /// The same, in bf16.
    pub pair_bf16: &'static str,
    /// `rms_norm`
    pub norm: &'static str,
    /// `rotate`
    pub rope: &'static str,
    /// `silu_mul`
    pub activation: &'static str,
}

/// How many bf16 an activation is the sum of, and why.
#[derive(Clone, Copy)]
pub struct Terms(pub usize, pub &'static str);

/// The files of `kernels/cpu/ISA/`, and with them `operand` and the `matmul` over bf16 weights from the named files.
macro_rules! kernels {
    ($isa:literal, $operand:literal, $matmul_bf16:literal, $features:expr) => {
        $crate::kernels::Kernels {
            features: $features,
            terms: None,
            tiles: false,
            operand: include_str!(concat!("../kernels/cpu/", $operand)),
            matmul_f32: include_str!(concat!("../kernels/cpu/", $isa, "/matmul_f32.rs")),
            matmul_bf16: include_str!(concat!("../kernels/cpu/", $matmul_bf16)),
            attend: include_str!(concat!("../kernels/cpu/", $isa, "/attend.rs")),
            merge: include_str!(concat!("../kernels/cpu/", $isa, "/merge.rs")),
            pair_f32: include_str!(concat!("../kernels/cpu/", $isa, "/pair_f32.rs")),
            pair_bf16: include_str!(concat!("../kernels/cpu/", $isa, "/pair_bf16.rs")),
            norm: include_str!(concat!("../kernels/cpu/", $isa, "/norm.rs")),
            rope: include_str!(concat!("../kernels/cpu/", $isa, "/rope.rs")),
            activation: include_str!(concat!("../kernels/cpu/", $isa, "/activation.rs")),
        }
    };
}
pub(crate) use kernels;

#[derive(Template)]
#[template("kernels/cpu/mod.rs.tera")]
struct KernelsFile {
    pair: bool,
    terms: bool,
    tiles: bool,
    features: &'static [&'static str],
}

#[derive(Template)]
#[template("kernels/cpu/attention.rs.tera")]
struct AttentionFile {
    window: bool,
}

impl Kernels {
    /// The files a crate needs, and the module that spreads them over threads.
    pub fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        let held = site.job.held.ok_or(EmitError::Undecided { axis: Axis::Weights })?;
        let matmul = match held.layers.precision() {
            Precision::F32 => self.matmul_f32,
            Precision::Bf16 => self.matmul_bf16,
            format @ (Precision::Int8 | Precision::Int4) => {
                return Err(EmitError::NoKernels { format, isa: site.job.isa });
            }
        };
        // Tiles multiply bf16; all else is computed in f32, as which keys and values are read.
        let (store, attend, pair) = match site.memory.kv {
            Precision::F32 => (include_str!("cpu/store_f32.rs"), self.attend, Some(self.pair_f32)),
            Precision::Bf16 if self.tiles => {
                (include_str!("cpu/store_bf16.rs"), include_str!("cpu/amx/attend.rs"), None)
            }
            Precision::Bf16 => (include_str!("cpu/store_bf16.rs"), self.attend, Some(self.pair_bf16)),
            format @ (Precision::Int8 | Precision::Int4) => {
                return Err(EmitError::NoKernels { format, isa: site.job.isa });
            }
        };
        let driver = KernelsFile {
            pair: pair.is_some(),
            terms: self.terms.is_some(),
            tiles: self.tiles,
            features: self.features,
        };
        let attention = AttentionFile { window: site.job.model.sliding_window.is_some() };
        let mut parts = vec![
            Part::Rendered { path: "src/kernels/mod.rs", text: driver.render()? },
            Part::Source { path: "src/kernels/operand.rs", text: self.operand },
            Part::Source { path: "src/kernels/matmul.rs", text: matmul },
            Part::Rendered { path: "src/kernels/attention.rs", text: attention.render()? },
            Part::Source { path: "src/kernels/strip.rs", text: include_str!("cpu/strip.rs") },
            Part::Source { path: "src/kernels/store.rs", text: store },
            Part::Source { path: "src/kernels/attend.rs", text: attend },
            Part::Source { path: "src/kernels/merge.rs", text: self.merge },
            Part::Source { path: "src/kernels/norm.rs", text: self.norm },
            Part::Source { path: "src/kernels/rope.rs", text: self.rope },
            Part::Source { path: "src/kernels/activation.rs", text: self.activation },
        ];
        parts.extend(pair.map(|text| Part::Source { path: "src/kernels/pair.rs", text }));
        parts.extend(self.terms.map(|Terms(terms, why)| Part::count("TERMS", terms, why)));
        if self.tiles {
            parts.push(Part::Source { path: "src/kernels/tiles.rs", text: include_str!("cpu/amx/tiles.rs") });
        }
        Ok(parts)
    }
}

/// Whether there are kernels that multiply matrices of this precision with this instruction set.
pub fn computes(isa: Isa, precision: Precision) -> bool {
    match (isa, precision) {
        (_, Precision::F32 | Precision::Bf16) => true,
        (_, Precision::Int8 | Precision::Int4) => false,
    }
}

/// Arithmetic of one token when an instruction serves `lanes` multiply-adds.
pub fn cost(model: &Model, lanes: f64) -> Cost {
    Cost { bytes: 0.0, instructions: read_weights(model) / lanes }
}

/// Weights that one decoded token reads: everything but the rows of the embedding it does not look up.
pub fn read_weights(model: &Model) -> f64 {
    let dims = &model.dims;
    let attention = 2 * dims.hidden * (dims.query_rows() + dims.kv_rows());
    let mlp = 3 * dims.hidden * dims.intermediate;
    (dims.layers * (attention + mlp) + dims.vocab * dims.hidden) as f64
}

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
    pub attention: &'static str,
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
            attention: include_str!(concat!("../kernels/cpu/", $isa, "/attention.rs")),
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
    window: bool,
    terms: bool,
    tiles: bool,
    features: &'static [&'static str],
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
        let driver = KernelsFile {
            window: site.job.model.sliding_window.is_some(),
            terms: self.terms.is_some(),
            tiles: self.tiles,
            features: self.features,
        };
        let mut parts = vec![
            Part::Rendered { path: "src/kernels/mod.rs", text: driver.render()? },
            Part::Source { path: "src/kernels/operand.rs", text: self.operand },
            Part::Source { path: "src/kernels/matmul.rs", text: matmul },
            Part::Source { path: "src/kernels/attention.rs", text: self.attention },
            Part::Source { path: "src/kernels/norm.rs", text: self.norm },
            Part::Source { path: "src/kernels/rope.rs", text: self.rope },
            Part::Source { path: "src/kernels/activation.rs", text: self.activation },
        ];
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

/// Operations a second of one thread, from the GFLOP/s that two reach with 512 rows: the last of the ladder at the head of
/// the kernel's file, where a test looks it up.
pub fn rate(gflops_of_two_threads: f64) -> f64 {
    gflops_of_two_threads * 1e9 / 2.0
}

/// Weights that a position is multiplied by: all but the head, which most positions of a prompt do without.
pub fn layer_weights(model: &Model) -> f64 {
    read_weights(model) - (model.dims.vocab * model.dims.hidden) as f64
}

/// Weights that one decoded token reads: everything but the rows of the embedding it does not look up.
pub fn read_weights(model: &Model) -> f64 {
    let dims = &model.dims;
    let attention = 2 * dims.hidden * (dims.query_rows() + dims.kv_rows());
    let mlp = 3 * dims.hidden * dims.intermediate;
    (dims.layers * (attention + mlp) + dims.vocab * dims.hidden) as f64
}

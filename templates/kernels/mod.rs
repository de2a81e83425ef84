//! What the kernel mechanisms share: the same files from another folder, their numbers, and their cost.

pub mod cost;
pub mod tuning;

use serde::Serialize;
use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held},
    image::PANEL,
    mechanism::{Fit, Job, Part, Site, literal},
    plan::Author,
    workload::Precision,
};
use synth_macros::Template;

use self::tuning::Tuning;

/// The files of one instruction set.
pub struct Kernels {
    /// Processor features that all crates with them need, as Rust names them.
    pub features: &'static [&'static str],
    /// The same of those with keys and values in codes.
    pub look_features: &'static [&'static str],
    /// Products with f32 weights.
    pub f32: Product,
    /// Products with bf16 weights.
    pub bf16: Product,
    /// Products with codes of eight bits.
    pub int8: Product,
    /// Products with codes of four bits.
    pub int4: Product,
    /// `attend`
    pub attend: &'static str,
    /// `merge`
    pub merge: &'static str,
    /// `pair`, over keys and values in f32.
    pub pair_f32: &'static str,
    /// The same, in bf16.
    pub pair_bf16: &'static str,
    /// `score` and `sum_values`, over keys and values in codes. They need what products of codes need.
    pub look_int8: &'static str,
    /// `weigh`, between the two.
    pub weigh_int8: &'static str,
    /// `rms_norm`
    pub norm: &'static str,
    /// `rotate`
    pub rope: &'static str,
    /// `silu_mul`
    pub activation: &'static str,
    /// `put` and `add`
    pub cells: &'static str,
}

/// The files that multiply by weights of one format.
#[derive(Clone, Copy)]
pub struct Product {
    /// Processor features they need, as Rust names them.
    pub features: &'static [&'static str],
    /// `Operand`
    pub operand: &'static str,
    /// `matmul`
    pub matmul: &'static str,
    /// `matmul` for few rows, where that is a file of its own.
    pub few_rows: Option<&'static str>,
    /// bf16 terms of an activation, where they are held so.
    pub terms: Option<Terms>,
    /// Whether they need AMX's tiles.
    pub tiles: bool,
    /// What products of codes have in common, where that is a file of its own.
    pub dots: Option<&'static str>,
    /// Numbers that their files read, each as it is best on the processors that they were written on.
    pub tuning: &'static [(Tuning, u64)],
}

/// How many bf16 an activation is the sum of, and why.
#[derive(Clone, Copy)]
pub struct Terms(pub usize, pub &'static str);

/// A product of an operand and a matmul, each a file of `kernels/cpu/`.
macro_rules! product {
    ($operand:expr, $matmul:expr, $features:expr, $tuning:expr) => {
        $crate::kernels::Product {
            features: $features,
            operand: include_str!(concat!("../kernels/cpu/", $operand)),
            matmul: include_str!(concat!("../kernels/cpu/", $matmul)),
            few_rows: None,
            terms: None,
            tiles: false,
            dots: None,
            tuning: $tuning,
        }
    };
}
pub(crate) use product;

/// The files of `kernels/cpu/ISA/`, what they need and what they are tuned by; the same of codes, with the operand from the
/// named file.
macro_rules! kernels {
    ($isa:literal, $features:expr, $tuning:expr, $codes:literal, $code_features:expr, $code_tuning:expr) => {
        $crate::kernels::Kernels {
            features: $features,
            look_features: $code_features,
            f32: $crate::kernels::product!(
                "operand_f32.rs",
                concat!($isa, "/matmul_f32.rs"),
                $features,
                $tuning
            ),
            bf16: $crate::kernels::product!(
                "operand_f32.rs",
                concat!($isa, "/matmul_bf16.rs"),
                $features,
                $tuning
            ),
            int8: $crate::kernels::product!(
                $codes,
                concat!($isa, "/matmul_int8.rs"),
                $code_features,
                $code_tuning
            ),
            int4: $crate::kernels::product!(
                $codes,
                concat!($isa, "/matmul_int4.rs"),
                $code_features,
                $code_tuning
            ),
            attend: include_str!(concat!("../kernels/cpu/", $isa, "/attend.rs")),
            merge: include_str!(concat!("../kernels/cpu/", $isa, "/merge.rs")),
            pair_f32: include_str!(concat!("../kernels/cpu/", $isa, "/pair_f32.rs")),
            pair_bf16: include_str!(concat!("../kernels/cpu/", $isa, "/pair_bf16.rs")),
            look_int8: include_str!(concat!("../kernels/cpu/", $isa, "/look_int8.rs")),
            weigh_int8: include_str!(concat!("../kernels/cpu/", $isa, "/weigh_int8.rs")),
            norm: include_str!(concat!("../kernels/cpu/", $isa, "/norm.rs")),
            rope: include_str!(concat!("../kernels/cpu/", $isa, "/rope.rs")),
            activation: include_str!(concat!("../kernels/cpu/", $isa, "/activation.rs")),
            cells: include_str!(concat!("../kernels/cpu/", $isa, "/cells.rs")),
        }
    };
}
pub(crate) use kernels;

/// Attention over keys and values in codes, with the products of any instruction set; with tiles, that of few rows.
const ATTEND_INT8: &str = include_str!("cpu/attend_int8.rs");

/// Those of AVX-512, which AMX shares but for products.
pub const AVX512: Kernels = Kernels {
    look_features: &["avx512f", "avx512bw", "avx512dq", "avx512vnni"],
    ..kernels!(
        "avx512",
        &["avx512f"],
        &[(tuning::PAGES, 8)],
        "avx512/operand_int8.rs",
        AVX512_CODES,
        &[(tuning::PAGES, 8)]
    )
};
/// What keys and values in codes need where tiles multiply them. Every processor with AMX has it.
pub const AMX_LOOK: &[&str] = &["avx512f", "avx512bw", "avx512dq", "avx512vbmi", "avx512vnni"];
/// What products of codes need in AVX-512. Every processor with BF16 has it.
pub const AVX512_CODES: &[&str] = &["avx512f", "avx512bw", "avx512vnni"];

#[derive(Template)]
#[template("kernels/cpu/mod.rs.tera")]
struct KernelsFile {
    pair: bool,
    look: bool,
    /// The constant that the layers' operands depend on.
    parameter: Option<&'static str>,
    codes: bool,
    dots: bool,
    few_rows: bool,
    head: bool,
    tiles: bool,
    tuning: bool,
    /// Whether some matrix ends within a panel, whether the head does, and whether gate and up do.
    has_part: bool,
    has_part_head: bool,
    has_part_gated: bool,
    features: Vec<&'static str>,
}

#[derive(Template)]
#[template("kernels/cpu/head.rs.tera")]
struct HeadFile {
    parameter: Option<&'static str>,
    /// Whether its operand is held as that of the layers.
    shares_operand: bool,
    dots: bool,
    few_rows: bool,
    tiles: bool,
    tuning: bool,
}

#[derive(Template)]
#[template("kernels/cpu/tuning.rs.tera")]
struct TuningFile<'a> {
    /// The reason of a person or a search.
    decided: Option<&'a str>,
    consts: Vec<Constant>,
}

/// A number of `tuning.rs`.
#[derive(Serialize)]
struct Constant {
    name: String,
    value: String,
    why: &'static str,
}

#[derive(Template)]
#[template("kernels/cpu/attention.rs.tera")]
struct AttentionFile {
    window: bool,
}

impl Kernels {
    /// The same fit, with the numbers that the products of this job read. What layers and head both read is as it is best for
    /// the layers.
    pub fn tuned(&self, job: &Job<'_>, fit: Fit) -> Fit {
        let products = job.held.map(|held| self.products(held));
        let numbers = products.iter().flatten().rev().flat_map(|product| product.tuning);
        numbers.fold(fit, |fit, (tuning, value)| fit.with(tuning.knob.name, *value))
    }

    /// The files a crate needs, and the module that spreads them over threads.
    pub fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        let held = site.job.held.ok_or(EmitError::Undecided { axis: Axis::Weights })?;
        let products = self.products(held);
        let (layers, head) = (products[0], products.get(1));
        let products = || products.iter();
        let mut features = self.features.to_vec();
        let cached = (site.memory.kv == Precision::Int8).then_some(self.look_features);
        for feature in products().map(|product| product.features).chain(cached).flatten() {
            if !features.contains(feature) {
                features.push(feature);
            }
        }
        let tiles = products().any(|product| product.tiles);
        // Tiles multiply bf16 and codes; all else is computed in f32, as which keys and values are read.
        let (store, attend, pair, look) = match site.memory.kv {
            Precision::F32 => (include_str!("cpu/store_f32.rs"), self.attend, Some(self.pair_f32), None),
            Precision::Bf16 if tiles => {
                (include_str!("cpu/store_bf16.rs"), include_str!("cpu/amx/attend.rs"), None, None)
            }
            Precision::Bf16 => (include_str!("cpu/store_bf16.rs"), self.attend, Some(self.pair_bf16), None),
            Precision::Int8 => {
                let attend = if tiles { include_str!("cpu/amx/attend_int8.rs") } else { ATTEND_INT8 };
                (include_str!("cpu/store_int8.rs"), attend, None, Some(self.look_int8))
            }
            Precision::Int4 => {
                return Err(EmitError::Conflict {
                    mechanism: "paged_kv",
                    why: "no kernels read keys and values in int4".to_owned(),
                });
            }
        };
        let dims = &site.job.model.dims;
        let widths = [dims.hidden, dims.query_rows() + 2 * dims.kv_rows(), dims.vocab];
        let driver = KernelsFile {
            pair: pair.is_some(),
            look: look.is_some(),
            parameter: layers.parameter(held.layers, GROUP),
            codes: is_codes(held.layers),
            dots: layers.dots.is_some(),
            few_rows: layers.few_rows.is_some(),
            head: head.is_some(),
            tiles,
            tuning: products().any(|product| !product.tuning.is_empty()),
            has_part: widths.iter().any(|width| !width.is_multiple_of(PANEL)),
            has_part_head: !dims.vocab.is_multiple_of(PANEL),
            has_part_gated: !dims.intermediate.is_multiple_of(PANEL / 2),
            features,
        };
        let attention = AttentionFile { window: site.job.model.sliding_window.is_some() };
        let mut parts = vec![
            Part::Rendered { path: "src/kernels/mod.rs", text: driver.render()? },
            Part::Source { path: "src/kernels/operand.rs", text: layers.operand },
            Part::Source { path: "src/kernels/matmul.rs", text: layers.matmul },
            Part::Rendered { path: "src/kernels/attention.rs", text: attention.render()? },
            Part::Source { path: "src/kernels/strip.rs", text: include_str!("cpu/strip.rs") },
            Part::Source { path: "src/kernels/store.rs", text: store },
            Part::Source { path: "src/kernels/attend.rs", text: attend },
            Part::Source { path: "src/kernels/merge.rs", text: self.merge },
            Part::Source { path: "src/kernels/norm.rs", text: self.norm },
            Part::Source { path: "src/kernels/rope.rs", text: self.rope },
            Part::Source { path: "src/kernels/activation.rs", text: self.activation },
            Part::Source { path: "src/kernels/cells.rs", text: self.cells },
        ];
        parts.extend(pair.map(|text| Part::Source { path: "src/kernels/pair.rs", text }));
        if let Some(look) = look {
            parts.extend([
                Part::Source { path: "src/kernels/look.rs", text: look },
                Part::Source { path: "src/kernels/weigh.rs", text: self.weigh_int8 },
            ]);
            if tiles {
                parts.push(Part::Source { path: "src/kernels/attend_few.rs", text: ATTEND_INT8 });
            }
        }
        parts.extend(layers.dots.map(|text| Part::Source { path: "src/kernels/dots.rs", text }));
        parts.extend(layers.few_rows.map(|text| Part::Source { path: "src/kernels/few_rows.rs", text }));
        if let Some(product) = head {
            let driver = HeadFile {
                parameter: product.parameter(held.head, HEAD_GROUP),
                shares_operand: product.operand == layers.operand,
                // Beside a head of codes the layers are of codes.
                dots: product.dots.is_some(),
                few_rows: product.few_rows.is_some(),
                tiles: product.tiles,
                tuning: !product.tuning.is_empty(),
            };
            parts.extend([
                Part::Rendered { path: "src/kernels/head/mod.rs", text: driver.render()? },
                Part::Source { path: "src/kernels/head/matmul.rs", text: product.matmul },
            ]);
            if product.operand != layers.operand {
                parts.push(Part::Source { path: "src/kernels/head/operand.rs", text: product.operand });
            }
            parts.extend(
                product.few_rows.map(|text| Part::Source { path: "src/kernels/head/few_rows.rs", text }),
            );
        }
        // Layers of terms have a head of terms.
        let terms = products().find_map(|product| product.terms);
        parts.extend(terms.map(|Terms(terms, why)| Part::count("TERMS", terms, why)));
        if tiles {
            parts.push(Part::Source { path: "src/kernels/tiles.rs", text: include_str!("cpu/amx/tiles.rs") });
        }
        parts.extend(tuning_file(site, products().flat_map(|product| product.tuning))?);
        Ok(parts)
    }

    /// Those of the layers, and of the head where it is held otherwise.
    fn products(&self, held: Held) -> Vec<Product> {
        let formats = if held.head == held.layers { vec![held.layers] } else { vec![held.layers, held.head] };
        formats.into_iter().map(|format| self.product(format)).collect()
    }

    fn product(&self, format: Format) -> Product {
        match format {
            Format::F32 => self.f32,
            Format::Bf16 => self.bf16,
            Format::Int8(_) => self.int8,
            Format::Int4(_) => self.int4,
        }
    }
}

impl Product {
    /// The constant that its operands depend on: that of groups is `group`.
    fn parameter(&self, format: Format, group: &'static str) -> Option<&'static str> {
        if is_codes(format) { Some(group) } else { self.terms.map(|_| "TERMS") }
    }
}

/// The file of the numbers that the products read, where they read any.
fn tuning_file<'a>(
    site: &Site<'_>,
    numbers: impl Iterator<Item = &'a (Tuning, u64)>,
) -> Result<Option<Part>, EmitError> {
    let mut consts: Vec<Constant> = Vec::new();
    for (Tuning { knob, why }, _) in numbers {
        let name = knob.name.to_uppercase();
        if !consts.iter().any(|it| it.name == name) {
            consts.push(Constant { name, value: literal(site.knob(knob.name)? as usize), why });
        }
    }
    if consts.is_empty() {
        return Ok(None);
    }
    let decided = (site.decision.by != Author::Rule).then_some(site.decision.reason.as_str());
    let text = TuningFile { decided, consts }.render()?;
    Ok(Some(Part::Rendered { path: "src/kernels/tuning.rs", text }))
}

/// The constant of an emitted crate that says how many weights of the layers share a scale.
pub const GROUP: &str = "WEIGHTS_PER_SCALE";
/// The same of the head, where it is held in other groups.
pub const HEAD_GROUP: &str = "HEAD_WEIGHTS_PER_SCALE";

/// Whether weights are held as codes, which multiply rounded activations.
pub fn is_codes(format: Format) -> bool {
    matches!(format, Format::Int8(_) | Format::Int4(_))
}

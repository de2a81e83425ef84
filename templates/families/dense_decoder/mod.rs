//! Dense decoders: Llama, Qwen2, Qwen3 and Mistral, which differ in four facts of one layer.

use synth::{
    axis::Axis,
    emit::EmitError,
    held::{Format, Held},
    image::{Join, Layout, Source, TILE_COLUMNS, Tensor},
    mechanism::{Cost, Fit, Guarantee, Job, Mechanism, Part, Site},
    model::{Model, Rope},
};
use synth_macros::Template;

use crate::kernels::{GROUP, HEAD_GROUP, is_codes};

/// Layers of attention and gated MLP, every one read for every token.
#[derive(Debug)]
pub struct DenseDecoder;

impl Mechanism for DenseDecoder {
    fn name(&self) -> &'static str {
        "dense_decoder"
    }

    fn axis(&self) -> Axis {
        Axis::Family
    }

    fn summary(&self) -> &'static str {
        "layers of grouped-query attention and gated MLP, as in Llama, Qwen2, Qwen3 and Mistral"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Exact
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        Fit::yes(Cost::default(), describe(job.model))
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        let model = site.job.model;
        let mut parts = shape(model);
        parts.extend(rope(&model.rope));
        if let Some(window) = model.sliding_window {
            parts.push(Part::count(
                "WINDOW",
                window,
                "Positions a token attends to, itself included (`sliding_window`).",
            ));
        }
        let held = site.job.held.ok_or(EmitError::Undecided { axis: Axis::Weights })?;
        let head = (held.head != held.layers).then(|| weight(held.head, HEAD_GROUP));
        let weights = WeightsFile {
            weight: weight(held.layers, GROUP),
            head: head.clone(),
            bf16: [held.layers, held.head].contains(&Format::Bf16),
            image_types: image_types(model, held),
            groups: groups(held),
            embed_rows: has_embed_rows(model, held),
            weight_why: &site
                .plan
                .on(Axis::Weights)
                .ok_or(EmitError::Undecided { axis: Axis::Weights })?
                .reason,
            tied: model.tied,
            qkv_bias: model.qkv_bias,
            qk_norm: model.qk_norm,
        };
        let forward = ForwardFile {
            n_layers: model.dims.layers,
            codes: is_codes(held.layers),
            head: head.is_some(),
            embed_codes: is_codes(held.head),
            embed_f32: held.head == Format::F32,
            tied: model.tied,
            qkv_bias: model.qkv_bias,
            qk_norm: model.qk_norm,
        };
        parts.extend(tensors(model, held).into_iter().map(Part::Tensor));
        parts.push(Part::Rendered { path: "src/weights.rs", text: weights.render()? });
        parts.push(Part::Rendered { path: "src/forward.rs", text: forward.render()? });
        Ok(parts)
    }
}

#[derive(Template)]
#[template("families/dense_decoder/weights.rs.tera")]
struct WeightsFile<'a> {
    weight: String,
    /// What the head's weights are, where they are held apart.
    head: Option<String>,
    bf16: bool,
    image_types: Vec<&'static str>,
    groups: Vec<&'static str>,
    embed_rows: bool,
    weight_why: &'a str,
    tied: bool,
    qkv_bias: bool,
    qk_norm: bool,
}

#[derive(Template)]
#[template("families/dense_decoder/forward.rs.tera")]
struct ForwardFile {
    n_layers: usize,
    codes: bool,
    head: bool,
    embed_codes: bool,
    embed_f32: bool,
    tied: bool,
    qkv_bias: bool,
    qk_norm: bool,
}

/// What a weight is in an emitted crate; `group` names the constant of codes.
fn weight(format: Format, group: &str) -> String {
    match format {
        Format::F32 => "f32".to_owned(),
        Format::Bf16 => "bf16".to_owned(),
        Format::Int8(_) => format!("Int8<{group}>"),
        Format::Int4(_) => format!("Int4<{group}>"),
    }
}

/// The types of a weight image that `weights.rs` names.
fn image_types(model: &Model, held: Held) -> Vec<&'static str> {
    let is_held = |is: fn(Format) -> bool| is(held.layers) || is(held.head);
    let mut types = Vec::new();
    if is_held(|it| matches!(it, Format::Int4(_))) {
        types.push("Int4");
    }
    if is_held(|it| matches!(it, Format::Int8(_))) {
        types.push("Int8");
    }
    types.push("Panels");
    if has_embed_rows(model, held) {
        types.push("Rows");
    }
    types
}

/// The constants of groups that `weights.rs` names.
fn groups(held: Held) -> Vec<&'static str> {
    let mut groups = Vec::new();
    if is_codes(held.layers) {
        groups.push(GROUP);
    }
    if is_codes(held.head) && held.head != held.layers {
        groups.push(HEAD_GROUP);
    }
    groups
}

/// Whether the embedding lies row after row: it is no head, and its rows are numbers.
fn has_embed_rows(model: &Model, held: Held) -> bool {
    !model.tied && !is_codes(held.head)
}

/// The model in a sentence.
fn describe(model: &Model) -> String {
    let dims = &model.dims;
    let mut facts = vec![format!("{} layers of width {}", dims.layers, dims.hidden)];
    facts.push(format!("{} query and {} key heads of {}", dims.heads, dims.kv_heads, dims.head_dim));
    if model.qkv_bias {
        facts.push("biased projections".into());
    }
    if model.qk_norm {
        facts.push("normed queries and keys".into());
    }
    if let Some(window) = model.sliding_window {
        facts.push(format!("a window of {window}"));
    }
    facts.push(if model.tied { "a tied head".into() } else { "a head of its own".into() });
    format!("{}: {}.", model.family.name(), facts.join(", "))
}

/// The constants every dense decoder has.
fn shape(model: &Model) -> Vec<Part> {
    let dims = &model.dims;
    let (query, kv) = (dims.query_rows(), dims.kv_rows());
    vec![
        Part::count("HIDDEN", dims.hidden, "Width of the residual stream (`hidden_size`)."),
        Part::count("N_LAYERS", dims.layers, "Layers of attention and MLP (`num_hidden_layers`)."),
        Part::count("HEAD_DIM", dims.head_dim, "Channels of one head (`head_dim`)."),
        Part::count("N_KV_HEADS", dims.kv_heads, "Key and value heads (`num_key_value_heads`)."),
        Part::count(
            "GROUP",
            dims.group(),
            format!("Query heads that share one key head: {} over {}.", dims.heads, dims.kv_heads),
        ),
        Part::count("Q_WIDTH", query, "All query heads side by side."),
        Part::count("KV_WIDTH", kv, "All key heads side by side."),
        Part::count("QKV_WIDTH", query + 2 * kv, "Queries, keys and values side by side."),
        Part::count("INTERMEDIATE", dims.intermediate, "Width inside the MLP (`intermediate_size`)."),
        Part::count(
            "GATE_UP_WIDTH",
            2 * dims.intermediate.next_multiple_of(TILE_COLUMNS),
            "Gate and what it gates side by side, in whole tiles of sixteen columns.",
        ),
        Part::count("VOCAB", dims.vocab, "Tokens that there are (`vocab_size`)."),
        Part::Const {
            name: "NORM_EPS",
            ty: "f32",
            value: float(model.norm_eps),
            why: "Keeps a norm of zeros finite (`rms_norm_eps`).".into(),
        },
        Part::Const {
            name: "QUERY_SCALE",
            ty: "f32",
            value: float((dims.head_dim as f64).powf(-0.5)),
            why: "Scores are scaled by 1 / sqrt(HEAD_DIM); scaling the query instead does it once.".into(),
        },
        Part::Const {
            name: "EOS",
            ty: "&[u32]",
            value: format!("&{:?}", model.eos),
            why: "Tokens that end an answer (`eos_token_id`).".into(),
        },
    ]
}

/// The weight image, in the order of a step. `weights.rs` reads it by the same names.
fn tensors(model: &Model, held: Held) -> Vec<Tensor> {
    let dims = &model.dims;
    let in_panels = |format: Format| match format {
        Format::F32 => Layout::F32Panels,
        Format::Bf16 => Layout::Bf16Panels,
        Format::Int8(group) => Layout::Int8Panels(group as usize),
        Format::Int4(group) => Layout::Int4Panels(group as usize),
    };
    let (panels, head) = (in_panels(held.layers), in_panels(held.head));
    let embed = match (has_embed_rows(model, held), held.head) {
        (true, Format::F32) => Layout::F32Rows,
        (true, _) => Layout::Bf16Rows,
        (false, _) => head,
    };
    let source = |name: String, rows| Source { name, rows };
    let table = (dims.vocab, dims.hidden);
    let mut tensors = vec![Tensor::matrix("embed", "model.embed_tokens.weight", table, embed)];
    for layer in 0..dims.layers {
        let ours = |name: &str| format!("layers.{layer}.{name}");
        let theirs = |name: &str| format!("model.layers.{layer}.{name}");
        let projections = [("q", dims.query_rows()), ("k", dims.kv_rows()), ("v", dims.kv_rows())];
        let qkv = |kind: &str| {
            projections
                .iter()
                .map(|(it, rows)| source(theirs(&format!("self_attn.{it}_proj.{kind}")), *rows))
                .collect()
        };
        tensors.push(Tensor::vector(ours("attention_norm"), theirs("input_layernorm.weight"), dims.hidden));
        tensors.push(Tensor::stack(ours("qkv"), qkv("weight"), dims.hidden, panels));
        if model.qkv_bias {
            tensors.push(Tensor::stack(ours("qkv_bias"), qkv("bias"), 1, Layout::F32Plain));
        }
        if model.qk_norm {
            for it in ["q_norm", "k_norm"] {
                tensors.push(Tensor::vector(
                    ours(it),
                    theirs(&format!("self_attn.{it}.weight")),
                    dims.head_dim,
                ));
            }
        }
        let o = (dims.hidden, dims.query_rows());
        tensors.push(Tensor::matrix(ours("o"), theirs("self_attn.o_proj.weight"), o, panels));
        tensors.push(Tensor::vector(
            ours("mlp_norm"),
            theirs("post_attention_layernorm.weight"),
            dims.hidden,
        ));
        let halves =
            ["gate", "up"].map(|it| source(theirs(&format!("mlp.{it}_proj.weight")), dims.intermediate));
        tensors.push(Tensor {
            name: ours("gate_up"),
            sources: halves.into(),
            join: Join::Halves,
            cols: dims.hidden,
            layout: panels,
        });
        let down = (dims.hidden, dims.intermediate);
        tensors.push(Tensor::matrix(ours("down"), theirs("mlp.down_proj.weight"), down, panels));
    }
    tensors.push(Tensor::vector("norm", "model.norm.weight", dims.hidden));
    if !model.tied {
        tensors.push(Tensor::matrix("head", "lm_head.weight", table, head));
    }
    tensors
}

/// The rotary table and its constants: one file for plain frequencies, one for those of Llama 3.1.
fn rope(rope: &Rope) -> Vec<Part> {
    let constant =
        |name, value: f64, why: &str| Part::Const { name, ty: "f32", value: float(value), why: why.into() };
    let mut parts =
        vec![constant("ROPE_THETA", rope.theta, "Base of the rotary frequencies (`rope_theta`).")];
    match &rope.scaling {
        None => parts.push(Part::Source { path: "src/rope.rs", text: include_str!("rope.rs") }),
        Some(scaling) => parts.extend([
            Part::Source { path: "src/rope.rs", text: include_str!("rope_llama3.rs") },
            constant("ROPE_FACTOR", scaling.factor, "How much slower slow pairs turn (`factor`)."),
            constant(
                "ROPE_LOW_FREQUENCY",
                scaling.low_freq_factor,
                "Pairs that turn less often than this over the trained context are slow (`low_freq_factor`).",
            ),
            constant(
                "ROPE_HIGH_FREQUENCY",
                scaling.high_freq_factor,
                "Pairs that turn more often than this over the trained context are fast (`high_freq_factor`).",
            ),
            constant(
                "ROPE_ORIGINAL_CONTEXT",
                scaling.original_context as f64,
                "The trained context (`original_max_position_embeddings`).",
            ),
        ]),
    }
    parts
}

/// The shortest literal that reads back as this f32.
fn float(value: f64) -> String {
    format!("{:?}", value as f32)
}

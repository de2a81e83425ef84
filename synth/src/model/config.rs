//! `config.json`: which family, which sizes, and whether the catalogue can serve them.

use std::path::Path;

use serde_json::Value;

use super::keys::{Keys, shown};
use super::{Dims, Family, Llama3Scaling, ModelError, Rope, Sampling};

/// What `config.json` says.
pub(super) struct Config {
    pub family: Family,
    pub dims: Dims,
    pub rope: Rope,
    pub norm_eps: f64,
    pub sliding_window: Option<usize>,
    pub tied: bool,
    pub eos: Vec<u32>,
    pub bos: Option<u32>,
    pub sampling: Sampling,
}

/// Model types and the class that goes with each.
const FAMILIES: [(Family, &str); 4] = [
    (Family::Llama, "LlamaForCausalLM"),
    (Family::Mistral, "MistralForCausalLM"),
    (Family::Qwen2, "Qwen2ForCausalLM"),
    (Family::Qwen3, "Qwen3ForCausalLM"),
];

// Greatest sizes. They are far beyond what is published, and any product that reading or planning makes of them fits 64 bits.
const MAX_HIDDEN: usize = 1 << 17;
const MAX_LAYERS: usize = 1 << 10;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 10;
const MAX_INTERMEDIATE: usize = 1 << 17;
const MAX_VOCAB: usize = 1 << 22;
const MAX_CONTEXT: usize = 1 << 27;

/// Reads `config.json` and `generation_config.json` of `folder`.
///
/// Errors: everything in them that is wrong or that the catalogue lacks.
pub(super) fn read(folder: &Path) -> Result<Config, Vec<ModelError>> {
    let mut keys = Keys::read(folder.join("config.json")).map_err(|error| vec![error])?;
    let generation = Keys::read_optional(folder.join("generation_config.json"));
    let family = family(&mut keys);
    refuse_unserved(&mut keys);
    let config = family.and_then(|family| config(&mut keys, family));
    let mut errors = keys.errors;
    let mut config = match generation {
        Err(error) => {
            errors.push(error);
            None
        }
        Ok(mut generation) => {
            let config = config.map(|config| {
                let eos = generation.ids("eos_token_id", config.dims.vocab).unwrap_or(config.eos);
                Config { eos, sampling: sampling(&mut generation), ..config }
            });
            errors.append(&mut generation.errors);
            config
        }
    };
    match config.take() {
        Some(config) if errors.is_empty() => Ok(config),
        _ => Err(errors),
    }
}

fn family(keys: &mut Keys) -> Option<Family> {
    let Some(model_type) = keys.text("model_type") else {
        if keys.get("model_type").is_none() {
            keys.refuse("model_type", "is missing, expected `llama`, `mistral`, `qwen2` or `qwen3`");
        }
        return None;
    };
    let Some((family, class)) = FAMILIES.into_iter().find(|(family, _)| family.name() == model_type) else {
        let found = shown(&Value::String(model_type));
        keys.refuse(
            "model_type",
            format!("{found} is not in the catalogue, which has `llama`, `mistral`, `qwen2` and `qwen3`"),
        );
        return None;
    };
    let classes = keys.get("architectures").cloned();
    let fits = classes.as_ref().is_none_or(|classes| *classes == Value::from(vec![class]));
    if let (false, Some(classes)) = (fits, classes) {
        let found = shown(&classes);
        keys.refuse(
            "architectures",
            format!("expected [\"{class}\"] for model_type `{}`, found {found}", family.name()),
        );
    }
    Some(family)
}

/// Refuses what would be served wrongly if it were ignored.
fn refuse_unserved(keys: &mut Keys) {
    if let Some(act) = keys.text("hidden_act").filter(|act| act != "silu") {
        keys.refuse(
            "hidden_act",
            format!("{} is not in the catalogue, which has `silu`", shown(&Value::String(act))),
        );
    }
    if keys.get("quantization_config").is_some() {
        keys.refuse(
            "quantization_config",
            "quantised weights are not in the catalogue; give the folder of the f32, f16 or bf16 model",
        );
    }
    if keys.flag("attention_bias") {
        keys.refuse(
            "attention_bias",
            "a bias on the output projection is not in the catalogue; expected false",
        );
    }
    if keys.flag("mlp_bias") {
        keys.refuse("mlp_bias", "biases in the feed-forward layer are not in the catalogue; expected false");
    }
    for key in ["torch_dtype", "dtype"] {
        if let Some(dtype) =
            keys.text(key).filter(|dtype| !["float32", "float16", "bfloat16"].contains(&dtype.as_str()))
        {
            keys.refuse(
                key,
                format!(
                    "expected `float32`, `float16` or `bfloat16`, found {}",
                    shown(&Value::String(dtype))
                ),
            );
        }
    }
}

fn config(keys: &mut Keys, family: Family) -> Option<Config> {
    // Every part is read before the first `?`, so that each one reports what is wrong with it.
    let (dims, rope) = (dims(keys, family), rope(keys));
    let norm_eps =
        if keys.get("rms_norm_eps").is_none() { Some(1e-6) } else { keys.positive("rms_norm_eps") };
    let tied = keys.flag("tie_word_embeddings");
    let dims = dims?;
    let sliding_window = sliding_window(keys, family, dims.layers);
    let eos = keys.ids("eos_token_id", dims.vocab).unwrap_or_default();
    let bos = keys.ids("bos_token_id", dims.vocab).unwrap_or_default();
    if bos.len() > 1 {
        keys.refuse("bos_token_id", "expected one token id, found several");
    }
    Some(Config {
        family,
        dims,
        rope: rope?,
        norm_eps: norm_eps?,
        sliding_window,
        tied,
        eos,
        bos: bos.first().copied(),
        sampling: Sampling::default(),
    })
}

/// How the model's makers sample it, key by key as vLLM takes them; what they do not say keeps OpenAI's default.
fn sampling(generation: &mut Keys) -> Sampling {
    let default = Sampling::default();
    Sampling {
        temperature: generation.number("temperature", 0.0..=2.0).unwrap_or(default.temperature),
        top_p: generation.number("top_p", 0.0..=1.0).unwrap_or(default.top_p),
        top_k: generation.count("top_k", 0..=MAX_VOCAB).filter(|top_k| *top_k > 0),
        min_p: generation.number("min_p", 0.0..=1.0).unwrap_or(default.min_p),
        repetition_penalty: generation
            .number("repetition_penalty", 0.01..=10.0)
            .unwrap_or(default.repetition_penalty),
    }
}

fn dims(keys: &mut Keys, family: Family) -> Option<Dims> {
    let hidden = keys.need_count("hidden_size", 1..=MAX_HIDDEN);
    let layers = keys.need_count("num_hidden_layers", 1..=MAX_LAYERS);
    let heads = keys.need_count("num_attention_heads", 1..=MAX_HEADS);
    let intermediate = keys.need_count("intermediate_size", 1..=MAX_INTERMEDIATE);
    let vocab = keys.need_count("vocab_size", 1..=MAX_VOCAB);
    let context = keys.need_count("max_position_embeddings", 1..=MAX_CONTEXT);
    let kv_heads = match family {
        Family::Llama if keys.get("num_key_value_heads").is_none() => heads,
        _ => keys.need_count("num_key_value_heads", 1..=MAX_HEADS),
    };
    let head_dim = match keys.count("head_dim", 1..=MAX_HEAD_DIM) {
        None if keys.get("head_dim").is_some() => None,
        None => default_head_dim(keys, family, hidden, heads),
        found => found,
    };
    let dims = Dims {
        hidden: hidden?,
        layers: layers?,
        heads: heads?,
        kv_heads: kv_heads?,
        head_dim: head_dim?,
        intermediate: intermediate?,
        vocab: vocab?,
        context: context?,
    };
    if !dims.heads.is_multiple_of(dims.kv_heads) {
        let message =
            format!("expected a divisor of num_attention_heads, {}, found {}", dims.heads, dims.kv_heads);
        keys.refuse("num_key_value_heads", message);
    }
    if dims.query_rows() > MAX_HIDDEN {
        let message = format!("times num_attention_heads is {}, more than {MAX_HIDDEN}", dims.query_rows());
        keys.refuse("head_dim", message);
    }
    if dims.head_dim % 2 == 1 {
        keys.refuse(
            "head_dim",
            format!("expected an even number, since RoPE rotates pairs, found {}", dims.head_dim),
        );
    }
    Some(dims)
}

/// The width of a head where `head_dim` does not say it: what the family's reference code takes.
fn default_head_dim(
    keys: &mut Keys,
    family: Family,
    hidden: Option<usize>,
    heads: Option<usize>,
) -> Option<usize> {
    if family == Family::Qwen3 {
        return Some(128);
    }
    let (hidden, heads) = (hidden?, heads?);
    let head_dim = (hidden.is_multiple_of(heads) && hidden / heads <= MAX_HEAD_DIM).then_some(hidden / heads);
    if head_dim.is_none() {
        let message = format!(
            "is missing, and hidden_size / num_attention_heads, {hidden} / {heads}, is no width of a head"
        );
        keys.refuse("head_dim", message);
    }
    head_dim
}

/// RoPE in either spelling: `rope_theta` and `rope_scaling` side by side, or both inside `rope_parameters`.
fn rope(keys: &mut Keys) -> Option<Rope> {
    let nested = keys.get("rope_parameters").is_some();
    let scaling = if nested { "rope_parameters" } else { "rope_scaling" };
    let (inner, outer) = (keys.positive("rope_parameters.rope_theta"), keys.positive("rope_theta"));
    if let Some((inner, outer)) = inner.zip(outer).filter(|(inner, outer)| inner != outer) {
        keys.refuse(
            "rope_theta",
            format!("says {outer} where rope_parameters.rope_theta says {inner}; keep one"),
        );
    }
    let theta = inner.or(outer).unwrap_or(10_000.0);
    for key in ["partial_rotary_factor", &format!("{scaling}.partial_rotary_factor")] {
        if keys.positive(key).is_some_and(|share| share != 1.0) {
            keys.refuse(key, "rotating a part of each head is not in the catalogue; expected 1");
        }
    }
    match keys.get(scaling) {
        None => return Some(Rope { theta, scaling: None }),
        Some(Value::Object(inner)) if inner.values().any(Value::is_object) => {
            keys.refuse(scaling, "RoPE that differs between layers is not in the catalogue");
            return None;
        }
        Some(Value::Object(_)) => {}
        Some(other) => {
            let message = format!("expected an object or null, found {}", shown(other));
            keys.refuse(scaling, message);
            return None;
        }
    }
    let scaling = rope_scaling(keys, scaling)?;
    Some(Rope { theta, scaling })
}

/// The inner `Option` is whether there is scaling at all.
fn rope_scaling(keys: &mut Keys, parent: &str) -> Option<Option<Llama3Scaling>> {
    let at = |name: &str| format!("{parent}.{name}");
    let type_key = if keys.get(&at("rope_type")).is_some() { at("rope_type") } else { at("type") };
    match keys.text(&type_key).as_deref() {
        None if keys.get(&type_key).is_none() && parent == "rope_parameters" => return Some(None),
        None if keys.get(&type_key).is_none() => {
            keys.refuse(&at("rope_type"), "is missing, expected `llama3` or `default`");
            return None;
        }
        None => return None,
        Some("default") => return Some(None),
        Some("llama3") => {}
        Some(other) => {
            let found = shown(&Value::String(other.to_owned()));
            keys.refuse(
                &type_key,
                format!("{found} is not in the catalogue, which has `llama3` and `default`"),
            );
            return None;
        }
    }
    let mut need = |name: &str| {
        if keys.get(&at(name)).is_none() {
            keys.refuse(&at(name), "is missing, expected a number above zero");
        }
        keys.positive(&at(name))
    };
    let (factor, low, high) = (need("factor"), need("low_freq_factor"), need("high_freq_factor"));
    let original_context = keys.need_count(&at("original_max_position_embeddings"), 1..=MAX_CONTEXT);
    let scaling = Llama3Scaling {
        factor: factor?,
        low_freq_factor: low?,
        high_freq_factor: high?,
        original_context: original_context?,
    };
    if scaling.high_freq_factor <= scaling.low_freq_factor {
        let message = format!(
            "expected more than low_freq_factor, {}, found {}",
            scaling.low_freq_factor, scaling.high_freq_factor
        );
        keys.refuse(&at("high_freq_factor"), message);
    }
    Some(Some(scaling))
}

/// The window that every layer has, if any; layers that differ are refused.
fn sliding_window(keys: &mut Keys, family: Family, layers: usize) -> Option<usize> {
    let is_sliding = match family {
        // The reference code of Llama does not read the key.
        Family::Llama => false,
        Family::Mistral => true,
        Family::Qwen2 | Family::Qwen3 => slides(keys, layers),
    };
    if family == Family::Mistral && !keys.mentions("sliding_window") {
        // The reference code takes 4096 where the key is absent, and no window where it is null.
        return Some(4096);
    }
    if is_sliding && family != Family::Mistral && keys.get("sliding_window").is_none() {
        keys.refuse("sliding_window", "is missing, although layers slide");
    }
    if is_sliding { keys.count("sliding_window", 1..=MAX_CONTEXT) } else { None }
}

/// Whether the layers of a Qwen model slide: all do, or none does.
fn slides(keys: &mut Keys, layers: usize) -> bool {
    let use_window = keys.flag("use_sliding_window");
    let types = match keys.get("layer_types") {
        None => None,
        Some(Value::Array(types)) => Some(types.clone()),
        Some(other) => {
            let message = format!("expected a list, found {}", shown(other));
            keys.refuse("layer_types", message);
            return false;
        }
    };
    if let Some(types) = types {
        let n_sliding = types.iter().filter(|kind| *kind == "sliding_attention").count();
        let n_full = types.iter().filter(|kind| *kind == "full_attention").count();
        if types.len() != layers || n_sliding + n_full != types.len() {
            let message =
                format!("expected `full_attention` or `sliding_attention` for each of {layers} layers");
            keys.refuse("layer_types", message);
        } else if n_sliding > 0 && n_full > 0 {
            let message =
                format!("{n_sliding} sliding and {n_full} full layers; a mixture is not in the catalogue");
            keys.refuse("layer_types", message);
        } else if n_sliding > 0 && !use_window {
            keys.refuse("layer_types", "layers slide although use_sliding_window is false");
        }
        return n_sliding > 0;
    }
    if !use_window {
        return false;
    }
    let first_sliding = if keys.mentions("max_window_layers") {
        keys.count("max_window_layers", 0..=1 << 20)
    } else {
        Some(28)
    };
    match first_sliding {
        Some(0) => true,
        Some(first) if first < layers => {
            let message = format!(
                "{first} full layers and {} sliding ones; a mixture is not in the catalogue",
                layers - first
            );
            keys.refuse("max_window_layers", message);
            false
        }
        _ => false,
    }
}

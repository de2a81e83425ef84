//! Everything of a model folder but its weights.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use synth::model::{Family, Model};
use synth::workload::Precision;

use super::{MakeError, Shape};

/// Writes configuration, generation configuration, tokenizer and chat template.
pub(super) fn write(
    shape: &Shape,
    precision: Precision,
    base: &Path,
    folder: &Path,
) -> Result<(), MakeError> {
    let source = Model::read(base)?;
    let save = |name: &str, json: &Value| {
        let path = folder.join(name);
        fs::write(&path, format!("{json:#}\n")).map_err(|source| MakeError::File { path, source })
    };
    save("config.json", &config(shape, precision, &source))?;
    save("generation_config.json", &json!({ "bos_token_id": source.bos, "eos_token_id": source.eos }))?;
    save("tokenizer.json", &tokenizer(shape, base)?)?;
    for name in ["tokenizer_config.json", "chat_template.jinja"] {
        let (from, to) = (base.join(name), folder.join(name));
        if from.is_file() {
            fs::copy(&from, &to).map_err(|source| MakeError::File { path: to, source })?;
        }
    }
    Ok(())
}

fn config(shape: &Shape, precision: Precision, base: &Model) -> Value {
    let (class, model_type) = match shape.family {
        Family::Llama => ("LlamaForCausalLM", "llama"),
        Family::Mistral => ("MistralForCausalLM", "mistral"),
        Family::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    };
    let dtype = match precision {
        Precision::F32 => "float32",
        // No checkpoint that is made here has codes.
        Precision::Bf16 | Precision::Int8 | Precision::Int4 => "bfloat16",
    };
    let scaling = shape.scaling.map(|scaling| {
        json!({
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        })
    });
    json!({
        "architectures": [class],
        "model_type": model_type,
        "dtype": dtype,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.theta,
        "rope_scaling": scaling,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": false,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": base.bos,
        "eos_token_id": base.eos,
    })
}

/// The base's tokenizer with a token for every row of the embedding. What is added can be decoded and is never
/// encoded to, for no merge makes it.
fn tokenizer(shape: &Shape, base: &Path) -> Result<Value, MakeError> {
    let path = base.join("tokenizer.json");
    let refuse = |reason: String| MakeError::Tokenizer { path: path.clone(), reason };
    let text = fs::read_to_string(&path).map_err(|source| MakeError::File { path: path.clone(), source })?;
    let mut json: Value = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
    let added = json["added_tokens"].as_array().into_iter().flatten().map(|token| &token["id"]);
    let vocabulary = json["model"]["vocab"]
        .as_object()
        .filter(|_| json["model"]["type"] == "BPE")
        .ok_or_else(|| refuse("is not BPE with a vocabulary of its own".to_owned()))?;
    let mut is_taken = vec![false; shape.vocab];
    for id in vocabulary.values().chain(added) {
        let slot = id.as_u64().and_then(|id| is_taken.get_mut(usize::try_from(id).ok()?));
        *slot.ok_or_else(|| {
            refuse(format!("has the id {id}, and {} has {} ids", shape.name, shape.vocab))
        })? = true;
    }
    let unused = (0..).zip(is_taken).filter(|(_, is_taken)| !is_taken);
    let fill: Map<String, Value> =
        unused.map(|(id, _): (u64, _)| (format!("<|unused_{id}|>"), id.into())).collect();
    if let Some(vocabulary) = json["model"]["vocab"].as_object_mut() {
        vocabulary.extend(fill);
    }
    Ok(json)
}

//! The weight files of a folder: which there are, and whether they hold exactly what the configuration implies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde::Deserialize;

use super::config::Config;
use super::header::{self, printable};
use super::keys::{exists, fault, read_text};
use super::{Dtype, Family, ModelError, ShardFile, TensorFact};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Longest index that is read, bytes.
const MAX_INDEX_BYTES: u64 = 32 << 20;
/// Most weight files.
const MAX_SHARDS: usize = 1024;
/// Most tensors that one error names or repeats for.
const MAX_NAMED: usize = 8;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads the headers of the weight files: `model.safetensors`, or else the shards of the index.
pub(super) fn read(folder: &Path) -> Result<Vec<ShardFile>, Vec<ModelError>> {
    if exists(&folder.join(SINGLE)) {
        return header::read(folder, SINGLE).map(|shard| vec![shard]);
    }
    let index = folder.join(INDEX);
    if !exists(&index) {
        let message = format!("has neither {SINGLE} nor {INDEX}; convert the weights to safetensors");
        return Err(vec![fault(folder, message)]);
    }
    let placement = placement(&index).map_err(|error| vec![error])?;
    let names: BTreeSet<&str> = placement.values().map(String::as_str).collect();
    let mut errors = Vec::new();
    let mut shards = Vec::new();
    for name in names {
        match header::read(folder, name) {
            Ok(shard) => shards.push(shard),
            Err(mut found) => errors.append(&mut found),
        }
    }
    if errors.is_empty() {
        errors = misplaced(folder, &placement, &shards);
    }
    if errors.is_empty() { Ok(shards) } else { Err(errors) }
}

/// Which tensor the index puts into which file; every file is a plain name inside the folder.
fn placement(index: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let text = read_text(index, MAX_INDEX_BYTES)?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|error| fault(index, format!("is not a shard index: {error}")))?;
    let plain = |name: &str| {
        name.ends_with(".safetensors") && !name.contains(['/', '\\', '\0', ':']) && !name.starts_with('.')
    };
    if let Some((tensor, name)) = parsed.weight_map.iter().find(|(_, name)| !plain(name)) {
        let message = format!("`{}` is no safetensors file of this folder", printable(name));
        return Err(ModelError {
            file: index.to_owned(),
            key: format!("weight_map.{}", printable(tensor)),
            message,
        });
    }
    let n_shards = parsed.weight_map.values().collect::<BTreeSet<_>>().len();
    if n_shards == 0 || n_shards > MAX_SHARDS {
        return Err(fault(index, format!("expected 1 to {MAX_SHARDS} weight files, found {n_shards}")));
    }
    Ok(parsed.weight_map)
}

/// Where the index and the headers of the shards disagree.
fn misplaced(folder: &Path, placement: &BTreeMap<String, String>, shards: &[ShardFile]) -> Vec<ModelError> {
    let mut found = BTreeMap::new();
    let mut errors = Vec::new();
    let mut error = |file: &str, tensor: &str, message: String| {
        errors.push(ModelError { file: folder.join(file), key: printable(tensor), message });
    };
    for shard in shards {
        for tensor in &shard.tensors {
            if let Some(other) = found.insert(tensor.name.as_str(), shard.name.as_str()) {
                error(&shard.name, &tensor.name, format!("is in {other} as well; a tensor has one place"));
            } else if !placement.contains_key(&tensor.name) {
                error(&shard.name, &tensor.name, format!("is not in the weight_map of {INDEX}"));
            }
        }
    }
    for (tensor, name) in placement {
        if found.get(tensor.as_str()) != Some(&name.as_str()) {
            error(
                INDEX,
                &format!("weight_map.{tensor}"),
                format!("{name} does not hold it; fetch the folder again"),
            );
        }
    }
    errors.truncate(MAX_NAMED);
    errors
}

/// Checks that `shards` hold every tensor that `config` implies, in its shape, and no other.
pub(super) fn check(folder: &Path, config: &Config, shards: &[ShardFile]) -> Vec<ModelError> {
    let mut found: HashMap<&str, (&ShardFile, &TensorFact)> = shards
        .iter()
        .flat_map(|shard| shard.tensors.iter().map(move |tensor| (tensor.name.as_str(), (shard, tensor))))
        .collect();
    let home = if let [only] = shards { only.name.as_str() } else { INDEX };
    let mut errors = Vec::new();
    for expected in expected(config) {
        match found.remove(expected.name.as_str()) {
            Some((shard, tensor)) if tensor.shape != expected.shape => {
                let message = format!(
                    "expected shape {:?} from {}, found {:?}",
                    expected.shape, expected.keys, tensor.shape
                );
                errors.push(ModelError { file: folder.join(&shard.name), key: expected.name, message });
            }
            None if expected.is_needed => {
                let hint =
                    if expected.name == HEAD { "; is tie_word_embeddings meant to be true?" } else { "" };
                let message =
                    format!("is missing, expected shape {:?} from {}{hint}", expected.shape, expected.keys);
                errors.push(ModelError { file: folder.join(home), key: expected.name, message });
            }
            _ => {}
        }
        if errors.len() == MAX_NAMED {
            return errors;
        }
    }
    // Old checkpoints carry the RoPE frequencies, which follow from the configuration.
    let mut others: Vec<&str> =
        found.into_keys().filter(|name| !name.ends_with(".rotary_emb.inv_freq")).collect();
    others.sort_unstable();
    if let Some(first) = others.first() {
        let more =
            if others.len() > 1 { format!(" (and {} others)", others.len() - 1) } else { String::new() };
        let message = format!(
            "is not a tensor of a `{}` model{more}; serving without it would change answers",
            config.family.name()
        );
        errors.push(ModelError { file: folder.join(home), key: printable(first), message });
    }
    errors
}

/// The number format of the matrices; where they differ, the one that loses nothing.
pub(super) fn stored(shards: &[ShardFile]) -> Dtype {
    let mut dtypes = shards
        .iter()
        .flat_map(|shard| &shard.tensors)
        .filter(|tensor| tensor.shape.len() == 2)
        .map(|tensor| tensor.dtype);
    let first = dtypes.next().unwrap_or(Dtype::F32);
    if dtypes.all(|dtype| dtype == first) { first } else { Dtype::F32 }
}

struct Expected {
    name: String,
    shape: Vec<usize>,
    /// The keys of `config.json` that imply the shape.
    keys: &'static str,
    is_needed: bool,
}

const HEAD: &str = "lm_head.weight";

/// Every tensor that the configuration implies, in the order of the forward pass.
fn expected(config: &Config) -> impl Iterator<Item = Expected> {
    let dims = &config.dims;
    let needed = |name: &str, shape: &[usize], keys| Expected {
        name: name.to_owned(),
        shape: shape.to_vec(),
        keys,
        is_needed: true,
    };
    let embedding =
        needed("model.embed_tokens.weight", &[dims.vocab, dims.hidden], "vocab_size, hidden_size");
    let norm = needed("model.norm.weight", &[dims.hidden], "hidden_size");
    // A tied head may be stored all the same; it is the embedding again.
    let head = Expected {
        is_needed: !config.tied,
        ..needed(HEAD, &[dims.vocab, dims.hidden], "vocab_size, hidden_size")
    };
    let layers = (0..dims.layers).flat_map(move |layer| {
        per_layer(config)
            .into_iter()
            .map(move |(name, shape, keys)| needed(&format!("model.layers.{layer}.{name}"), &shape, keys))
    });
    std::iter::once(embedding).chain(layers).chain([norm, head])
}

/// Name within a layer, shape, and the keys that imply it.
fn per_layer(config: &Config) -> Vec<(&'static str, Vec<usize>, &'static str)> {
    const QUERY: &str = "num_attention_heads, head_dim, hidden_size";
    const KV: &str = "num_key_value_heads, head_dim, hidden_size";
    const MLP: &str = "intermediate_size, hidden_size";
    let dims = &config.dims;
    let (query, kv, hidden, intermediate) =
        (dims.query_rows(), dims.kv_rows(), dims.hidden, dims.intermediate);
    let mut tensors = vec![
        ("input_layernorm.weight", vec![hidden], "hidden_size"),
        ("self_attn.q_proj.weight", vec![query, hidden], QUERY),
        ("self_attn.k_proj.weight", vec![kv, hidden], KV),
        ("self_attn.v_proj.weight", vec![kv, hidden], KV),
        ("self_attn.o_proj.weight", vec![hidden, query], QUERY),
        ("post_attention_layernorm.weight", vec![hidden], "hidden_size"),
        ("mlp.gate_proj.weight", vec![intermediate, hidden], MLP),
        ("mlp.up_proj.weight", vec![intermediate, hidden], MLP),
        ("mlp.down_proj.weight", vec![hidden, intermediate], MLP),
    ];
    match config.family {
        Family::Qwen2 => tensors.extend([
            ("self_attn.q_proj.bias", vec![query], "num_attention_heads, head_dim"),
            ("self_attn.k_proj.bias", vec![kv], "num_key_value_heads, head_dim"),
            ("self_attn.v_proj.bias", vec![kv], "num_key_value_heads, head_dim"),
        ]),
        Family::Qwen3 => tensors.extend([
            ("self_attn.q_norm.weight", vec![dims.head_dim], "head_dim"),
            ("self_attn.k_norm.weight", vec![dims.head_dim], "head_dim"),
        ]),
        Family::Llama | Family::Mistral => {}
    }
    tensors
}

//! Model folders of random weights, small enough to write in a test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// A model folder before it is written: its config and its tensors.
#[derive(Clone)]
pub struct Toy {
    pub config: Value,
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

pub const VOCAB: usize = 37;
const HIDDEN: usize = 24;
const LAYERS: usize = 2;
const HEADS: usize = 6;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 10;
const INTERMEDIATE: usize = 29;

impl Toy {
    /// A family as its config.json names it, with odd dims and every projection random.
    pub fn new(model_type: &str) -> Toy {
        let config = json!({
            "model_type": model_type, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
            "intermediate_size": INTERMEDIATE, "vocab_size": VOCAB, "rms_norm_eps": 1e-5, "rope_theta": 1000.0,
            "hidden_act": "silu", "sliding_window": null, "tie_word_embeddings": false,
        });
        let mut toy = Toy { config, tensors: BTreeMap::new() };
        let mut random = Random(model_type.len() as u64);
        toy.matrix(&mut random, "model.embed_tokens", &[VOCAB, HIDDEN]);
        toy.matrix(&mut random, "lm_head", &[VOCAB, HIDDEN]);
        toy.matrix(&mut random, "model.norm", &[HIDDEN]);
        for layer in 0..LAYERS {
            let mut add = |name: &str, shape: &[usize]| {
                toy.matrix(&mut random, &format!("model.layers.{layer}.{name}"), shape)
            };
            add("input_layernorm", &[HIDDEN]);
            add("self_attn.q_proj", &[HEADS * HEAD_DIM, HIDDEN]);
            add("self_attn.k_proj", &[KV_HEADS * HEAD_DIM, HIDDEN]);
            add("self_attn.v_proj", &[KV_HEADS * HEAD_DIM, HIDDEN]);
            add("self_attn.o_proj", &[HIDDEN, HEADS * HEAD_DIM]);
            add("post_attention_layernorm", &[HIDDEN]);
            add("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]);
            add("mlp.up_proj", &[INTERMEDIATE, HIDDEN]);
            add("mlp.down_proj", &[HIDDEN, INTERMEDIATE]);
            add("self_attn.q_norm", &[HEAD_DIM]);
            add("self_attn.k_norm", &[HEAD_DIM]);
            for (name, width) in [("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)] {
                let bias = (0..width * HEAD_DIM).map(|_| random.next()).collect();
                let name = format!("model.layers.{layer}.self_attn.{name}_proj.bias");
                toy.tensors.insert(name, (vec![width * HEAD_DIM], bias));
            }
        }
        toy
    }

    fn matrix(&mut self, random: &mut Random, name: &str, shape: &[usize]) {
        let scale = if shape.len() == 1 { 1.0 } else { 2.0 / (shape[1] as f32).sqrt() };
        let values = (0..shape.iter().product()).map(|_| scale * random.next()).collect();
        self.tensors.insert(format!("{name}.weight"), (shape.to_vec(), values));
    }

    /// The same toy with one more or another key in its config.
    pub fn with(mut self, key: &str, value: Value) -> Toy {
        self.config[key] = value;
        self
    }

    /// The same model with as many key heads as query heads, each repeated for its group.
    pub fn with_repeated_kv_heads(mut self) -> Toy {
        self.config["num_key_value_heads"] = json!(HEADS);
        for (name, (shape, values)) in &mut self.tensors {
            if name.contains("k_proj") || name.contains("v_proj") {
                let head = values.len() / KV_HEADS;
                *values = values.chunks(head).flat_map(|rows| rows.repeat(HEADS / KV_HEADS)).collect();
                shape[0] = HEADS * HEAD_DIM;
            }
        }
        self
    }

    /// The same model with every weight rounded to what f16 and bf16 both hold.
    pub fn with_short_weights(mut self) -> Toy {
        for (_, values) in self.tensors.values_mut() {
            values
                .iter_mut()
                .for_each(|value| *value = f16::from_f32(bf16::from_f32(*value).to_f32()).to_f32());
        }
        self
    }

    /// Writes one `model.safetensors` of this dtype.
    pub fn write(&self, name: &str, dtype: Dtype) -> PathBuf {
        let folder = self.folder(name);
        self.file(&folder.join("model.safetensors"), dtype, |_| true);
        folder
    }

    /// Writes two shards and their index.
    pub fn write_sharded(&self, name: &str) -> PathBuf {
        let folder = self.folder(name);
        let shard = |name: &str| {
            if name.contains("mlp") {
                "model-00002-of-00002.safetensors"
            } else {
                "model-00001-of-00002.safetensors"
            }
        };
        for file in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
            self.file(&folder.join(file), Dtype::F32, |name| shard(name) == file);
        }
        let map: BTreeMap<_, _> = self.tensors.keys().map(|name| (name, shard(name))).collect();
        let index = json!({ "metadata": {}, "weight_map": map }).to_string();
        fs::write(folder.join("model.safetensors.index.json"), index).expect("the index is written");
        folder
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the folder is made");
        fs::write(folder.join("config.json"), self.config.to_string()).expect("the config is written");
        folder
    }

    fn file(&self, file: &Path, dtype: Dtype, holds: impl Fn(&str) -> bool) {
        let bytes: BTreeMap<&String, (&Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .filter(|(name, _)| holds(name))
            .map(|(name, (shape, values))| {
                (name, (shape, values.iter().flat_map(|value| narrow(*value, dtype)).collect()))
            })
            .collect();
        let views = bytes.iter().map(|(name, (shape, bytes))| {
            (name.as_str(), TensorView::new(dtype, (*shape).clone(), bytes).expect("shape and bytes agree"))
        });
        safetensors::serialize_to_file(views, None, file).expect("the weights are written");
    }
}

fn narrow(value: f32, dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    }
}

/// A small deterministic generator of numbers in -1..1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

//! A small valid model folder in a temporary place, for tests to break.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

/// Removed when dropped.
pub struct Folder {
    pub path: PathBuf,
}

/// One tensor of a file to write: name, number format, sizes.
pub type Tensor = (String, &'static str, Vec<u64>);

impl Folder {
    /// A Qwen3 with odd sizes: 3 query heads over 1 key head of 6, 2 layers, 41 ids, tied head.
    pub fn qwen3() -> Folder {
        let folder = Folder::empty();
        folder.write("config.json", qwen3_config().to_string());
        folder.write(
            "generation_config.json",
            json!({ "eos_token_id": [3, 1], "temperature": 0.6 }).to_string(),
        );
        folder.write("tokenizer.json", tokenizer().to_string());
        let template = "{% for m in messages %}<{{ m.role }}>{{ m.content.strip() }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
        folder.write(
            "tokenizer_config.json",
            json!({ "eos_token": { "content": "<e>" }, "chat_template": template }).to_string(),
        );
        folder.write("model.safetensors", safetensors(&qwen3_tensors("BF16")));
        folder
    }

    pub fn empty() -> Folder {
        static N_FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let name =
            format!("savile-model-{}-{}", std::process::id(), N_FOLDERS.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a temporary folder can be made");
        Folder { path }
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path.join(name), bytes).expect("a file in a temporary folder can be written");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path.join(name)).expect("the file is there");
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path.join(name)).expect("the file is there")
    }

    /// Sets one key of a JSON file; `null` stays as `null`.
    pub fn set(&self, name: &str, key: &str, value: Value) {
        let mut root: Value = serde_json::from_slice(&self.bytes(name)).expect("the file is JSON");
        root[key] = value;
        self.write(name, root.to_string());
    }

    /// Takes one key out of a JSON file.
    pub fn unset(&self, name: &str, key: &str) {
        let mut root: Value = serde_json::from_slice(&self.bytes(name)).expect("the file is JSON");
        root.as_object_mut().expect("the file is an object").remove(key);
        self.write(name, root.to_string());
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that cannot be removed does not make a test wrong.
        drop(fs::remove_dir_all(&self.path));
    }
}

pub fn qwen3_config() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": false,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "head_dim": 6,
        "hidden_act": "silu",
        "hidden_size": 10,
        "intermediate_size": 7,
        "max_position_embeddings": 96,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "rope_scaling": null,
        "rope_theta": 1e6,
        "sliding_window": null,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "use_sliding_window": false,
        "vocab_size": 41,
    })
}

pub fn tokenizer() -> Value {
    json!({
        "version": "1.0",
        "added_tokens": [{ "id": 40, "content": "<e>", "special": true }],
        "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "ab": 2 }, "merges": [["a", "b"]] },
    })
}

pub fn qwen3_tensors(dtype: &'static str) -> Vec<Tensor> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), dtype, vec![41, 10]),
        ("model.norm.weight".to_owned(), dtype, vec![10]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", vec![10]),
            ("self_attn.q_proj", vec![18, 10]),
            ("self_attn.k_proj", vec![6, 10]),
            ("self_attn.v_proj", vec![6, 10]),
            ("self_attn.o_proj", vec![10, 18]),
            ("self_attn.q_norm", vec![6]),
            ("self_attn.k_norm", vec![6]),
            ("post_attention_layernorm", vec![10]),
            ("mlp.gate_proj", vec![7, 10]),
            ("mlp.up_proj", vec![7, 10]),
            ("mlp.down_proj", vec![10, 7]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), dtype, shape));
        }
    }
    tensors
}

/// The header entries of `tensors`, their data one after the other.
pub fn entries(tensors: &[Tensor]) -> (serde_json::Map<String, Value>, u64) {
    let mut map = serde_json::Map::new();
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let size = shape.iter().product::<u64>() * if *dtype == "F32" { 4 } else { 2 };
        map.insert(
            name.clone(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": [end, end + size] }),
        );
        end += size;
    }
    (map, end)
}

/// A file with this header and `n_data` bytes of data.
pub fn file(header: &str, n_data: u64) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + n_data as usize, 0x3c);
    bytes
}

/// A valid safetensors file.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (map, n_data) = entries(tensors);
    file(&Value::Object(map).to_string(), n_data)
}

/// Splits the tensors into two files and their index.
pub fn shard(folder: &Folder) {
    let tensors = qwen3_tensors("BF16");
    let (first, second) = tensors.split_at(9);
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut placement = serde_json::Map::new();
    for (part, name) in [first, second].into_iter().zip(names) {
        folder.write(name, safetensors(part));
        placement.extend(part.iter().map(|(tensor, _, _)| (tensor.clone(), json!(name))));
    }
    folder.remove("model.safetensors");
    folder.write(
        "model.safetensors.index.json",
        json!({ "metadata": {}, "weight_map": placement }).to_string(),
    );
}

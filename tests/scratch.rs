//! Folders outside the repository for specs and models, and models to break.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::{Map, Value, json};

use crate::command::root;

/// A folder that is removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty folder.
    pub fn new(purpose: &str) -> Scratch {
        static N_FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let nth = N_FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("savile-{purpose}-{}-{nth}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder can be made");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), bytes).expect("a file in a temporary folder can be written");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that cannot be removed does not make a test wrong.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The folder of a committed model.
pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/models").join(name)
}

/// Copies a committed model.
pub fn copy_fixture(name: &str, folder: &Path) {
    fs::create_dir_all(folder).expect("a temporary folder can be made");
    for entry in fs::read_dir(fixture(name)).expect("the fixture is there") {
        let entry = entry.expect("the fixture can be listed");
        fs::copy(entry.path(), folder.join(entry.file_name())).expect("the fixture can be copied");
    }
}

/// Changes a JSON file.
pub fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let bytes = fs::read(file).expect("the file is there");
    let mut value = serde_json::from_slice(&bytes).expect("the file is JSON");
    change(&mut value);
    fs::write(file, value.to_string()).expect("the file can be written");
}

/// A safetensors file taken apart: its header and its data.
pub struct Tensors {
    pub header: Map<String, Value>,
    pub data: Vec<u8>,
}

impl Tensors {
    pub fn read(file: &Path) -> Tensors {
        let bytes = fs::read(file).expect("the file is there");
        let (length, rest) = bytes.split_first_chunk::<8>().expect("the file has a header");
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        Tensors { header: serde_json::from_slice(header).expect("the header is JSON"), data: data.to_vec() }
    }

    pub fn write(&self, file: &Path) {
        write_tensors(file, &Value::Object(self.header.clone()).to_string(), &self.data);
    }
}

/// Writes a safetensors file with this header, whatever it says.
pub fn write_tensors(file: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    fs::write(file, bytes).expect("the file can be written");
}

/// Writes a Qwen3 of sizes that no vector width divides: 3 query heads on 1 key head of 6, width 10, MLP of 13.
///
/// Tokenizer and end token are those of `llama_tied`; weights are f32, drawn from a fixed seed.
pub fn odd_model(folder: &Path) {
    copy_fixture("llama_tied", folder);
    const VOCAB: usize = 517;
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "hidden_size": 10,
        "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 6,
        "intermediate_size": 13, "vocab_size": VOCAB, "max_position_embeddings": 257, "rms_norm_eps": 1e-6,
        "rope_theta": 1e4, "tie_word_embeddings": false, "eos_token_id": 512,
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("a file can be written");
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, 10])];
    for layer in 0..2 {
        let inner = [
            ("input_layernorm", vec![10]),
            ("self_attn.q_proj", vec![18, 10]),
            ("self_attn.k_proj", vec![6, 10]),
            ("self_attn.v_proj", vec![6, 10]),
            ("self_attn.o_proj", vec![10, 18]),
            ("self_attn.q_norm", vec![6]),
            ("self_attn.k_norm", vec![6]),
            ("post_attention_layernorm", vec![10]),
            ("mlp.gate_proj", vec![13, 10]),
            ("mlp.up_proj", vec![13, 10]),
            ("mlp.down_proj", vec![10, 13]),
        ];
        shapes.extend(inner.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
    }
    shapes.push(("model.norm.weight".to_owned(), vec![10]));
    shapes.push(("lm_head.weight".to_owned(), vec![VOCAB, 10]));
    let mut state = 0x5a71_u64;
    let mut draw = || {
        // A xorshift: any spread of values will do.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 24) as f32 * 2.0 - 1.0
    };
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in shapes {
        let begin = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            // Norms scale by one and a bit, matrices keep the size of what they multiply.
            let value = if shape.len() == 1 { 1.0 + draw() / 4.0 } else { draw() };
            data.extend(value.to_le_bytes());
        }
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] }));
    }
    write_tensors(&folder.join("model.safetensors"), &Value::Object(header).to_string(), &data);
}

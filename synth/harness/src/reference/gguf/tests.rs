//! GGUF files read back by a reader of their own, against the folders they were made from.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

/// What a reader sees in a GGUF file.
struct Read {
    bytes: Vec<u8>,
    keys: BTreeMap<String, String>,
    /// Name → (sizes with the fastest first, type code, offset of the data).
    tensors: BTreeMap<String, (Vec<u64>, u32, usize)>,
}

struct Cursor<'a>(&'a [u8], usize);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.0[self.1..self.1 + N].try_into().expect("N bytes");
        self.1 += N;
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        self.1 += length;
        String::from_utf8(self.0[self.1 - length..self.1].to_vec()).expect("UTF-8")
    }

    fn value(&mut self, kind: u32) -> String {
        match kind {
            4 => self.u32().to_string(),
            5 => i32::from_le_bytes(self.take()).to_string(),
            6 => f32::from_le_bytes(self.take()).to_string(),
            7 => (self.take::<1>()[0] == 1).to_string(),
            8 => self.text(),
            9 => {
                let (kind, length) = (self.u32(), self.u64());
                (0..length).map(|_| self.value(kind)).collect::<Vec<_>>().join("\u{1f}")
            }
            other => panic!("kind {other} is none the writer writes"),
        }
    }
}

fn read(path: &Path) -> Read {
    let bytes = std::fs::read(path).expect("the file");
    let mut cursor = Cursor(&bytes, 0);
    assert_eq!(&cursor.take::<4>(), b"GGUF");
    assert_eq!(cursor.u32(), 3);
    let (n_tensors, n_keys) = (cursor.u64(), cursor.u64());
    let mut keys = BTreeMap::new();
    for _ in 0..n_keys {
        let (key, kind) = (cursor.text(), cursor.u32());
        let value = cursor.value(kind);
        assert!(keys.insert(key, value).is_none(), "keys are unique");
    }
    let mut records = Vec::new();
    for _ in 0..n_tensors {
        let name = cursor.text();
        let sizes = (0..cursor.u32()).map(|_| cursor.u64()).collect();
        records.push((name, sizes, cursor.u32(), cursor.u64() as usize));
    }
    let data = cursor.1.next_multiple_of(32);
    let tensors =
        records.into_iter().map(|(name, sizes, kind, offset)| (name, (sizes, kind, data + offset))).collect();
    Read { bytes, keys, tensors }
}

impl Read {
    fn values(&self, name: &str) -> Vec<f32> {
        let (sizes, kind, begin) = &self.tensors[name];
        assert_eq!(begin % 32, 0, "{name} is aligned");
        let n: u64 = sizes.iter().product();
        let data = &self.bytes[*begin..];
        (0..n as usize)
            .map(|idx| match kind {
                0 => f32::from_le_bytes(data[idx * 4..][..4].try_into().expect("4 bytes")),
                30 => half::bf16::from_le_bytes(data[idx * 2..][..2].try_into().expect("2 bytes")).to_f32(),
                other => panic!("type {other} is none the writer writes"),
            })
            .collect()
    }
}

/// The elements of a checkpoint's tensor, read by nothing that the writer uses.
fn stored(model: &Model, name: &str) -> Vec<f32> {
    let (shard, fact) = model
        .weights
        .iter()
        .find_map(|shard| Some((shard, shard.tensors.iter().find(|fact| fact.name == name)?)))
        .expect("the tensor");
    let bytes = std::fs::read(model.folder.join(&shard.name)).expect("the shard");
    let bytes = &bytes[fact.begin as usize..fact.end as usize];
    match fact.dtype {
        synth::model::Dtype::F32 => {
            bytes.as_chunks().0.iter().map(|element| f32::from_le_bytes(*element)).collect()
        }
        synth::model::Dtype::F16 => {
            bytes.as_chunks().0.iter().map(|element| half::f16::from_le_bytes(*element).to_f32()).collect()
        }
        synth::model::Dtype::Bf16 => {
            bytes.as_chunks().0.iter().map(|element| half::bf16::from_le_bytes(*element).to_f32()).collect()
        }
    }
}

fn fixture(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name);
    Model::read(&folder).unwrap_or_else(|errors| panic!("{errors}"))
}

fn converted(model: &Model, matrices: Stored, test: &str) -> Read {
    let path = std::env::temp_dir().join(format!("savile-{}-{test}.gguf", std::process::id()));
    let mut last = (0, 0);
    convert(model, matrices, &path, &mut |written, total| last = (written, total)).expect("a file");
    assert_eq!(last.0, last.1, "progress ends at the total");
    let read = read(&path);
    std::fs::remove_file(&path).expect("removal");
    read
}

#[test]
fn every_tensor_of_a_folder_is_in_the_file_with_its_sizes_turned() {
    for name in ["llama", "llama_tied", "qwen2", "qwen3"] {
        let model = fixture(name);
        let read = converted(&model, Stored::F32, &format!("all-{name}"));
        let n_stored: usize = model.weights.iter().map(|shard| shard.tensors.len()).sum();
        let n_computed = usize::from(model.rope.scaling.is_some());
        assert_eq!(read.tensors.len(), n_stored + n_computed, "{name}");
        let (sizes, ..) = &read.tensors["token_embd.weight"];
        assert_eq!(*sizes, [model.dims.hidden as u64, model.dims.vocab as u64], "{name}");
        assert_eq!(read.tensors.contains_key("output.weight"), !model.tied, "{name}");
    }
}

#[test]
fn what_llama_cpp_does_not_turn_is_copied_as_it_is() {
    let model = fixture("qwen3");
    let read = converted(&model, Stored::F32, "copied");
    for (theirs, ours) in [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight"),
        ("model.layers.1.self_attn.k_norm.weight", "blk.1.attn_k_norm.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ] {
        assert_eq!(read.values(ours), stored(&model, theirs), "{theirs}");
    }
}

#[test]
fn the_heads_of_llama_turn_in_neighbouring_pairs() {
    let model = fixture("llama");
    let read = converted(&model, Stored::F32, "turned");
    let (head, columns) = (model.dims.head_dim, model.dims.hidden);
    for (theirs, ours) in [("q_proj", "attn_q"), ("k_proj", "attn_k")] {
        let stored = stored(&model, &format!("model.layers.1.self_attn.{theirs}.weight"));
        let written = read.values(&format!("blk.1.{ours}.weight"));
        for first in (0..stored.len() / columns).step_by(head) {
            for pair in 0..head / 2 {
                for (neighbour, half) in [(0, 0), (1, head / 2)] {
                    let ours = (first + 2 * pair + neighbour) * columns;
                    let theirs = (first + pair + half) * columns;
                    assert_eq!(written[ours..ours + columns], stored[theirs..theirs + columns]);
                }
            }
        }
    }
}

#[test]
fn matrices_take_the_precision_and_vectors_stay_f32() {
    let model = fixture("qwen2");
    let read = converted(&model, Stored::Bf16, "precision");
    for (name, (sizes, kind, _)) in &read.tensors {
        assert_eq!(*kind, if sizes.len() > 1 { 30 } else { 0 }, "{name}");
    }
    let stored = stored(&model, "model.layers.0.mlp.up_proj.weight");
    let rounded: Vec<f32> = stored.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect();
    assert_eq!(read.values("blk.0.ffn_up.weight"), rounded);
    assert_eq!(read.keys["general.file_type"], "32");
}

#[test]
fn metadata_carries_the_sizes_and_a_token_for_every_row() {
    let model = fixture("llama");
    let read = converted(&model, Stored::F32, "metadata");
    assert_eq!(read.keys["general.architecture"], "llama");
    assert_eq!(read.keys["llama.block_count"], model.dims.layers.to_string());
    assert_eq!(read.keys["llama.attention.head_count_kv"], model.dims.kv_heads.to_string());
    assert_eq!(read.keys["llama.rope.dimension_count"], model.dims.head_dim.to_string());
    assert_eq!(read.keys["tokenizer.ggml.pre"], "llama-bpe");
    let tokens: Vec<_> = read.keys["tokenizer.ggml.tokens"].split('\u{1f}').collect();
    assert_eq!(tokens.len(), model.dims.vocab);
    let distinct: std::collections::BTreeSet<_> = tokens.iter().collect();
    assert_eq!(distinct.len(), tokens.len(), "llama.cpp wants every token once");
}

#[test]
fn rope_factors_keep_short_waves_and_stretch_long_ones() {
    let scaling = synth::model::Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    let factors = tensors::rope_factors(500_000.0, 128, &scaling);
    assert_eq!(factors.len(), 64);
    assert_eq!((factors[0], factors[63]), (1.0, 8.0));
    assert!(factors.is_sorted(), "longer waves are never stretched less: {factors:?}");
    assert!(factors.iter().any(|factor| (1.1..7.9).contains(factor)), "with a ramp between");
}

#[test]
fn interleaving_is_a_permutation_within_each_head() {
    for head in [2, 4, 6, 64] {
        let mut rows: Vec<_> = (0..3 * head).map(|row| tensors::interleaved(row, head)).collect();
        assert!(rows.iter().enumerate().all(|(row, from)| row / head == from / head));
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..3 * head));
    }
}

#[test]
fn a_tokenizer_that_gguf_cannot_hold_is_refused_by_name() {
    let mut model = fixture("qwen2");
    let folder = std::env::temp_dir().join(format!("savile-{}-unigram", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("tokenizer.json"), r#"{"model":{"type":"Unigram","vocab":[]}}"#)
        .expect("a file");
    model.folder = folder.clone();
    let error = convert(&model, Stored::F32, &folder.join("x.gguf"), &mut |_, _| ()).expect_err("refused");
    assert!(error.to_string().contains("tokenizer.json: model.type: only BPE"), "{error}");
}

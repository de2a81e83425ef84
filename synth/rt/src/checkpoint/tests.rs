use std::{fs, path::PathBuf};

use super::*;

/// A folder under the system's temporary one, removed at the end of a test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("rt-checkpoint-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("temporary folder");
        Folder(path)
    }

    fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.0.join(file), bytes).expect("temporary file");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A safetensors file with `header` as given and `data` behind it.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn bytes_of<T: bytemuck::Pod>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

#[test]
fn converts_between_all_stored_types_and_both_elements() {
    let values = [0.0_f32, 1.0, -2.5, 0.333_333_34, 65504.0, 1.0e-3];
    let half: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
    let brain: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
    let (a, b, c) = (bytes_of(&values), bytes_of(&half), bytes_of(&brain));
    // Headers of two lengths place the data at an even and at an odd byte: mapped and copied.
    for pad in ["", " "] {
        let folder = Folder::new(&format!("types{}", pad.len()));
        let header = format!(
            r#"{{"a":{{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}},"b":{{"dtype":"F16","shape":[2,3],"data_offsets":[24,36]}},"c":{{"dtype":"BF16","shape":[2,3],"data_offsets":[36,48]}}}}{pad}"#
        );
        folder.write("model.safetensors", file(&header, &[a.clone(), b.clone(), c.clone()].concat()));
        let checkpoint = Checkpoint::open(&folder.0).expect("well-formed");
        let as_f32 = |name| checkpoint.matrix::<f32>(name, 2, 3).expect("there");
        let as_bf16 = |name| checkpoint.matrix::<bf16>(name, 2, 3).expect("there");
        assert_eq!(&*as_f32("a"), &values);
        assert_eq!(&*as_f32("b"), half.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
        assert_eq!(&*as_f32("c"), brain.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
        assert_eq!(&*as_bf16("a"), brain);
        assert_eq!(&*as_bf16("b"), half.iter().map(|v| bf16::from_f32(v.to_f32())).collect::<Vec<_>>());
        let matrix = as_bf16("c").clone();
        drop(checkpoint);
        assert_eq!(matrix.row(1), &brain[3..]);
    }
}

#[test]
fn shards_are_read_through_their_index() {
    let folder = Folder::new("shards");
    folder.write(
        "model-1.safetensors",
        file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &bytes_of(&[1.0_f32, 2.0])),
    );
    folder.write(
        "model-2.safetensors",
        file(r#"{"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, &bytes_of(&[3.0_f32])),
    );
    folder.write(
        INDEX_FILE,
        r#"{"metadata":{},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#,
    );
    let checkpoint = Checkpoint::open(&folder.0).expect("well-formed");
    assert_eq!(checkpoint.vector("a", 2).expect("there"), [1.0, 2.0]);
    assert_eq!(checkpoint.vector("b", 1).expect("there"), [3.0]);

    folder.write(INDEX_FILE, r#"{"weight_map":{"a":"model-2.safetensors"}}"#);
    let error = Checkpoint::open(&folder.0).err().expect("refused").to_string();
    assert!(error.ends_with("places tensor a in model-2.safetensors, which does not hold it"), "{error}");
    folder.write(INDEX_FILE, r#"{"weight_map":{"a":"../model-2.safetensors"}}"#);
    let error = Checkpoint::open(&folder.0).err().expect("refused").to_string();
    assert!(error.contains("not a plain file name"), "{error}");
    folder.write(INDEX_FILE, r#"{"weight_map":{"a":"model-9.safetensors"}}"#);
    assert!(
        matches!(Checkpoint::open(&folder.0), Err(CheckpointError::Io { file, .. }) if file.ends_with("model-9.safetensors"))
    );
}

#[test]
fn large_tensors_convert_in_parallel_to_the_same_values() {
    let values: Vec<f32> = (0..3_000_001).map(|i| i as f32 * 0.37).collect();
    let folder = Folder::new("large");
    let header = format!(
        r#"{{"a":{{"dtype":"F32","shape":[{0}],"data_offsets":[0,{1}]}}}}"#,
        values.len(),
        values.len() * 4
    );
    folder.write("model.safetensors", file(&header, &bytes_of(&values)));
    let checkpoint = Checkpoint::open(&folder.0).expect("well-formed");
    assert_eq!(checkpoint.vector("a", values.len()).expect("there"), values);
}

#[test]
fn errors_name_file_tensor_and_what_was_expected() {
    let folder = Folder::new("errors");
    let header = r#"{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"i":{"dtype":"I64","shape":[1],"data_offsets":[8,16]}}"#;
    folder.write("model.safetensors", file(header, &[0; 16]));
    let checkpoint = Checkpoint::open(&folder.0).expect("well-formed");
    let shape = checkpoint.matrix::<f32>("a", 1, 2).err().expect("refused").to_string();
    assert!(
        shape.ends_with("model.safetensors: tensor a: expected shape [1, 2], found shape [2, 1]"),
        "{shape}"
    );
    let dtype = checkpoint.vector("i", 1).expect_err("refused").to_string();
    assert!(dtype.ends_with("tensor i: expected F32, F16 or BF16, found I64"), "{dtype}");
    let missing = checkpoint.vector("z", 1).expect_err("refused").to_string();
    assert!(missing.ends_with("tensor z is missing; the build expects it"), "{missing}");
}

#[test]
fn malformed_files_are_refused_without_panic() {
    let huge = u64::MAX.to_le_bytes().to_vec();
    let whole = file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]);
    let cases: Vec<Vec<u8>> = vec![
        vec![],
        vec![1, 2, 3],
        huge,
        whole[..whole.len() - 1].to_vec(),
        [whole.clone(), vec![0]].concat(),
        file("not json", &[]),
        file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, &[0; 8]),
        file(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, &[0; 8]),
        file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}}"#, &[0; 8]),
        file(r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#, &[0; 8]),
        file(r#"{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]),
        file("{\"\u{e9}\":1}", &[0; 8]),
    ];
    let folder = Folder::new("malformed");
    for (case, bytes) in cases.iter().enumerate() {
        folder.write("model.safetensors", bytes);
        let error = Checkpoint::open(&folder.0).err().unwrap_or_else(|| panic!("case {case} was accepted"));
        assert!(error.to_string().contains("model.safetensors"), "case {case}: {error}");
    }
    // Truncation at every byte, and every single byte changed, opens or is refused: it never panics.
    for cut in 0..whole.len() {
        folder.write("model.safetensors", &whole[..cut]);
        assert!(Checkpoint::open(&folder.0).is_err());
        let mut changed = whole.clone();
        changed[cut] ^= 0x15;
        folder.write("model.safetensors", &changed);
        if let Ok(checkpoint) = Checkpoint::open(&folder.0) {
            let _ = checkpoint.vector("a", 2);
        }
    }
    assert!(matches!(Checkpoint::open(folder.0.join("nowhere")), Err(CheckpointError::Empty { .. })));
}

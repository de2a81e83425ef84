//! The bytes of GGUF version 3, little-endian throughout.

use super::tensors::Tensor;

/// Every tensor's data begins at a multiple of this, counted from the start of the data.
const ALIGNMENT: u64 = 32;

/// A metadata value, of the kinds that a dense decoder needs.
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// Keys and values in the order they are written.
#[derive(Default)]
pub(super) struct Metadata(Vec<(String, Value)>);

impl Metadata {
    pub(super) fn push(&mut self, key: &str, value: Value) {
        self.0.push((key.to_owned(), value));
    }
}

/// Everything before the data: magic, version, counts, metadata, tensor records, padding.
pub(super) fn header(metadata: &Metadata, tensors: &[Tensor<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(b"GGUF");
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.0.len() as u64).to_le_bytes());
    for (key, value) in &metadata.0 {
        text(&mut out, key);
        self::value(&mut out, value);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        // GGUF names the fastest axis first.
        for size in tensor.shape.iter().rev() {
            out.extend((*size as u64).to_le_bytes());
        }
        out.extend(tensor.format.code().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += tensor.bytes() + padding(tensor.bytes()) as u64;
    }
    let n_padding = padding(out.len() as u64);
    out.resize(out.len() + n_padding, 0);
    out
}

/// Bytes from a length to the next multiple of the alignment.
pub(super) fn padding(length: u64) -> usize {
    (length.next_multiple_of(ALIGNMENT) - length) as usize
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn value(out: &mut Vec<u8>, value: &Value) {
    /// The format's codes of value kinds.
    const I32: u32 = 5;
    const U32: u32 = 4;
    const F32: u32 = 6;
    const BOOL: u32 = 7;
    const TEXT: u32 = 8;
    const ARRAY: u32 = 9;
    let code = |out: &mut Vec<u8>, code: u32| out.extend(code.to_le_bytes());
    let array = |out: &mut Vec<u8>, kind: u32, len: usize| {
        code(out, ARRAY);
        code(out, kind);
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        Value::U32(number) => {
            code(out, U32);
            out.extend(number.to_le_bytes());
        }
        Value::F32(number) => {
            code(out, F32);
            out.extend(number.to_le_bytes());
        }
        Value::Bool(flag) => {
            code(out, BOOL);
            out.push(u8::from(*flag));
        }
        Value::Text(value) => {
            code(out, TEXT);
            text(out, value);
        }
        Value::Texts(values) => {
            array(out, TEXT, values.len());
            values.iter().for_each(|value| text(out, value));
        }
        Value::I32s(values) => {
            array(out, I32, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Value::F32s(values) => {
            array(out, F32, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
    }
}

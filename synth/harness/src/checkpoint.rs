//! Elements of the tensors of a checkpoint, as f32.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use half::{bf16, f16};
use synth::model::{Dtype, TensorFact};

/// Some elements of a stored tensor, widened to f32, which loses nothing.
pub(crate) fn load(file: &File, fact: &TensorFact, elements: Range<usize>) -> io::Result<Vec<f32>> {
    let size = fact.dtype.bytes() as usize;
    let mut bytes = vec![0; elements.len() * size];
    file.read_exact_at(&mut bytes, fact.begin + (elements.start * size) as u64)?;
    Ok(match fact.dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|element| f32::from_le_bytes(*element)).collect(),
        Dtype::F16 => {
            bytes.as_chunks().0.iter().map(|element| f16::from_le_bytes(*element).to_f32()).collect()
        }
        Dtype::Bf16 => {
            bytes.as_chunks().0.iter().map(|element| bf16::from_le_bytes(*element).to_f32()).collect()
        }
    })
}

//! Safetensors, single or sharded, f32, f16 or bf16: every tensor widened to f32 when it is asked for.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::OracleError;
use crate::rounding::Rounding;
use crate::threads::fill_rows;

/// The weight files of a model folder, mapped into memory.
pub struct Weights {
    shards: Vec<Shard>,
    /// Tensor name to the shard that holds it.
    place: BTreeMap<String, usize>,
}

struct Shard {
    file: PathBuf,
    bytes: Mmap,
}

impl Weights {
    /// Maps `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// When a file is missing, is not safetensors, or holds a tensor that another one holds too.
    pub fn open(folder: &Path) -> Result<Weights, OracleError> {
        let mut weights = Weights { shards: Vec::new(), place: BTreeMap::new() };
        for file in shard_files(folder)? {
            weights.add(file)?;
        }
        Ok(weights)
    }

    fn add(&mut self, file: PathBuf) -> Result<(), OracleError> {
        let opened = File::open(&file).map_err(|source| OracleError::Read { file: file.clone(), source })?;
        // SAFETY: the map is read only, and a model folder is not written while it is being proven; a writer in
        // between would change numbers, which the proof would report.
        let bytes = unsafe { Mmap::map(&opened) }
            .map_err(|source| OracleError::Read { file: file.clone(), source })?;
        let shard = Shard { file, bytes };
        let names: Vec<String> = shard.tensors()?.names().into_iter().map(str::to_owned).collect();
        for name in names {
            if self.place.insert(name.clone(), self.shards.len()).is_some() {
                return Err(shard.error(&name, "is in two files"));
            }
        }
        self.shards.push(shard);
        Ok(())
    }

    /// One vector of `len` elements, widened to f32. Widening is exact for f16 and bf16.
    ///
    /// # Errors
    /// When the tensor is missing, has another shape, or is not f32, f16 or bf16.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, OracleError> {
        self.tensor(name, &[len], &|_| ())
    }

    /// One row-major (`n_out`, `n_in`) matrix, widened to f32 and then rounded as `rounding` says.
    ///
    /// # Errors
    /// As [`Weights::vector`].
    pub fn matrix(
        &self,
        name: &str,
        [n_out, n_in]: [usize; 2],
        rounding: &dyn Rounding,
    ) -> Result<Vec<f32>, OracleError> {
        self.tensor(name, &[n_out, n_in], &|rows| rounding.weights(name, rows, n_in))
    }

    /// One tensor of exactly this shape, row-major, widened to f32; `finish` is shown each row once.
    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        finish: &(dyn Fn(&mut [f32]) + Sync),
    ) -> Result<Vec<f32>, OracleError> {
        let Some(&shard_idx) = self.place.get(name) else {
            let file = self.shards.first().map(|shard| shard.file.clone()).unwrap_or_default();
            return Err(OracleError::Weights { file, tensor: name.to_owned(), why: "missing".to_owned() });
        };
        let shard = &self.shards[shard_idx];
        let tensors = shard.tensors()?;
        let view = tensors.tensor(name).map_err(|error| shard.error(name, &error.to_string()))?;
        if view.shape() != shape {
            return Err(shard.error(name, &format!("has shape {:?}, expected {shape:?}", view.shape())));
        }
        let width = shape[shape.len() - 1];
        let (data, dtype) = (view.data(), view.dtype());
        let size = match dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            other => {
                return Err(shard.error(name, &format!("has dtype {other:?}, expected F32, F16 or BF16")));
            }
        };
        let mut elements = vec![0.0; data.len() / size];
        let n_elements = elements.len();
        fill_rows(&mut elements, width, n_elements, |first, rows| {
            let bytes = &data[first * width * size..][..rows.len() * size];
            match dtype {
                Dtype::F32 => widen(bytes, rows, f32::from_le_bytes),
                Dtype::F16 => widen(bytes, rows, |bytes| f16::from_le_bytes(bytes).to_f32()),
                _ => widen(bytes, rows, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            }
            finish(rows);
        });
        Ok(elements)
    }
}

impl Shard {
    fn tensors(&self) -> Result<SafeTensors<'_>, OracleError> {
        SafeTensors::deserialize(&self.bytes).map_err(|error| self.error("header", &error.to_string()))
    }

    fn error(&self, tensor: &str, why: &str) -> OracleError {
        OracleError::Weights { file: self.file.clone(), tensor: tensor.to_owned(), why: why.to_owned() }
    }
}

/// Little-endian elements of `N` bytes each, as f32.
fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], element: impl Fn([u8; N]) -> f32) {
    out.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(out, bytes)| *out = element(*bytes));
}

/// The weight files of a folder, each once, in the order of their names.
fn shard_files(folder: &Path) -> Result<Vec<PathBuf>, OracleError> {
    let single = folder.join("model.safetensors");
    let file = folder.join("model.safetensors.index.json");
    if single.exists() || !file.exists() {
        return Ok(vec![single]);
    }
    let text = std::fs::read(&file).map_err(|source| OracleError::Read { file: file.clone(), source })?;
    let index: Value =
        serde_json::from_slice(&text).map_err(|source| OracleError::Json { file: file.clone(), source })?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let error = |tensor: &str, why: &str| OracleError::Weights {
        file: file.clone(),
        tensor: tensor.to_owned(),
        why: why.to_owned(),
    };
    let map = map.ok_or_else(|| error("weight_map", "missing, or not an object"))?;
    let mut files = BTreeMap::new();
    for (tensor, shard) in map {
        let name =
            shard.as_str().filter(|name| !name.contains(['/', '\\']) && name.ends_with(".safetensors"));
        let name =
            name.ok_or_else(|| error(tensor, "expected the name of a .safetensors file in this folder"))?;
        files.insert(name.to_owned(), folder.join(name));
    }
    Ok(files.into_values().collect())
}

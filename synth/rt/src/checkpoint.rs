//! Weights as a user has them on disk: one safetensors file, or shards and their index, memory-mapped.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io,
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::Arc,
};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use memmap2::{Advice, Mmap};
use safetensors::{Dtype, SafeTensors};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
/// An index names each tensor once; the largest published ones are below 2 MiB.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file could not be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither a single file nor an index is in the folder.
    #[error("{}: holds neither {SINGLE_FILE} nor {INDEX_FILE}; give the folder of a model in Hugging Face format", dir.display())]
    Empty {
        /// The folder.
        dir: PathBuf,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No file holds the tensor.
    #[error("{}: tensor {name} is missing; the build expects it", dir.display())]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// The tensor.
        name: String,
    },
    /// The tensor is there with another shape or an element type that is not a float this build reads.
    #[error("{}: tensor {name}: expected {expected}, found {found}", file.display())]
    Mismatch {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// What the build asks for.
        expected: String,
        /// What the file holds.
        found: String,
    },
}

/// The tensors of one model folder. Dropping it keeps the maps that a [`Matrix`] still borrows.
pub struct Checkpoint {
    dir: PathBuf,
    tensors: HashMap<String, Tensor>,
}

struct Tensor {
    shard: Arc<Shard>,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
}

impl Checkpoint {
    /// Maps the weights in `dir`: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// Headers are read and checked here, the weights themselves when they are first touched.
    pub fn open(dir: impl AsRef<Path>) -> Result<Checkpoint, CheckpointError> {
        let dir = dir.as_ref().to_owned();
        let (single, index) = (dir.join(SINGLE_FILE), dir.join(INDEX_FILE));
        let mut tensors = HashMap::new();
        if single.is_file() {
            read_shard(&single, &mut tensors)?;
        } else if index.is_file() {
            let placement = read_index(&index)?;
            for file in placement.values().collect::<BTreeSet<_>>() {
                read_shard(&dir.join(file), &mut tensors)?;
            }
            for (name, file) in &placement {
                let found = tensors.get(name).map(|tensor| tensor.shard.path.as_path());
                if found != Some(dir.join(file).as_path()) {
                    let reason = format!("places tensor {name} in {file}, which does not hold it");
                    return Err(CheckpointError::Malformed { file: index, reason });
                }
            }
        } else {
            return Err(CheckpointError::Empty { dir });
        }
        Ok(Checkpoint { dir, tensors })
    }

    /// The tensor `name` as a row-major `(rows, cols)` matrix of `T`.
    ///
    /// The matrix borrows the map when the file stores `T`; otherwise it is converted into memory of its own
    /// (to `f32` exactly, to `bf16` by rounding to nearest, ties to even).
    pub fn matrix<T: Element>(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix<T>, CheckpointError> {
        let tensor = self.tensor(name, &[rows, cols])?;
        let bytes = &tensor.shard.map[tensor.bytes.clone()];
        let borrows = tensor.dtype == T::DTYPE && bytemuck::try_cast_slice::<u8, T>(bytes).is_ok();
        let storage = if borrows {
            Storage::Mapped { shard: tensor.shard.clone(), bytes: tensor.bytes.clone() }
        } else {
            Storage::Owned(convert(tensor, name)?.into())
        };
        Ok(Matrix { storage, rows, cols })
    }

    /// The tensor `name` as `len` values of `f32`: norms and biases, which are small.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
        convert(self.tensor(name, &[len])?, name)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<&Tensor, CheckpointError> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| CheckpointError::Missing { dir: self.dir.clone(), name: name.to_owned() })?;
        if tensor.shape != shape {
            return Err(tensor.mismatch(
                name,
                format!("shape {shape:?}"),
                format!("shape {:?}", tensor.shape),
            ));
        }
        Ok(tensor)
    }
}

impl Tensor {
    fn mismatch(&self, name: &str, expected: String, found: String) -> CheckpointError {
        CheckpointError::Mismatch { file: self.shard.path.clone(), name: name.to_owned(), expected, found }
    }
}

/// An element type that a matrix can have: `f32` or `bf16`.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Its name in a safetensors header.
    const DTYPE: Dtype;
    /// Converts `f16` values.
    fn from_f16(values: &[f16], out: &mut [Self]);
    /// Converts `bf16` values.
    fn from_bf16(values: &[bf16], out: &mut [Self]);
    /// Converts `f32` values.
    fn from_f32(values: &[f32], out: &mut [Self]);
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;

    fn from_f16(values: &[f16], out: &mut [f32]) {
        values.convert_to_f32_slice(out);
    }

    fn from_bf16(values: &[bf16], out: &mut [f32]) {
        values.convert_to_f32_slice(out);
    }

    fn from_f32(values: &[f32], out: &mut [f32]) {
        out.copy_from_slice(values);
    }
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::BF16;

    fn from_f16(values: &[f16], out: &mut [bf16]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = bf16::from_f32(value.to_f32());
        }
    }

    fn from_bf16(values: &[bf16], out: &mut [bf16]) {
        out.copy_from_slice(values);
    }

    fn from_f32(values: &[f32], out: &mut [bf16]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = bf16::from_f32(*value);
        }
    }
}

/// A row-major `(rows, cols)` weight matrix. Cloning is cheap: clones share the storage, as a tied head does.
#[derive(Clone)]
pub struct Matrix<T> {
    storage: Storage<T>,
    rows: usize,
    cols: usize,
}

#[derive(Clone)]
enum Storage<T> {
    Mapped { shard: Arc<Shard>, bytes: Range<usize> },
    Owned(Arc<[T]>),
}

impl<T: Element> Matrix<T> {
    /// Number of rows: the outputs of a projection.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: the inputs of a projection.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// One row; panics when `row_idx` is not below [`Matrix::rows`].
    pub fn row(&self, row_idx: usize) -> &[T] {
        &self[row_idx * self.cols..(row_idx + 1) * self.cols]
    }
}

impl<T: Element> Deref for Matrix<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.storage {
            // `Checkpoint::matrix` maps only ranges that this cast accepts, so it cannot fail.
            Storage::Mapped { shard, bytes } => bytemuck::cast_slice(&shard.map[bytes.clone()]),
            Storage::Owned(values) => values,
        }
    }
}

/// Maps one file and adds its tensors to `tensors`.
fn read_shard(path: &Path, tensors: &mut HashMap<String, Tensor>) -> Result<(), CheckpointError> {
    let io = |source| CheckpointError::Io { file: path.to_owned(), source };
    let malformed = |reason: String| CheckpointError::Malformed { file: path.to_owned(), reason };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the map is read-only and private. That nobody truncates a model's files while it is served is
    // the one thing no process can check; weights are installed by replacing files, not by rewriting them.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    map.advise(Advice::WillNeed).map_err(io)?;
    let (header_len, metadata) = SafeTensors::read_metadata(&map)
        .map_err(|error| malformed(format!("is not a whole safetensors file: {error}")))?;
    // `read_metadata` has checked that the tensors tile the rest of the file exactly.
    let data_start = 8 + header_len;
    let shard = Arc::new(Shard { path: path.to_owned(), map });
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let bytes = data_start + start..data_start + end;
        let tensor = Tensor { shard: shard.clone(), dtype: info.dtype, shape: info.shape.clone(), bytes };
        if let Some(other) = tensors.insert(name.clone(), tensor) {
            return Err(malformed(format!("tensor {name} is also in {}", other.shard.path.display())));
        }
    }
    Ok(())
}

/// Reads which shard holds which tensor.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let io = |source| CheckpointError::Io { file: path.to_owned(), source };
    let malformed = |reason: String| CheckpointError::Malformed { file: path.to_owned(), reason };
    let size = path.metadata().map_err(io)?.len();
    if size > MAX_INDEX_BYTES {
        return Err(malformed(format!(
            "has {size} bytes, more than the {MAX_INDEX_BYTES} an index may have"
        )));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    for (name, file) in &index.weight_map {
        // A shard lies beside its index: a path that leaves the folder is never followed.
        if Path::new(file).file_name() != Some(file.as_ref()) {
            return Err(malformed(format!(
                "places tensor {name} in {file:?}, which is not a plain file name"
            )));
        }
    }
    Ok(index.weight_map)
}

/// Converts a whole tensor into owned memory, on all cores when it is large.
fn convert<T: Element>(tensor: &Tensor, name: &str) -> Result<Vec<T>, CheckpointError> {
    let bytes = &tensor.shard.map[tensor.bytes.clone()];
    let values = match tensor.dtype {
        Dtype::F32 => convert_from(bytes, T::from_f32),
        Dtype::F16 => convert_from(bytes, T::from_f16),
        Dtype::BF16 => convert_from(bytes, T::from_bf16),
        other => return Err(tensor.mismatch(name, "F32, F16 or BF16".to_owned(), format!("{other:?}"))),
    };
    Ok(values)
}

fn convert_from<S: bytemuck::Pod, T: Element>(bytes: &[u8], convert: fn(&[S], &mut [T])) -> Vec<T> {
    const CHUNK: usize = 1 << 20;
    let n_values = bytes.len() / size_of::<S>();
    let mut out = vec![T::zeroed(); n_values];
    let n_threads = match n_values / CHUNK {
        0 => 1,
        n_chunks => n_chunks.min(std::thread::available_parallelism().map_or(1, usize::from)),
    };
    let share = n_values.div_ceil(n_threads).max(1);
    std::thread::scope(|scope| {
        for (bytes, out) in bytes.chunks(share * size_of::<S>()).zip(out.chunks_mut(share)) {
            let mut work = move || {
                let mut aligned = vec![S::zeroed(); out.len().min(CHUNK)];
                let chunks = bytes.chunks(CHUNK * size_of::<S>()).zip(out.chunks_mut(CHUNK));
                for (bytes, out) in chunks {
                    // A file may place a tensor at any byte, so the values pass through an aligned buffer.
                    let values = &mut aligned[..out.len()];
                    bytemuck::cast_slice_mut(values).copy_from_slice(bytes);
                    convert(values, out);
                }
            };
            if n_threads == 1 {
                work();
            } else {
                scope.spawn(work);
            }
        }
    });
    out
}

#[cfg(test)]
mod tests;

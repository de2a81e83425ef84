//! Weight images: made from a checkpoint by a recipe, hashed, and made anew whenever anything they depend on changed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use half::bf16;
use sha2::{Digest, Sha256};
use synth::hex;
use synth::image::{
    ALIGNMENT, Entry, Header, Layout, MAGIC, PANEL, Recipe, TILE_BYTES, TILE_CELLS, TILE_COLUMNS, Tensor,
};
use synth::model::{Model, ModelErrors, TensorFact};

use crate::checkpoint::load;
use crate::quantise::{INT4, INT8};

/// What an image holds beside its tensors: names and bytes.
pub type Files<'a> = &'a [(&'a str, &'a [u8])];

/// Most bytes of a tensor that are made at a time.
const BAND_BYTES: usize = 16 << 20;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The model cannot be hashed.
    #[error(transparent)]
    Model(#[from] ModelErrors),
    /// The recipe names a tensor that the checkpoint does not hold, or not in this shape.
    #[error("{}: has no tensor {name} of {rows} by {cols}", folder.display())]
    Tensor {
        /// The model folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
        /// Rows asked for.
        rows: usize,
        /// Elements of a row asked for.
        cols: usize,
    },
}

/// Whether an image was there, or had to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// The one that was there holds what it should, byte for byte.
    Stands,
    /// There was none, or another.
    Made,
}

/// Sees to it that `path` holds the image of `model` by `recipe`, with `files` at its end: reads what is there to its last byte, and makes it anew
/// unless all of it is as it should be. `progress` is told how far it is, in bytes.
///
/// # Errors
/// When a file cannot be read or written, or the checkpoint lacks a tensor.
pub fn ensure(
    model: &Model,
    recipe: &Recipe,
    files: Files<'_>,
    path: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<Image, ImageError> {
    let weights = &model.digests()?.weights;
    let stands = read_header(path).is_some_and(|(header, start)| {
        header.weights == *weights
            && header.recipe == recipe.digest()
            && files.iter().all(|(name, bytes)| holds(path, &header, start, name, bytes))
            && content(path, start).is_ok_and(|content| content == header.content)
    });
    if stands {
        return Ok(Image::Stands);
    }
    write(model, recipe, files, path, progress)?;
    Ok(Image::Made)
}

/// Whether the bytes of an image are the ones that its header names.
#[must_use]
pub fn is_whole(path: &Path) -> bool {
    read_header(path)
        .is_some_and(|(header, start)| content(path, start).is_ok_and(|content| content == header.content))
}

/// Where a tensor of an image begins in the file.
#[must_use]
pub fn begin(path: &Path, tensor: &str) -> Option<u64> {
    let (header, start) = read_header(path)?;
    header.entries.iter().find(|entry| entry.name == tensor).map(|entry| start + entry.offset)
}

/// Whether an image holds these bytes under this name.
fn holds(path: &Path, header: &Header, start: u64, name: &str, bytes: &[u8]) -> bool {
    let is_named = |entry: &&Entry| entry.name == name && entry.len == bytes.len() as u64;
    let Some(entry) = header.entries.iter().find(is_named) else { return false };
    let mut found = vec![0; bytes.len()];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut found, start + entry.offset));
    read.is_ok() && found == bytes
}

/// The header of an image and where what follows it begins, if the file begins like one.
fn read_header(path: &Path) -> Option<(Header, u64)> {
    let mut file = File::open(path).ok()?;
    let mut head = [0; 16];
    file.read_exact(&mut head).ok()?;
    let (magic, len) = head.split_at(MAGIC.len());
    let len = u64::from_le_bytes(len.try_into().ok()?);
    let file_len = file.metadata().ok()?.len();
    if magic != MAGIC || len > file_len {
        return None;
    }
    let mut header = vec![0; len as usize];
    file.read_exact(&mut header).ok()?;
    Some((serde_json::from_slice(&header).ok()?, content_start(header.len())))
}

/// SHA-256 of a file from `start` on, in hex.
fn content(path: &Path, start: u64) -> io::Result<String> {
    let file = File::open(path)?;
    let (mut sha, mut buffer, mut at) = (Sha256::new(), vec![0; 1 << 20], start);
    loop {
        let n = file.read_at(&mut buffer, at)?;
        if n == 0 {
            return Ok(hex(&sha.finalize()));
        }
        sha.update(&buffer[..n]);
        at += n as u64;
    }
}

/// Writes the image beside its place, then puts it there: what reads the old one goes on reading it.
fn write(
    model: &Model,
    recipe: &Recipe,
    files: Files<'_>,
    path: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<(), ImageError> {
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| ImageError::File { path, source }
    };
    let checkpoint = Checkpoint::open(model)?;
    let mut header = header(model, recipe, files)?;
    let total = header.entries.last().map_or(0, |entry| entry.offset + entry.len);
    let partial = path.with_extension("partial");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(file_error(folder))?;
    }
    let file = File::create(&partial).map_err(file_error(&partial))?;
    let start = content_start(json(&header).len());
    let mut out = Hashed { file, start, sha: Sha256::new(), at: 0 };
    let tensors = recipe.tensors.iter().map(Piece::Tensor);
    let pieces = tensors.chain(files.iter().map(|(_, bytes)| Piece::File(bytes)));
    for (entry, piece) in header.entries.iter().zip(pieces) {
        out.pad_to(entry.offset).map_err(file_error(&partial))?;
        match piece {
            Piece::File(bytes) => out.write(bytes).map_err(file_error(&partial))?,
            Piece::Tensor(tensor) => {
                let sources = checkpoint.sources(tensor)?;
                for band in bands(tensor) {
                    let bytes = lay_out(tensor, &sources, band).map_err(file_error(&model.folder))?;
                    out.write(&bytes).map_err(file_error(&partial))?;
                    progress(out.at, total);
                }
            }
        }
    }
    header.content = hex(&out.sha.finalize());
    let header = json(&header);
    let head = [&MAGIC, (header.len() as u64).to_le_bytes().as_slice(), &header].concat();
    out.file.write_all_at(&head, 0).map_err(file_error(&partial))?;
    out.file.sync_all().map_err(file_error(&partial))?;
    fs::rename(&partial, path).map_err(file_error(path))
}

enum Piece<'a> {
    Tensor(&'a Tensor),
    File(&'a [u8]),
}

/// A file that is hashed as it is written.
struct Hashed {
    file: File,
    /// Where what is hashed begins in the file.
    start: u64,
    sha: Sha256,
    at: u64,
}

impl Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.start + self.at)?;
        self.sha.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        self.write(&vec![0; (offset - self.at) as usize])
    }
}

/// The header with everything but the hash of the content, in whose place stand as many zeros.
fn header(model: &Model, recipe: &Recipe, files: Files<'_>) -> Result<Header, ImageError> {
    let mut at = 0;
    let mut entry = |name: &str, layout, rows, cols, len: usize| {
        let offset = at;
        at = (offset + len as u64).next_multiple_of(ALIGNMENT as u64);
        Entry { name: name.to_owned(), layout, rows, cols, offset, len: len as u64 }
    };
    let mut entries = Vec::new();
    for tensor in &recipe.tensors {
        let (rows, cols) = match tensor.layout {
            Layout::F32Plain => (1, tensor.rows() * tensor.cols),
            _ => (tensor.rows(), tensor.cols),
        };
        entries.push(entry(&tensor.name, Some(tensor.layout.name()), rows, cols, tensor.bytes()));
    }
    for (name, bytes) in files {
        entries.push(entry(name, None, 1, bytes.len(), bytes.len()));
    }
    let weights = model.digests()?.weights.clone();
    Ok(Header { weights, recipe: recipe.digest(), content: hex(&[0; 32]), entries })
}

fn json(header: &Header) -> Vec<u8> {
    serde_json::to_vec(header).expect("a header is plain data")
}

/// Where what follows a header of `len` bytes begins.
fn content_start(len: usize) -> u64 {
    (MAGIC.len() + size_of::<u64>() + len).next_multiple_of(ALIGNMENT) as u64
}

// ---- from the checkpoint
// -----------------------------------------------------------------------------------------------------

/// The weight files of a model folder.
struct Checkpoint<'a> {
    model: &'a Model,
    files: Vec<File>,
}

/// One tensor of the checkpoint: the file it is in, and where.
type Source<'a> = (&'a File, &'a TensorFact);

impl<'a> Checkpoint<'a> {
    fn open(model: &'a Model) -> Result<Self, ImageError> {
        let open = |name: &String| {
            let path = model.folder.join(name);
            File::open(&path).map_err(|source| ImageError::File { path, source })
        };
        let files = model.weights.iter().map(|shard| open(&shard.name)).collect::<Result<_, _>>()?;
        Ok(Self { model, files })
    }

    /// What a tensor of the image is made of.
    fn sources(&self, tensor: &Tensor) -> Result<Vec<Source<'_>>, ImageError> {
        let source = |name: &str, rows: usize| {
            let shards = self.files.iter().zip(&self.model.weights);
            let mut all = shards.flat_map(|(file, shard)| shard.tensors.iter().map(move |fact| (file, fact)));
            let n_elements = rows * tensor.cols;
            let found =
                all.find(|(_, fact)| fact.name == name && fact.shape.iter().product::<usize>() == n_elements);
            found.ok_or_else(|| ImageError::Tensor {
                folder: self.model.folder.clone(),
                name: name.to_owned(),
                rows,
                cols: tensor.cols,
            })
        };
        tensor.sources.iter().map(|it| source(&it.name, it.rows)).collect()
    }
}

// ---- into the image
// ----------------------------------------------------------------------------------------------------------

/// A tensor's rows in pieces that fit into memory many times, whole panels each.
fn bands(tensor: &Tensor) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
    let rows = tensor.rows();
    let row_bytes = (tensor.bytes() / rows.max(1)).max(1);
    let len = (BAND_BYTES / row_bytes).next_multiple_of(PANEL).max(PANEL);
    (0..rows).step_by(len).map(move |start| start..rows.min(start + len))
}

/// The bytes of some rows of a tensor: the rows of each panel on some thread.
fn lay_out(tensor: &Tensor, sources: &[Source<'_>], band: std::ops::Range<usize>) -> io::Result<Vec<u8>> {
    let is_in_panels = tensor.layout.is_in_panels();
    let padded = if is_in_panels { band.len().next_multiple_of(PANEL) } else { band.len() };
    let mut bytes = vec![0; tensor.layout.bytes(padded, tensor.cols)];
    if padded == 0 || bytes.is_empty() {
        return Ok(bytes);
    }
    let n_threads = thread::available_parallelism().map_or(1, usize::from);
    let group = if is_in_panels { PANEL } else { 1 };
    let share = (padded / group).div_ceil(n_threads) * group;
    let share_bytes = bytes.len() / padded * share;
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (start, bytes) in band.clone().step_by(share).zip(bytes.chunks_mut(share_bytes)) {
            let rows = start..band.end.min(start + share);
            threads.push(scope.spawn(move || lay_out_rows(tensor, sources, rows, bytes)));
        }
        threads.into_iter().try_for_each(|thread| thread.join().expect("laying out does not panic"))
    })?;
    Ok(bytes)
}

/// Lays out `rows`, the first of which begins `bytes`.
fn lay_out_rows(
    tensor: &Tensor,
    sources: &[Source<'_>],
    rows: std::ops::Range<usize>,
    bytes: &mut [u8],
) -> io::Result<()> {
    for row in rows.clone() {
        if let Some((source, inner)) = tensor.origin(row) {
            let (file, fact) = sources[source];
            let values = load(file, fact, inner * tensor.cols..(inner + 1) * tensor.cols)?;
            put(tensor.layout, row - rows.start, &values, bytes);
        }
    }
    Ok(())
}

/// A matrix of rows of one length, as an image holds it.
#[must_use]
pub fn laid_out(layout: Layout, rows: &[Vec<f32>]) -> Vec<u8> {
    let cols = rows.first().map_or(0, Vec::len);
    let mut bytes = vec![0; layout.bytes(rows.len(), cols)];
    rows.iter().enumerate().for_each(|(row, values)| put(layout, row, values, &mut bytes));
    bytes
}

/// Writes one row to its place in a tensor, whose row 0 begins `bytes` and a panel.
fn put(layout: Layout, row: usize, values: &[f32], bytes: &mut [u8]) {
    let unit_bytes = layout.unit_bytes(values.len());
    let unit = if layout.is_in_panels() { row / PANEL } else { row };
    let (bytes, column) = (&mut bytes[unit * unit_bytes..][..unit_bytes], row % PANEL);
    match layout {
        Layout::F32Plain | Layout::F32Rows => {
            for (bytes, value) in bytes.chunks_exact_mut(4).zip(values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
        Layout::Bf16Rows => {
            for (bytes, value) in bytes.chunks_exact_mut(2).zip(values) {
                bytes.copy_from_slice(&bf16::from_f32(*value).to_le_bytes());
            }
        }
        Layout::F32Panels => {
            for (cell, value) in values.iter().enumerate() {
                bytes[place_in_tile(cell, column)..][..4].copy_from_slice(&value.to_le_bytes());
            }
        }
        Layout::Bf16Panels => {
            for (k, value) in values.iter().enumerate() {
                let at = place_in_tile(k / 2, column) + k % 2 * 2;
                bytes[at..][..2].copy_from_slice(&bf16::from_f32(*value).to_le_bytes());
            }
        }
        Layout::Int8Panels(group) => {
            for (bytes, values) in bytes.chunks_mut(PANEL * (group + 4)).zip(values.chunks(group)) {
                let (codes, scales) = bytes.split_at_mut(bytes.len() - 4 * PANEL);
                let scale = INT8.scale(values);
                scales[4 * column..][..4].copy_from_slice(&scale.to_le_bytes());
                for (k, value) in values.iter().enumerate() {
                    codes[place_in_lines(k / 4, column) + k % 4] = INT8.code(*value, scale) as i8 as u8;
                }
            }
        }
        Layout::Int4Panels(group) => {
            for (bytes, values) in bytes.chunks_mut(PANEL * (group / 2 + 2)).zip(values.chunks(group)) {
                let (codes, scales) = bytes.split_at_mut(bytes.len() - 2 * PANEL);
                let scale = INT4.scale(values);
                // The kernels read a code in the upper half of a byte, where it counts sixteenfold.
                scales[2 * column..][..2].copy_from_slice(&bf16::from_f32(scale / 16.0).to_le_bytes());
                for (k, value) in values.iter().enumerate() {
                    let code = INT4.code(*value, scale) as i8 as u8 & 0xF;
                    codes[place_in_lines(k / 8, column) + k % 4] |= code << (k % 8 / 4 * 4);
                }
            }
        }
    }
}

/// Where a cell of a column of a panel of tiles begins.
fn place_in_tile(cell: usize, column: usize) -> usize {
    let tile = cell / TILE_CELLS * 2 + column / TILE_COLUMNS;
    tile * TILE_BYTES + (cell % TILE_CELLS * TILE_COLUMNS + column % TILE_COLUMNS) * 4
}

/// Where a cell of a column of a group of codes begins.
fn place_in_lines(cell: usize, column: usize) -> usize {
    (cell * PANEL + column) * 4
}

#[cfg(test)]
mod tests;

//! The weight image: what synthesis made of the checkpoint for the kernels of one crate, memory-mapped.
//!
//! Nothing is converted here and nothing is copied but norms: a [`Panels`] is the file's bytes as the kernels read them.
//! Synthesis writes the image and hashes what it wrote; a server checks that the image is the one it was built for, and
//! whole.

use std::{
    collections::HashMap,
    fs::File,
    io,
    marker::PhantomData,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use half::bf16;
use memmap2::{Advice, Mmap};
use serde::Deserialize;

/// Begins every image: its kind, and the version of the layout that this library reads.
const MAGIC: [u8; 8] = *b"SAVILE\x00\x02";
/// Most bytes of a header: the largest models have some thousand tensors.
const MAX_HEADER_BYTES: u64 = 16 << 20;
/// What follows the header, and every tensor in it, begins at a multiple of this: the size of a page.
const ALIGNMENT: usize = 4096;
/// Output columns of a panel.
pub const PANEL: usize = 32;
/// Output columns of a tile.
const TILE_COLUMNS: usize = 16;
/// Cells of a column in a tile.
const TILE_CELLS: usize = 16;
/// Bytes of a cell: what a tile holds of one column next to each other along K.
const CELL_BYTES: usize = 4;
/// Bytes of a tile.
const TILE_BYTES: usize = TILE_CELLS * TILE_COLUMNS * CELL_BYTES;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be read.
    #[error("{}: {source}; `cargo xtask synth` makes it, and --weights says where it is", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no image, or not a whole one.
    #[error("{}: {reason}; `cargo xtask synth` makes it anew", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is the image of another model, or for other kernels.
    #[error("{}: holds {what} {found}, this binary was built for {expected}; `cargo xtask synth` makes it anew", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// What differs.
        what: &'static str,
        /// The binary's digest.
        expected: String,
        /// The image's digest.
        found: String,
    },
    /// It does not hold a tensor as the build reads it.
    #[error("{}: {name}: expected {expected}, found {found}", file.display())]
    Mismatch {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// What the build asks for.
        expected: String,
        /// What the image holds.
        found: String,
    },
}

/// What an image must be of.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Digest of the checkpoint's weight files.
    pub weights: &'static str,
    /// Digest of the recipe: which tensors, and how they lie.
    pub recipe: &'static str,
}

/// An open image. Dropping it keeps the map that its [`Panels`] still borrow.
pub struct Image {
    path: PathBuf,
    map: Arc<Mmap>,
    /// Where what follows the header begins.
    content: usize,
    entries: HashMap<String, Entry>,
}

#[derive(Deserialize)]
struct Header {
    weights: String,
    recipe: String,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    layout: Option<String>,
    rows: usize,
    cols: usize,
    offset: u64,
    len: u64,
}

impl Entry {
    /// Where it lies in a file of `len` bytes whose content begins at `content`; `None` where that is outside.
    fn bytes(&self, content: usize, len: usize) -> Option<Range<usize>> {
        let start = self.offset.checked_add(content as u64)?;
        let end = start.checked_add(self.len)?;
        (end <= len as u64).then_some(start as usize..end as usize)
    }

    fn describe(&self) -> String {
        format!("{} ({}, {})", self.layout.as_deref().unwrap_or("file"), self.rows, self.cols)
    }
}

impl Image {
    /// Maps an image.
    ///
    /// # Errors
    /// When the file is no whole image, or one of another model or for other kernels.
    pub fn open(path: impl AsRef<Path>, expected: Expected) -> Result<Image, ImageError> {
        let path = path.as_ref().to_owned();
        let io = |source| ImageError::Io { file: path.clone(), source };
        let malformed =
            |reason: &str| ImageError::Malformed { file: path.clone(), reason: reason.to_owned() };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the map is read-only and private. That nobody truncates an image while it is served is the one thing
        // no process can check; synthesis replaces images whole and never writes into one.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (magic, rest) = map.split_first_chunk::<8>().ok_or_else(|| malformed("is no weight image"))?;
        if *magic != MAGIC {
            return Err(malformed("is no weight image of this version"));
        }
        let (len, rest) = rest.split_first_chunk::<8>().ok_or_else(|| malformed("ends within its header"))?;
        let len = u64::from_le_bytes(*len);
        let header = (len <= MAX_HEADER_BYTES).then(|| rest.get(..len as usize)).flatten();
        let header = header.ok_or_else(|| malformed("ends within its header"))?;
        let header: Header = serde_json::from_slice(header)
            .map_err(|error| malformed(&format!("has no valid header: {error}")))?;
        for (what, expected, found) in
            [("weights", expected.weights, &header.weights), ("a layout", expected.recipe, &header.recipe)]
        {
            if expected != found {
                let (expected, found) = (expected.to_owned(), found.clone());
                return Err(ImageError::Foreign { file: path, what, expected, found });
            }
        }
        let content = (MAGIC.len() + size_of::<u64>() + len as usize).next_multiple_of(ALIGNMENT);
        for entry in &header.entries {
            if entry.bytes(content, map.len()).is_none() {
                return Err(malformed(&format!("ends within {}", entry.name)));
            }
        }
        let entries = header.entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        Ok(Image { path, map: Arc::new(map), content, entries })
    }

    /// Has all pages ready: `n_threads` threads look them up at once, which takes milliseconds where the system holds the
    /// file in memory, and reads what it does not.
    pub fn populate(&self, n_threads: usize) {
        let share = self.map.len().div_ceil(n_threads.max(1)).next_multiple_of(1 << 21);
        thread::scope(|scope| {
            for start in (0..self.map.len()).step_by(share.max(1)) {
                let len = share.min(self.map.len() - start);
                // Systems that cannot look pages up ahead do it when they are touched.
                scope.spawn(move || self.map.advise_range(Advice::PopulateRead, start, len).ok());
            }
        });
    }

    /// The matrix `name` of (rows, cols), in panels.
    ///
    /// # Errors
    /// When there is none of this name, shape and element.
    pub fn panels<W: Packed>(&self, name: &str, rows: usize, cols: usize) -> Result<Panels<W>, ImageError> {
        let panel_bytes = W::panel_bytes(cols);
        let len = rows.div_ceil(PANEL) * panel_bytes;
        let bytes = self.find(name, &format!("{}_panels", W::name()), (rows, cols), len)?;
        Ok(Panels { map: self.map.clone(), bytes, rows, cols, panel_bytes, weight: PhantomData })
    }

    /// The matrix `name` of (rows, cols), row after row.
    ///
    /// # Errors
    /// When there is none of this name, shape and element.
    pub fn rows<E: Element>(&self, name: &str, rows: usize, cols: usize) -> Result<Rows<E>, ImageError> {
        let bytes =
            self.find(name, &format!("{}_rows", E::NAME), (rows, cols), rows * cols * size_of::<E>())?;
        Ok(Rows { map: self.map.clone(), bytes, rows, cols, element: PhantomData })
    }

    /// The vector `name` of `len` values.
    ///
    /// # Errors
    /// When there is none of this name and length.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ImageError> {
        let bytes = self.find(name, "f32_plain", (1, len), len * size_of::<f32>())?;
        Ok(bytemuck::cast_slice(&self.map[bytes]).to_vec())
    }

    /// Where something lies that is no tensor, and the map that it lies in.
    ///
    /// # Errors
    /// When the image has nothing of this name.
    pub fn file(&self, name: &str) -> Result<(Arc<Mmap>, Range<usize>), ImageError> {
        let entry = self.entry(name, "a file")?;
        let bytes = entry.layout.is_none().then(|| entry.bytes(self.content, self.map.len())).flatten();
        let bytes = bytes.ok_or_else(|| self.mismatch(name, "a file", entry.describe()))?;
        Ok((self.map.clone(), bytes))
    }

    /// The image holds something, and it is not what was written.
    pub(crate) fn malformed(&self, reason: &str) -> ImageError {
        ImageError::Malformed { file: self.path.clone(), reason: reason.to_owned() }
    }

    fn entry(&self, name: &str, expected: &str) -> Result<&Entry, ImageError> {
        self.entries.get(name).ok_or_else(|| self.mismatch(name, expected, "nothing".to_owned()))
    }

    fn mismatch(&self, name: &str, expected: &str, found: String) -> ImageError {
        let (name, expected) = (name.to_owned(), expected.to_owned());
        ImageError::Mismatch { file: self.path.clone(), name, expected, found }
    }

    /// Where a tensor of this layout and shape lies: `len` bytes, aligned.
    fn find(
        &self,
        name: &str,
        layout: &str,
        (rows, cols): (usize, usize),
        len: usize,
    ) -> Result<Range<usize>, ImageError> {
        let expected = format!("{layout} ({rows}, {cols})");
        let entry = self.entry(name, &expected)?;
        let bytes = entry.bytes(self.content, self.map.len()).unwrap_or_default();
        let is_as_asked = entry.layout.as_deref() == Some(layout)
            && (entry.rows, entry.cols) == (rows, cols)
            && bytes.len() == len
            && bytes.start.is_multiple_of(ALIGNMENT);
        is_as_asked.then_some(bytes).ok_or_else(|| self.mismatch(name, &expected, entry.describe()))
    }
}

/// A number that a weight is in an image.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Its name in an image's header.
    const NAME: &'static str;
    /// How many of them a cell holds.
    const DEPTH: usize = CELL_BYTES / size_of::<Self>();
}

impl Element for f32 {
    const NAME: &'static str = "f32";
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";
}

/// A weight as a code of eight bits, from −127 to 127: a whole number of scales. Every GROUP of them along K share an f32
/// scale.
pub struct Int8<const GROUP: usize>;

/// A weight as a code of four bits, from −8 to 7, two in a byte. Every GROUP of them along K share a bf16 scale. Read in
/// the upper half of a byte a code counts sixteenfold, so what is stored is a sixteenth of the scale.
pub struct Int4<const GROUP: usize>;

/// What a weight is in a panel.
pub trait Packed {
    /// Its name in an image's header.
    fn name() -> String;
    /// Bytes of a panel over `cols` values of K.
    fn panel_bytes(cols: usize) -> usize;
}

impl<E: Element> Packed for E {
    fn name() -> String {
        E::NAME.to_owned()
    }

    fn panel_bytes(cols: usize) -> usize {
        cols.div_ceil(E::DEPTH * TILE_CELLS) * 2 * TILE_BYTES
    }
}

impl<const GROUP: usize> Packed for Int8<GROUP> {
    fn name() -> String {
        format!("int8_{GROUP}")
    }

    fn panel_bytes(cols: usize) -> usize {
        PANEL * (code_depth(GROUP, cols) + size_of::<f32>() * cols.div_ceil(GROUP))
    }
}

impl<const GROUP: usize> Packed for Int4<GROUP> {
    fn name() -> String {
        format!("int4_{GROUP}")
    }

    fn panel_bytes(cols: usize) -> usize {
        PANEL * (code_depth(GROUP, cols) / 2 + size_of::<bf16>() * cols.div_ceil(GROUP))
    }
}

/// Codes along K, with those that fill up the last sixteen cells, or the last group where it is smaller.
fn code_depth(group: usize, cols: usize) -> usize {
    cols.next_multiple_of(group.min(CELL_BYTES * TILE_CELLS))
}

/// A weight matrix (rows, cols) in panels of 32 rows, which are the output columns of a product.
///
/// A panel of numbers is a run of tiles, the left and the right half of each stretch of K in turn. A tile is 16 cells along K
/// by 16 columns, cell by cell; a cell is four bytes of one column, along K. A panel of codes is a run of groups: cells
/// of all 32 columns, then their scales. Columns and K are filled up with zeros.
#[derive(Clone)]
pub struct Panels<W> {
    map: Arc<Mmap>,
    bytes: Range<usize>,
    rows: usize,
    cols: usize,
    panel_bytes: usize,
    weight: PhantomData<W>,
}

impl<W: Packed> Panels<W> {
    /// The matrix whose panels are some bytes of a map; nothing where they are not.
    pub fn of_map(map: &Arc<Mmap>, bytes: Range<usize>, rows: usize, cols: usize) -> Option<Self> {
        let panel_bytes = W::panel_bytes(cols);
        let is_all = bytes.len() == rows.div_ceil(PANEL) * panel_bytes && bytes.end <= map.len();
        is_all.then(|| Self { map: map.clone(), bytes, rows, cols, panel_bytes, weight: PhantomData })
    }

    /// Rows of the matrix: outputs of the product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many panels there are.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// The bytes of some panels, one panel after the other.
    #[inline]
    pub fn bytes(&self, panels: Range<usize>) -> &[u8] {
        &self.map[self.bytes.clone()][panels.start * self.panel_bytes..panels.end * self.panel_bytes]
    }
}

impl<E: Element> Panels<E> {
    /// The tiles of some panels, one panel after the other.
    #[inline]
    pub fn tiles(&self, panels: Range<usize>) -> &[E] {
        bytemuck::cast_slice(self.bytes(panels))
    }

    /// One row of the matrix, cell by cell along K. The last may hold zeros behind the row's end.
    pub fn row(&self, row: usize) -> impl Iterator<Item = &[E]> {
        let panel = self.tiles(row / PANEL..row / PANEL + 1);
        let (half, column) = (row % PANEL / TILE_COLUMNS, row % TILE_COLUMNS);
        let tile = TILE_BYTES / size_of::<E>();
        let tiles = panel.chunks_exact(tile).skip(half).step_by(2);
        let cells = tiles.flat_map(|tile| tile.chunks_exact(TILE_COLUMNS * E::DEPTH));
        cells
            .map(move |cells| &cells[column * E::DEPTH..(column + 1) * E::DEPTH])
            .take(self.cols.div_ceil(E::DEPTH))
    }
}

impl<const GROUP: usize> Panels<Int8<GROUP>> {
    /// A group of a panel: rows of cells, each four codes of 32 columns, and the scales of the columns.
    #[inline]
    pub fn group(&self, panel: usize, group: usize) -> (&[[i8; 4 * PANEL]], &[f32; PANEL]) {
        let (codes, scales) = self.split(panel, group, GROUP, size_of::<f32>());
        (bytemuck::cast_slice(codes), &bytemuck::cast_slice::<_, [f32; PANEL]>(scales)[0])
    }

    /// One row of the matrix.
    pub fn row(&self, row: usize) -> impl Iterator<Item = f32> {
        let (panel, column) = (row / PANEL, row % PANEL);
        let groups = (0..self.cols.div_ceil(GROUP)).map(move |group| self.group(panel, group));
        let values = groups.flat_map(move |(cells, scales)| {
            let codes = cells.iter().flat_map(move |cells| &cells[4 * column..4 * (column + 1)]);
            codes.map(move |code| f32::from(*code) * scales[column])
        });
        values.take(self.cols)
    }
}

impl<const GROUP: usize> Panels<Int4<GROUP>> {
    /// A group of a panel: rows of cells, each eight codes of 32 columns, and sixteenths of the scales of the columns.
    #[inline]
    pub fn group(&self, panel: usize, group: usize) -> (&[[u8; 4 * PANEL]], &[bf16; PANEL]) {
        let (codes, scales) = self.split(panel, group, GROUP / 2, size_of::<bf16>());
        (bytemuck::cast_slice(codes), &bytemuck::cast_slice::<_, [bf16; PANEL]>(scales)[0])
    }

    /// One row of the matrix.
    pub fn row(&self, row: usize) -> impl Iterator<Item = f32> {
        let (panel, column) = (row / PANEL, row % PANEL);
        let groups = (0..self.cols.div_ceil(GROUP)).map(move |group| self.group(panel, group));
        let values = groups.flat_map(move |(cells, scales)| {
            let bytes = cells.iter().map(move |cells| &cells[4 * column..4 * (column + 1)]);
            let lower = |byte: &u8| byte << 4;
            let codes = bytes.flat_map(move |bytes| bytes.iter().map(lower).chain(bytes.iter().copied()));
            codes.map(move |code| f32::from((code & 0xF0) as i8) * scales[column].to_f32())
        });
        values.take(self.cols)
    }
}

impl<W: Packed> Panels<W> {
    /// The codes and the scales of a group of a panel: `code_bytes` for each column, fewer in the last group, and
    /// `scale_bytes`.
    #[inline]
    fn split(&self, panel: usize, group: usize, code_bytes: usize, scale_bytes: usize) -> (&[u8], &[u8]) {
        let panel = self.bytes(panel..panel + 1);
        let group_bytes = PANEL * (code_bytes + scale_bytes);
        let start = group * group_bytes;
        let group = &panel[start..panel.len().min(start + group_bytes)];
        group.split_at(group.len() - PANEL * scale_bytes)
    }
}

/// A weight matrix (rows, cols), row after row.
#[derive(Clone)]
pub struct Rows<E> {
    map: Arc<Mmap>,
    bytes: Range<usize>,
    rows: usize,
    cols: usize,
    element: PhantomData<E>,
}

impl<E: Element> Rows<E> {
    /// One row; panics where there is none.
    pub fn row(&self, row: usize) -> &[E] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let values: &[E] = bytemuck::cast_slice(&self.map[self.bytes.clone()]);
        &values[row * self.cols..(row + 1) * self.cols]
    }
}

#[cfg(test)]
mod tests;

//! What a crate's weight image holds: its tensors in order, each with the checkpoint's tensors it is made of and the
//! layout that the kernels read.
//!
//! Matrices lie in *panels* of [`PANEL`] output columns, each a run of *tiles*: 16 columns by 16 cells of four bytes,
//! 1 KiB. A cell holds what follows each other along K, one f32 or two bf16, so a row of a tile is a cache line that
//! multiplies one broadcast cell of the other operand, and a whole tile is what AMX takes as its second operand. Of a
//! panel, the tiles of its left and its right half alternate: whatever computes it reads straight on.
//!
//! Codes of int8 and int4 lie in panels too, in cells of four bytes, cell by cell the left and the right half of the panel:
//! two cache lines. A byte is one code, or two: a cell of int4 holds its first four codes in the lower halves of its bytes
//! and the next four in the upper. Behind the cells of a group lie its scales, column by column.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hex;

/// The version of how weights become codes: the same recipe by another one is another image.
const ROUNDING: u32 = 2;

/// Output columns of a panel.
pub const PANEL: usize = 32;

/// Output columns of a tile: half a panel.
pub const TILE_COLUMNS: usize = 16;

/// Cells of four bytes that a tile holds along K for each column.
pub const TILE_CELLS: usize = 16;

/// Bytes of a tile.
pub const TILE_BYTES: usize = TILE_COLUMNS * TILE_CELLS * 4;

/// Begins every image: its kind, and the version of this layout.
pub const MAGIC: [u8; 8] = *b"SAVILE\x00\x02";

/// What follows the header, and every tensor in it, begins at a multiple of this: the size of a page.
pub const ALIGNMENT: usize = 4096;

/// How the elements of a tensor lie in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// f32, in the order of the checkpoint: norms and biases.
    F32Plain,
    /// f32, row after row: an embedding that is only looked up.
    F32Rows,
    /// bf16, row after row.
    Bf16Rows,
    /// Panels of f32.
    F32Panels,
    /// Panels of bf16.
    Bf16Panels,
    /// Panels of codes of eight bits, and an f32 scale of each column for every so many of them.
    Int8Panels(usize),
    /// Panels of codes of four bits, and a bf16 scale of each column for every so many of them.
    Int4Panels(usize),
}

impl Layout {
    /// Its name in the header of an image.
    pub fn name(self) -> String {
        match self {
            Self::F32Plain => "f32_plain".to_owned(),
            Self::F32Rows => "f32_rows".to_owned(),
            Self::Bf16Rows => "bf16_rows".to_owned(),
            Self::F32Panels => "f32_panels".to_owned(),
            Self::Bf16Panels => "bf16_panels".to_owned(),
            Self::Int8Panels(group) => format!("int8_{group}_panels"),
            Self::Int4Panels(group) => format!("int4_{group}_panels"),
        }
    }

    /// Whether rows lie in panels: else one after the other.
    pub fn is_in_panels(self) -> bool {
        match self {
            Self::F32Plain | Self::F32Rows | Self::Bf16Rows => false,
            Self::F32Panels | Self::Bf16Panels | Self::Int8Panels(_) | Self::Int4Panels(_) => true,
        }
    }

    /// Whether weights are held as codes.
    fn is_rounded(self) -> bool {
        matches!(self, Self::Int8Panels(_) | Self::Int4Panels(_))
    }

    /// Bytes of a panel of `cols` values of K, or of one row, with what fills them up.
    pub fn unit_bytes(self, cols: usize) -> usize {
        let tiles = |element_bytes: usize| cols.div_ceil(TILE_CELLS * 4 / element_bytes) * 2 * TILE_BYTES;
        match self {
            Self::F32Plain | Self::F32Rows => 4 * cols,
            Self::Bf16Rows => 2 * cols,
            Self::F32Panels => tiles(4),
            Self::Bf16Panels => tiles(2),
            Self::Int8Panels(group) => PANEL * (code_depth(group, cols) + 4 * cols.div_ceil(group)),
            Self::Int4Panels(group) => PANEL * (code_depth(group, cols) / 2 + 2 * cols.div_ceil(group)),
        }
    }

    /// Bytes of a tensor of `rows` by `cols` elements, with what fills its last panel.
    pub fn bytes(self, rows: usize, cols: usize) -> usize {
        if self.is_in_panels() {
            rows.div_ceil(PANEL) * self.unit_bytes(cols)
        } else {
            rows * self.unit_bytes(cols)
        }
    }
}

/// Codes along K, with those that fill up the last sixteen cells, or the last group where it is smaller.
fn code_depth(group: usize, cols: usize) -> usize {
    cols.next_multiple_of(group.min(TILE_CELLS * 4))
}

/// How several tensors of the checkpoint become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// One under the other.
    Stack,
    /// Sixteen rows of the first, then sixteen of the second, and so on: the halves of each panel.
    Halves,
}

/// One tensor of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the image.
    pub name: String,
    /// The checkpoint's tensors that it is made of, with the rows of each.
    pub sources: Vec<Source>,
    /// How they are joined.
    pub join: Join,
    /// Elements of a row.
    pub cols: usize,
    /// How it lies.
    pub layout: Layout,
}

/// A tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name there.
    pub name: String,
    /// Its rows; a vector has one.
    pub rows: usize,
}

impl Tensor {
    /// A matrix of (rows, cols) that is one tensor of the checkpoint.
    pub fn matrix(
        name: impl Into<String>,
        source: impl Into<String>,
        (rows, cols): (usize, usize),
        layout: Layout,
    ) -> Self {
        Self {
            name: name.into(),
            sources: vec![Source { name: source.into(), rows }],
            join: Join::Stack,
            cols,
            layout,
        }
    }

    /// Tensors that lie one under the other, each with its rows.
    pub fn stack(name: impl Into<String>, sources: Vec<Source>, cols: usize, layout: Layout) -> Self {
        Self { name: name.into(), sources, join: Join::Stack, cols, layout }
    }

    /// A vector of `len` elements.
    pub fn vector(name: impl Into<String>, source: impl Into<String>, len: usize) -> Self {
        Self::matrix(name, source, (1, len), Layout::F32Plain)
    }

    /// Its rows, those that fill half a panel included where halves are joined.
    pub fn rows(&self) -> usize {
        match self.join {
            Join::Stack => self.sources.iter().map(|source| source.rows).sum(),
            Join::Halves => {
                let longest = self.sources.iter().map(|source| source.rows).max().unwrap_or(0);
                self.sources.len() * longest.next_multiple_of(TILE_COLUMNS)
            }
        }
    }

    /// Which source's row, and which of its rows, is row `row` of this tensor; nothing where it is filled up.
    pub fn origin(&self, row: usize) -> Option<(usize, usize)> {
        let (source, inner) = match self.join {
            Join::Stack => {
                let mut first = 0;
                let source = self.sources.iter().position(|source| {
                    first += source.rows;
                    row < first
                })?;
                (source, row + self.sources[source].rows - first)
            }
            Join::Halves => {
                let n = self.sources.len();
                let tile = row / TILE_COLUMNS;
                (tile % n, tile / n * TILE_COLUMNS + row % TILE_COLUMNS)
            }
        };
        (inner < self.sources[source].rows).then_some((source, inner))
    }

    /// Bytes it takes in the image.
    pub fn bytes(&self) -> usize {
        self.layout.bytes(self.rows(), self.cols)
    }
}

/// All tensors of an image, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recipe {
    /// In the order in which a step reads them.
    pub tensors: Vec<Tensor>,
}

impl Recipe {
    /// SHA-256 of the recipe, of this layout's version and of the rounding's where there are codes, in hex: two images of
    /// one checkpoint with one digest hold the same bytes.
    pub fn digest(&self) -> String {
        let mut text = format!("{MAGIC:?}\n");
        if self.tensors.iter().any(|tensor| tensor.layout.is_rounded()) {
            // Writing into a string cannot fail.
            let _ = writeln!(text, "rounding {ROUNDING}");
        }
        for tensor in &self.tensors {
            let _ = writeln!(text, "{tensor:?}");
        }
        hex(&Sha256::digest(text))
    }

    /// Bytes of all tensors, each filled up to where the next may begin.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes().next_multiple_of(ALIGNMENT) as u64).sum()
    }
}

/// What stands at the beginning of an image, as JSON behind [`MAGIC`] and its length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Digest of the checkpoint's weight files.
    pub weights: String,
    /// Digest of the recipe.
    pub recipe: String,
    /// SHA-256 of everything behind the header, in hex.
    pub content: String,
    /// Everything there is, in order.
    pub entries: Vec<Entry>,
}

/// A tensor, or a file of the model folder, in an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The name of its layout; nothing for a file.
    pub layout: Option<String>,
    /// Rows of a matrix; 1 otherwise.
    pub rows: usize,
    /// Elements of a row, or bytes of a file.
    pub cols: usize,
    /// Where it begins, bytes behind the header, which is filled up to [`ALIGNMENT`].
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, rows: usize) -> Source {
        Source { name: name.into(), rows }
    }

    #[test]
    fn stacked_rows_come_one_under_the_other() {
        let tensor =
            Tensor::stack("qkv", vec![source("q", 3), source("k", 2), source("v", 2)], 8, Layout::Bf16Panels);
        let origins: Vec<_> = (0..8).map(|row| tensor.origin(row)).collect();
        let expected = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1)].map(Some);
        assert_eq!(origins[..7], expected);
        assert_eq!((origins[7], tensor.rows()), (None, 7));
    }

    #[test]
    fn halves_alternate_and_are_filled_up() {
        let sources = vec![source("gate", 20), source("up", 20)];
        let tensor = Tensor {
            name: "gate_up".into(),
            sources,
            join: Join::Halves,
            cols: 8,
            layout: Layout::Bf16Panels,
        };
        assert_eq!(tensor.rows(), 64);
        assert_eq!((tensor.origin(0), tensor.origin(16)), (Some((0, 0)), Some((1, 0))));
        assert_eq!((tensor.origin(35), tensor.origin(36)), (Some((0, 19)), None));
        assert_eq!((tensor.origin(51), tensor.origin(52)), (Some((1, 19)), None));
        let found = (0..64).filter_map(|row| tensor.origin(row)).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(found.len(), 40, "every row of both is there once");
    }

    #[test]
    fn panels_are_filled_up_and_rows_are_not() {
        assert_eq!(Layout::Bf16Panels.bytes(33, 33), 64 * 64 * 2);
        assert_eq!(Layout::F32Panels.bytes(32, 17), 32 * 32 * 4);
        assert_eq!(Layout::Bf16Rows.bytes(33, 33), 33 * 33 * 2);
        // Sixteen cells are filled up, and a group of 32 is eight of them.
        assert_eq!(Layout::Int8Panels(128).bytes(33, 129), 64 * (192 + 2 * 4));
        assert_eq!(Layout::Int4Panels(64).bytes(33, 65), 64 * (128 / 2 + 2 * 2));
        assert_eq!(Layout::Int4Panels(32).bytes(32, 65), 32 * (96 / 2 + 3 * 2));
    }

    #[test]
    fn another_layout_is_another_digest() {
        let recipe = |layout| Recipe { tensors: vec![Tensor::matrix("w", "w", (4, 4), layout)] };
        assert_ne!(recipe(Layout::Bf16Panels).digest(), recipe(Layout::F32Panels).digest());
        assert_eq!(recipe(Layout::Bf16Rows).bytes(), 4096);
    }
}

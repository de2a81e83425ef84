//! How weight matrices are held in memory, and the bytes that takes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    model::{Dtype, Model},
    workload::Precision,
};

/// Elements of a row that share a scale: the sizes worth trying for int8, ascending.
pub const INT8_GROUPS: [u64; 4] = [64, 128, 256, ROW];
/// A group as long as rows ever are: each has one scale. The product of so many codes still fits into an i32.
pub const ROW: u64 = 1 << 16;
/// The same for int4, whose coarser codes want a scale more often.
pub const INT4_GROUPS: [u64; 3] = [32, 64, 128];
/// Groups of an int8 head beside int4 layers. It costs a 32nd more than the codes alone.
pub const HEAD_GROUP: u64 = 128;

/// Number format of one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// Codes of 8 bits; every so many elements of a row share an f32 scale.
    Int8(u64),
    /// Codes of 4 bits; every so many elements of a row share a bf16 scale.
    Int4(u64),
}

/// The formats of a model's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Matrices of the layers.
    pub layers: Format,
    /// The output head and the embedding, tied or not.
    pub head: Format,
}

impl Format {
    /// Its precision, whatever the group.
    pub fn precision(self) -> Precision {
        match self {
            Format::F32 => Precision::F32,
            Format::Bf16 => Precision::Bf16,
            Format::Int8(_) => Precision::Int8,
            Format::Int4(_) => Precision::Int4,
        }
    }

    /// Bytes of a matrix of `rows` rows of `cols` elements. A row ends its last group and its last byte.
    pub fn bytes(self, rows: usize, cols: usize) -> u64 {
        let (rows, cols) = (rows as u64, cols as u64);
        rows * match self {
            Format::F32 => 4 * cols,
            Format::Bf16 => 2 * cols,
            Format::Int8(group) => cols + 4 * cols.div_ceil(group),
            Format::Int4(group) => cols.div_ceil(2) + 2 * cols.div_ceil(group),
        }
    }
}

impl fmt::Display for Format {
    /// As a table shows it: `int4/64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::F32 | Format::Bf16 => f.pad(self.precision().name()),
            Format::Int8(ROW) => f.pad("int8/row"),
            Format::Int8(group) | Format::Int4(group) => {
                f.pad(&format!("{}/{group}", self.precision().name()))
            }
        }
    }
}

impl Held {
    /// All matrices in one format.
    pub fn all(format: Format) -> Held {
        Held { layers: format, head: format }
    }

    /// As the checkpoint has them; f16 is widened to f32, which loses nothing.
    pub fn as_stored(model: &Model) -> Held {
        match model.stored {
            Dtype::Bf16 => Held::all(Format::Bf16),
            Dtype::F32 | Dtype::F16 => Held::all(Format::F32),
        }
    }

    /// Bytes of every matrix, the embedding counted once where the head is tied to it.
    pub fn bytes(self, model: &Model) -> u64 {
        let n_tables = if model.tied { 1 } else { 2 };
        self.layers_bytes(model) + n_tables * self.table_bytes(model)
    }

    /// Bytes that one pass over the model reads: every matrix but the embedding, of which a row is looked up.
    pub fn bytes_per_pass(self, model: &Model) -> u64 {
        self.layers_bytes(model) + self.table_bytes(model)
    }

    fn layers_bytes(self, model: &Model) -> u64 {
        let dims = &model.dims;
        let (hidden, query, kv) = (dims.hidden, dims.query_rows(), dims.kv_rows());
        let matrices = [
            (query, hidden),
            (kv, hidden),
            (kv, hidden),
            (hidden, query),
            (dims.intermediate, hidden),
            (dims.intermediate, hidden),
            (hidden, dims.intermediate),
        ];
        let layer: u64 = matrices.into_iter().map(|(rows, cols)| self.layers.bytes(rows, cols)).sum();
        dims.layers as u64 * layer
    }

    fn table_bytes(self, model: &Model) -> u64 {
        self.head.bytes(model.dims.vocab, model.dims.hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::folder::Folder;

    #[test]
    fn a_row_ends_its_last_group_and_its_last_byte() {
        assert_eq!(Format::F32.bytes(3, 5), 60);
        assert_eq!(Format::Bf16.bytes(3, 5), 30);
        // Five codes and two scales; three bytes of codes and two scales.
        assert_eq!(Format::Int8(4).bytes(3, 5), 3 * (5 + 2 * 4));
        assert_eq!(Format::Int4(4).bytes(3, 5), 3 * (3 + 2 * 2));
        // At sizes that fit, a group of 128 adds a 32nd to int8 and a 32nd to int4.
        assert_eq!(Format::Int8(128).bytes(1, 1024), 1024 + 32);
        assert_eq!(Format::Int4(128).bytes(1, 1024), 512 + 16);
    }

    #[test]
    fn one_format_for_all_is_the_number_of_weights_times_its_size() {
        let folder = Folder::qwen3();
        let mut model = Model::read(folder.path()).expect("the folder is valid");
        for tied in [true, false] {
            model.tied = tied;
            assert_eq!(Held::all(Format::Bf16).bytes(&model), 2 * model.n_matrix_weights());
            assert_eq!(Held::all(Format::F32).bytes(&model), 4 * model.n_matrix_weights());
        }
        let table = (model.dims.vocab * model.dims.hidden) as u64;
        let held = Held { layers: Format::Bf16, head: Format::F32 };
        assert_eq!(held.bytes(&model) - held.bytes_per_pass(&model), 4 * table);
    }
}

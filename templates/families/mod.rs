//! Model families, one folder each.

pub mod dense_decoder;

//! Numbers of the products that change how fast they are, and none of their bits.

/// Cache lines between the weights that few rows are multiplied by and those that are fetched: about as many as memory
/// hands over while it looks for the first.
pub const AHEAD: usize = 32;

/// Panels that stay in L2 while all rows pass.
pub const PANELS: usize = 4;

/// Strips of rows that pass while all of the next panels are fetched into L2.
pub const STRIPS: usize = 16;

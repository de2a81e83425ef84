//! Numbers of the products that change how fast they are, and none of their bits.

/// Pages from which weights are fetched ahead in turn: the processor runs ahead in each, and one such run is less than
/// memory hands over.
pub const PAGES: usize = 8;

/// Panels that stay in L2 while all rows pass.
pub const PANELS: usize = 4;

/// Strips of rows that pass while all of the next panels are fetched into L2.
pub const STRIPS: usize = 16;

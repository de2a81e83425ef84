//! Plain f32 decoder models, written for clarity alone: the truth that emitted servers are held against.
//!
//! Reading order: [`config`] says what the model is, [`weights`] reads it, [`linear`] multiplies, [`rope`],
//! [`attention`] and [`layer`] are the arithmetic of one decoder layer, and [`model`] stacks the layers and keeps the
//! keys and values of one sequence. [`rounding`] is where a server with fewer bits is imitated. Nothing here is shared
//! with emitted code, and little here is done for speed: rows are split over threads and multiplied two by two, so that
//! a model of real size is proven in minutes, and that is all.
//!
//! ```no_run
//! # fn main() -> Result<(), oracle::OracleError> {
//! let oracle = oracle::Oracle::open("models/tiny".as_ref())?;
//! for (token, logits) in oracle.greedy(&[1, 2, 3], 8)? {
//!     println!("{token} {}", oracle::log_softmax(&logits)[token as usize]);
//! }
//! # Ok(())
//! # }
//! ```

pub mod attention;
pub mod config;
mod error;
pub mod layer;
pub mod linear;
pub mod model;
pub mod probability;
pub mod rope;
pub mod rounding;
mod threads;
pub mod weights;

pub use config::Config;
pub use error::OracleError;
pub use model::{Oracle, Session};
pub use probability::{argmax, log_softmax};
pub use rounding::{Exact, Rounding};

//! A comparison, written for people and for programs: terminal, Markdown, JSON and one HTML page.
//!
//! All four say the same: the ratio with its interval, the milliseconds behind it, the verdict, and what weakens it.

mod html;
mod json;
mod markdown;
mod svg;
pub(crate) mod table;
mod terminal;
pub(crate) mod words;

pub use html::html;
pub use json::json;
pub use markdown::markdown;
pub use terminal::terminal;

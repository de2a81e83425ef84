//! What emitted crates call off the token path.
//!
//! A serving crate that the synthesizer emits decides and computes everything that happens per token. This
//! library holds the rest, which is the same in every one of them: weights on disk, the thread pool, the
//! tokenizer, the chat template, OpenAI's HTTP contract, metrics and the command line. It names no constant
//! and no policy of any workload: numbers arrive as arguments from the crate that was built for them.
//!
//! | module | what |
//! |---|---|
//! | [`args`] | the command line: the weights, an address, a file of keys |
//! | [`image`] | the weights as the kernels read them, memory-mapped |
//! | [`pool`], [`columns`], [`memory`] | parallel regions of a few microseconds, the matrix they write, memory that is there |
//! | [`request`] | the boundary between the HTTP side and the engine's thread |
//! | [`metrics`] | counters under vLLM's names |
//! | [`tokenizer`], [`chat`] | text to tokens and back, messages to text |
//! | [`openai`], [`operations`] | the routes |
//! | [`state`], [`serve`] | what the routes share, and the server around them |
//! | [`error`] | errors in OpenAI's shape |

pub mod args;
mod body;
pub mod chat;
pub mod columns;
pub mod error;
pub mod fetch;
mod fields;
pub mod image;
mod log;
pub mod memory;
pub mod metrics;
pub mod openai;
pub mod operations;
pub mod pool;
pub mod request;
pub mod serve;
pub mod state;
mod stop;
pub mod tokenizer;

//! candle-transformers behind a small HTTP server, as a runtime to race against.
//!
//! It serves token ids, not text, so that a race counts the same tokens on both sides. One engine thread owns every
//! sequence ([`engine`]); [`http`] speaks just enough HTTP/1.1 for a load generator.

mod args;
mod config;
mod decoder;
mod engine;
mod http;
mod wire;

use std::net::TcpListener;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::args::Args;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(misuse) => {
            eprintln!("candle-reference: {misuse:#}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("candle-reference: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    use_threads(args.threads);
    let decoder = decoder::Decoder::open(&args.model, args.dtype, args.context)?;
    let stop_ids = config::stop_ids(&args.model)?;
    let listener =
        TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    let engine = engine::start(
        decoder,
        engine::Limits { context: args.context, sequences: args.concurrency },
        stop_ids,
    );
    println!("candle-reference ready on http://{}", args.listen);
    http::serve(&listener, &engine)
}

/// candle sizes both its own splits and rayon's pool by this variable, and offers no other way.
fn use_threads(n_threads: usize) {
    // SAFETY: nothing has started a thread yet, so nobody reads the environment at the same time.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", n_threads.to_string()) };
}

//! Serves chat and completions of a qwen3 model of 4 layers and width 192 to 8 sequences at a time on 2 amx threads.

mod engine;
mod forward;
mod kernels;
mod kv;
mod prefix_cache;
mod rope;
mod sample;
mod scheduler;
mod sequence;
mod server;
mod shape;
mod weights;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use rt::args::Args;

use crate::server::{ABOUT, LISTEN, NAME, WEIGHTS};

fn main() -> ExitCode {
    let args = Args::parse(NAME, ABOUT, WEIGHTS, LISTEN);
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    kernels::check_processor()?;
    let server = server::open(args)?;
    // Whoever started it may not be listening.
    let _ = writeln!(io::stdout(), "{NAME} ready on http://{}", server.address()?);
    Ok(server.run()?)
}

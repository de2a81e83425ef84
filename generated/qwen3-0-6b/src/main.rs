//! Serves chat and completions of a qwen3 model of 28 layers and width 1024 to 8 sequences at a time on 2 avx512 threads.

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

use rt::args::Args;

use crate::server::{ABOUT, LISTEN, MODEL_DIR, NAME, Server};

fn main() -> anyhow::Result<()> {
    let args = Args::parse(NAME, ABOUT, MODEL_DIR, LISTEN);
    kernels::check_processor()?;
    let server = Server::open(&args)?;
    println!("{NAME} ready on http://{}", server.address()?);
    server.run()
}

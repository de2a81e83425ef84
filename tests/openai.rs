//! The emitted server as its users meet it: through OpenAI's own client, as a process, from a command line.

mod client;
mod process;

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use harness::{
    build::build,
    process::{Launch, Server, free_port},
};
use tokio::{runtime, sync::Mutex};

/// The model that the quickstart serves, in the repository and under its name in requests.
const MODEL_DIR: &str = "tests/fixtures/models/quickstart";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent")
}

/// The build folder that all emitted crates share, so that what they have in common is compiled once.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The emitted binary, built from the crate as it is on disk.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        build(&root().join("generated/quickstart"), &target(), |_| {})
            .unwrap_or_else(|error| panic!("{error}"))
    })
}

/// Where tests put what they make.
fn scratch() -> PathBuf {
    let folder = target().join("openai");
    std::fs::create_dir_all(&folder).expect("the build folder can be written");
    folder
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Starts the emitted binary on a port of its own. `name` is the log's.
async fn start(name: &str, flags: &[&str]) -> Server {
    // A free port is free until somebody takes it: no two of these tests choose at once.
    static CHOOSING: Mutex<()> = Mutex::const_new(());
    let _choosing = CHOOSING.lock().await;
    let listen = free_port().expect("a port");
    let model = root().join(MODEL_DIR).display().to_string();
    let args = ["--model", &model, "--listen", &listen.to_string()];
    let launch = Launch {
        program: binary().to_owned(),
        args: args.iter().chain(flags).map(Into::into).collect(),
        env: Vec::new(),
        listen,
        ready_path: "/health",
        timeout: Duration::from_secs(30),
        log: scratch().join(format!("{name}.log")),
    };
    Server::start(launch).await.unwrap_or_else(|error| panic!("{error}"))
}

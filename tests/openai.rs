//! The emitted server as its users meet it: through OpenAI's own client, as a process, from a command line.

mod client;
mod process;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use harness::process::{Launch, Server, free_port};
use tokio::{runtime, sync::Mutex};

use crate::command::{self, Bounds, root};

/// The build folder that all emitted crates share, so that what they have in common is compiled once.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The emitted binary: the quickstart's spec synthesised for this machine, which the committed crate may not be for.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let spec = root().join("workloads/quickstart.yaml");
        let text = fs::read_to_string(spec).expect("the quickstart has a spec");
        let text = text.replace("../tests/", &format!("{}/tests/", root().display()));
        let text = text.replace(
            "quickstart.requests.jsonl",
            &format!("{}/workloads/quickstart.requests.jsonl", root().display()),
        );
        fs::write(scratch().join("quickstart.yaml"), text).expect("the build folder can be written");
        let bounds = Bounds { time: Duration::from_secs(900), memory: None };
        let arguments = ["synth", "quickstart.yaml", "--out", "crate", "--stop", "build", "--json"];
        let ran = command::xtask(&scratch(), &arguments, bounds);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let made = ran.json().expect("one JSON object");
        made["binary"].as_str().expect("it was built").into()
    })
}

/// The weight image that it was built for.
fn weights() -> PathBuf {
    scratch().join("crate/quickstart.weights")
}

/// Where tests put what they make.
fn scratch() -> PathBuf {
    let folder = target().join("openai");
    fs::create_dir_all(&folder).expect("the build folder can be written");
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
    let weights = weights().display().to_string();
    let args = ["--weights", &weights, "--listen", &listen.to_string()];
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

//! How llama.cpp gets onto a machine: from a source package on PyPI, built with tools from PyPI.
//!
//! Nothing is installed outside `<target>/references/llama.cpp`. Every download is pinned by version and by hash.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use super::super::{ReferenceError, steps};

/// The source package that carries llama.cpp; `references/llama.cpp/source.txt` pins its hash.
pub(super) const VERSION: &str = "llama-cpp-python 0.3.36";

/// The pins, as pip reads them.
const TOOLS: &str = include_str!("../../../references/llama.cpp/tools.txt");
const SOURCE: &str = include_str!("../../../references/llama.cpp/source.txt");

/// The whole route: what each step is called, and its command in `<target>/references/llama.cpp`, where `{}` stands
/// for the number of cores. llama.cpp is configured for everything this CPU has, and nothing that needs a network.
const ROUTE: [(&str, &str); 7] = [
    ("making a Python environment", "python3 -m venv venv"),
    (
        "fetching cmake and ninja",
        "venv/bin/python -m pip --disable-pip-version-check --no-input install --require-hashes --only-binary :all: \
         -r tools.txt",
    ),
    (
        "fetching the source of llama.cpp (77 MB)",
        "venv/bin/python -m pip --disable-pip-version-check --no-input download --require-hashes --no-deps \
         --no-binary :all: --no-build-isolation -r source.txt -d sdist",
    ),
    ("making room for the source", "mkdir -p source"),
    ("unpacking the source", "tar -xzf sdist/llama_cpp_python-0.3.36.tar.gz -C source --strip-components=1"),
    (
        "configuring llama.cpp",
        "venv/bin/cmake -S source/vendor/llama.cpp -B build -G Ninja -DCMAKE_BUILD_TYPE=Release \
         -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DGGML_CCACHE=OFF -DLLAMA_BUILD_TESTS=OFF \
         -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
         -DLLAMA_OPENSSL=OFF",
    ),
    ("building llama.cpp", "venv/bin/cmake --build build --parallel {} --target llama-server llama-bench"),
];

/// Written last, so that a half-made installation is none.
const MARKER: &str = "installed.json";

/// Fetches and builds llama.cpp's server and its bench under `<target>/references/llama.cpp`, and returns the
/// server's path. `progress` is told each step and each line of its output. Takes about ten minutes of CPU.
///
/// # Errors
/// When Python with `venv` and `pip`, or a C++ compiler, is missing, or a step fails.
pub fn install_llama_cpp(target_dir: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf, ReferenceError> {
    if let Some(program) = installed(target_dir) {
        progress("llama.cpp is installed");
        return Ok(program);
    }
    check_tools()?;
    let started = Instant::now();
    let home = home(target_dir);
    let file = |path: &Path, source| ReferenceError::File { path: path.to_owned(), source };
    fs::create_dir_all(&home).map_err(|source| file(&home, source))?;
    let home = home.canonicalize().map_err(|source| file(&home, source))?;
    let log = home.join("install.log");
    let write = |name: &str, text: &str| {
        let path = home.join(name);
        fs::write(&path, text).map_err(|source| file(&path, source))
    };

    write("tools.txt", TOOLS)?;
    write("source.txt", SOURCE)?;
    for (step, command) in ROUTE {
        progress(step);
        steps::run(step, command_in(&home, command), &log, progress)?;
    }
    let marker = json!({ "version": VERSION, "route": ROUTE, "seconds": started.elapsed().as_secs() });
    write(MARKER, &format!("{marker:#}\n"))?;
    installed(target_dir).ok_or_else(|| ReferenceError::Step {
        step: "building llama-server".to_owned(),
        status: "no program was made".to_owned(),
        log,
        tail: String::new(),
    })
}

/// The server, if this version of it is completely installed.
pub(super) fn installed(target_dir: &Path) -> Option<PathBuf> {
    let home = home(target_dir);
    let marker: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(home.join(MARKER)).ok()?).ok()?;
    let program = home.join("build/bin/llama-server");
    (marker["version"] == VERSION && program.is_file()).then_some(program)
}

fn home(target_dir: &Path) -> PathBuf {
    target_dir.join("references/llama.cpp")
}

/// One command of the route, at low priority: the whole is long and nobody waits for it.
fn command_in(home: &Path, words: &str) -> Command {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("nice");
    command
        .args(["-n", "10"])
        .args(words.split_whitespace().map(|word| if word == "{}" { n_cores.as_str() } else { word }))
        .current_dir(home)
        // cmake looks for ninja there.
        .env("PATH", format!("{}:{path}", home.join("venv/bin").display()));
    command
}

/// What the route takes from the machine.
fn check_tools() -> Result<(), ReferenceError> {
    works(
        "python3 with venv and pip",
        Command::new("python3").args(["-c", "import venv, ensurepip"]),
        "on Debian: apt-get install python3-venv",
    )?;
    works("a C++ compiler", Command::new("c++").arg("--version"), "on Debian: apt-get install g++")
}

fn works(tool: &'static str, command: &mut Command, cure: &'static str) -> Result<(), ReferenceError> {
    let reason = match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            text.trim().lines().last().unwrap_or("it fails without a word").to_owned()
        }
        Err(error) => error.to_string(),
    };
    Err(ReferenceError::Tool { tool, reason, cure })
}

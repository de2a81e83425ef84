//! OpenAI's Python client, strict about every response, against the emitted server.
//!
//! The scripts beside this file hold the checks; each has a server of its own. The client and all it needs are
//! pinned in `requirements.txt` and installed once into the build folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use harness::build::digest;

use super::{block_on, root, scratch, start};

#[test]
fn answers_are_what_the_client_expects() {
    run("answers", &[]);
}

#[test]
fn errors_are_the_clients_exceptions() {
    run("errors", &[]);
}

#[test]
fn keys_are_asked_for() {
    let file = scratch().join(format!("keys.{}", std::process::id()));
    fs::write(&file, "alpha\nbeta\n").expect("the build folder can be written");
    run("keys", &["--api-key-file", &file.display().to_string()]);
    fs::remove_file(file).expect("the keys are there");
}

#[test]
fn load_changes_no_answer_and_is_shed_politely() {
    run("load", &[]);
}

#[test]
fn who_leaves_frees_the_place() {
    run("leaving", &[]);
}

/// Runs `tests/openai/NAME.py` against a server started with `flags`.
fn run(name: &str, flags: &[&str]) {
    let python = environment();
    block_on(async {
        let server = start(name, flags).await;
        let output = Command::new(python)
            .arg(root().join("tests/openai").join(format!("{name}.py")))
            .arg(server.url())
            // What a developer's shell holds for the real service, or for a proxy, must not reach the client.
            .env_remove("OPENAI_API_KEY")
            .env_remove("OPENAI_BASE_URL")
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .output()
            .expect("the environment has a Python");
        assert!(
            output.status.success(),
            "tests/openai/{name}.py: {}\n{}\nthe server's log ends with:\n{}",
            output.status,
            words(&output),
            server.log_tail()
        );
        server.stop().await.unwrap_or_else(|error| panic!("{error}"));
    });
}

/// The Python with OpenAI's client, made when there is none for these requirements.
fn environment() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let requirements = root().join("tests/openai/requirements.txt");
        let version = command(Command::new("python3").arg("--version"));
        let version = version.trim().replace(' ', "-").to_lowercase();
        let digest = digest(&requirements).unwrap_or_else(|error| panic!("{error}"));
        let folder = scratch().join(format!("{version}-{}", &digest[..16]));
        if !folder.exists() {
            make_environment(&requirements, &folder);
        }
        folder.join("bin/python")
    })
}

/// Makes the environment under another name and renames it when it is whole: one that was interrupted is never
/// used, and of two that are made at once one stays.
fn make_environment(requirements: &Path, folder: &Path) {
    let unfinished = folder.with_extension(format!("{}.unfinished", std::process::id()));
    command(Command::new("python3").args(["-m", "venv"]).arg(&unfinished));
    command(
        Command::new(unfinished.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["--require-hashes", "--only-binary", ":all:", "--requirement"])
            .arg(requirements),
    );
    if fs::rename(&unfinished, folder).is_err() {
        fs::remove_dir_all(&unfinished).expect("this test made it");
    }
}

/// Runs a command that the tests need and returns what it says.
fn command(command: &mut Command) -> String {
    const CURE: &str = "the tests with OpenAI's client need Python 3.10 or newer with venv and pip, and the package \
                        index once: install them (Debian, Ubuntu: `apt install python3 python3-venv python3-pip`) \
                        and run the tests again";
    let shown = format!("{command:?}");
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => words(&output),
        Ok(output) => panic!("{shown} failed: {}\n{}\n{CURE}", output.status, words(&output)),
        Err(error) => panic!("{shown} cannot be run: {error}\n{CURE}"),
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

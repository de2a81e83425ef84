//! Building an emitted crate, through cargo and its own messages.

use std::{
    fs,
    io::{self, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cargo_metadata::{Message, diagnostic::DiagnosticLevel};
use sha2::{Digest, Sha256};
use synth::hex;

/// One binary, with everything a proof and a ledger entry name it by.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The workload's name, which is the binary's.
    pub name: String,
    /// The emitted crate.
    pub crate_dir: PathBuf,
    /// The program.
    pub binary: PathBuf,
    /// SHA-256 of the program, hex.
    pub binary_digest: String,
    /// The model folder that it was made from.
    pub model_dir: PathBuf,
    /// The weight image it serves.
    pub weights: PathBuf,
    /// SHA-256 of the spec's meaning, hex.
    pub spec_digest: String,
    /// SHA-256 of the plan's decisions, hex.
    pub plan_digest: String,
    /// SHA-256 of the weight files, hex.
    pub weights_digest: String,
    /// Threads it computes with.
    pub threads: usize,
}

/// Why there is no binary.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Cargo could not be started.
    #[error("cannot run cargo: {0}; it comes with the Rust toolchain")]
    Cargo(io::Error),
    /// The crate does not compile.
    #[error("{crate_dir} does not build:\n{messages}")]
    Compile {
        /// The crate.
        crate_dir: String,
        /// The compiler's errors, as it shows them.
        messages: String,
    },
    /// Cargo reported success and no program.
    #[error("cargo built {0} and named no program")]
    NoProgram(String),
    /// The program could not be read back.
    #[error("{path}: cannot read the program: {source}")]
    Read {
        /// The program.
        path: String,
        /// The operating system's word.
        source: io::Error,
    },
}

/// Builds the crate in `crate_dir` in release mode and returns its program.
///
/// `target_dir` is shared between crates, so that what they have in common is compiled once. `on_crate` is called
/// with the name of each crate as it is finished.
///
/// # Errors
/// [`BuildError`], with the compiler's own words where there are any.
pub fn build(
    crate_dir: &Path,
    target_dir: &Path,
    mut on_crate: impl FnMut(&str),
) -> Result<PathBuf, BuildError> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--message-format=json", "--quiet"])
        .arg("--manifest-path")
        .arg(crate_dir.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(crate_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(BuildError::Cargo)?;
    // Cargo's own words (a manifest it refuses, a registry it cannot reach) are on standard error.
    let errors = cargo.stderr.take().map(|pipe| std::thread::spawn(move || io::read_to_string(pipe)));
    let mut messages = String::new();
    let mut program = None;
    if let Some(stdout) = cargo.stdout.take() {
        for message in Message::parse_stream(BufReader::new(stdout)) {
            match message.map_err(BuildError::Cargo)? {
                Message::CompilerMessage(it) => {
                    if matches!(it.message.level, DiagnosticLevel::Error | DiagnosticLevel::Ice) {
                        messages.push_str(it.message.rendered.as_deref().unwrap_or(&it.message.message));
                    }
                }
                Message::CompilerArtifact(it) => {
                    on_crate(&it.target.name);
                    if let Some(executable) = it.executable {
                        program = Some(executable.into_std_path_buf());
                    }
                }
                _ => {}
            }
        }
    }
    let status = cargo.wait().map_err(BuildError::Cargo)?;
    let shown = crate_dir.display().to_string();
    if !status.success() {
        if messages.is_empty()
            && let Some(Ok(Ok(words))) = errors.map(std::thread::JoinHandle::join)
        {
            messages = words;
        }
        return Err(BuildError::Compile { crate_dir: shown, messages });
    }
    program.ok_or(BuildError::NoProgram(shown))
}

/// SHA-256 of a program, hex.
///
/// # Errors
/// [`BuildError::Read`] if the file cannot be read.
pub fn digest(path: &Path) -> Result<String, BuildError> {
    let unread = |source| BuildError::Read { path: path.display().to_string(), source };
    let bytes = fs::read(path).map_err(unread)?;
    Ok(hex(&Sha256::digest(bytes)))
}

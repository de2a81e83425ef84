//! Planted faults: what a proof must catch before anyone believes it.
//!
//! A fault is data. It says which text of the emitted crate is replaced, or which bit of the weights is flipped, and
//! on which surface the proof must fail. The text must stand exactly once in the crate, so that a fault which no
//! longer applies is an error and not a fault that nobody plants.

mod list;

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::image;

pub use list::MUTANTS;

/// One planted fault.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// A short name.
    pub name: &'static str,
    /// What is wrong with the server, in a clause.
    pub what: &'static str,
    /// How it is made wrong.
    pub plant: Plant,
    /// The surface on which the proof must fail, among others.
    pub surface: &'static str,
}

/// How a fault is made.
#[derive(Debug, Clone, Copy)]
pub enum Plant {
    /// A text of the emitted crate replaced by another.
    Source {
        /// The file, from the crate's root.
        file: &'static str,
        /// What stands there, exactly once.
        from: &'static str,
        /// What is put in its place.
        to: &'static str,
    },
    /// The lowest bit of one weight flipped.
    Weights {
        /// The tensor.
        tensor: &'static str,
    },
}

/// Where a fault was planted.
#[derive(Debug, Clone)]
pub struct Planted {
    /// The crate to build.
    pub crate_dir: PathBuf,
    /// The weight image to serve.
    pub weights: PathBuf,
}

/// Why a fault could not be planted.
#[derive(Debug, thiserror::Error)]
pub enum MutantError {
    /// The text is not there exactly once.
    #[error(
        "{mutant}: {file} holds its text {n} times, expected once; write the fault anew for the code as it is now"
    )]
    Place {
        /// The fault.
        mutant: &'static str,
        /// The file.
        file: &'static str,
        /// How often the text stands there.
        n: usize,
    },
    /// The image has no such tensor.
    #[error("{mutant}: the image has no tensor {tensor}")]
    Tensor {
        /// The fault.
        mutant: &'static str,
        /// The tensor.
        tensor: &'static str,
    },
    /// A file cannot be copied or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Mutant {
    /// Plants the fault in copies of the crate and, where it is in the weights, of the image, below `into`.
    ///
    /// Files that do not differ from what lies there already are left alone, so that planting one fault after
    /// another in the same place compiles only what changed.
    ///
    /// # Errors
    /// When the fault no longer applies, or a file cannot be copied.
    pub fn plant(&self, crate_dir: &Path, weights: &Path, into: &Path) -> Result<Planted, MutantError> {
        let copy = copy_crate(crate_dir, into)?;
        let mut planted = Planted { crate_dir: copy, weights: weights.to_owned() };
        match self.plant {
            Plant::Source { file, from, to } => {
                let mutated = self.mutated(&read(&crate_dir.join(file))?, file, from, to)?;
                write(&planted.crate_dir.join(file), mutated.as_bytes())?;
            }
            Plant::Weights { tensor } => {
                planted.weights = into.join("weights");
                self.flip(weights, tensor, &planted.weights)?;
            }
        }
        Ok(planted)
    }

    /// Whether the fault still applies to the crate; nothing is written.
    ///
    /// # Errors
    /// When it does not, or the file cannot be read.
    pub fn check(&self, crate_dir: &Path) -> Result<(), MutantError> {
        match self.plant {
            Plant::Source { file, from, to } => {
                self.mutated(&read(&crate_dir.join(file))?, file, from, to).map(drop)
            }
            Plant::Weights { .. } => Ok(()),
        }
    }

    fn mutated(&self, text: &str, file: &'static str, from: &str, to: &str) -> Result<String, MutantError> {
        match text.matches(from).count() {
            1 => Ok(text.replacen(from, to, 1)),
            n => Err(MutantError::Place { mutant: self.name, file, n }),
        }
    }

    fn flip(&self, weights: &Path, tensor: &'static str, copy: &Path) -> Result<(), MutantError> {
        let begin = image::begin(weights, tensor).ok_or(MutantError::Tensor { mutant: self.name, tensor })?;
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source| MutantError::File { path, source }
        };
        let mut bytes = fs::read(weights).map_err(file_error(weights))?;
        // Numbers are little-endian: the first byte holds the lowest bit of the first weight.
        bytes[begin as usize] ^= 1;
        fs::write(copy, bytes).map_err(file_error(copy))
    }
}

/// What the program of a copy is called behind the crate's name, so that it never stands in the place of the real one
/// when both are built into one folder.
const SUFFIX: &str = "-mutant";

/// A copy of an emitted crate that builds where it lies: its own workspace and name, dependencies by full path, and
/// lints that would refuse a fault for leaving something unused silenced. Its own code is compiled quickly, not well;
/// what it depends on is compiled as for the crate itself, and so need not be compiled again.
///
/// # Errors
/// When a file cannot be copied.
pub fn copy_crate(crate_dir: &Path, into: &Path) -> Result<PathBuf, MutantError> {
    let copy = into.join("crate");
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| MutantError::File { path, source }
    };
    let root = fs::canonicalize(crate_dir).map_err(file_error(crate_dir))?;
    for path in all_files(&root.join("src"))? {
        if let Ok(relative) = path.strip_prefix(&root) {
            copy_file(&path, &copy.join(relative))?;
        }
    }
    let manifest = read(&root.join("Cargo.toml"))?;
    let manifest = manifest
        .replacen("\"\n", &format!("{SUFFIX}\"\n"), 1)
        .replace("path = \"../", &format!("path = \"{}/../", root.display()))
        .replace("= \"deny\"", "= \"allow\"");
    let table = if manifest.contains("[workspace]") { "" } else { "\n[workspace]\n" };
    let profile = "\n[profile.release]\nopt-level = 2\nincremental = true\n\n\
                   [profile.release.package.\"*\"]\nopt-level = 3\nincremental = false\n";
    write(&copy.join("Cargo.toml"), format!("{manifest}{table}{profile}").as_bytes())?;
    // The versions that the repository is built with, which are also the ones at hand.
    if let Some(lock) = root.ancestors().map(|dir| dir.join("Cargo.lock")).find(|lock| lock.exists()) {
        let copied = copy.join("Cargo.lock");
        if !copied.exists() {
            copy_file(&lock, &copied)?;
        }
    }
    Ok(copy)
}

fn all_files(dir: &Path) -> Result<Vec<PathBuf>, MutantError> {
    let mut found = files(dir)?;
    let entries = fs::read_dir(dir).map_err(|source| MutantError::File { path: dir.to_owned(), source })?;
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            found.extend(all_files(&entry.path())?);
        }
    }
    Ok(found)
}

/// The plain files of one folder.
fn files(dir: &Path) -> Result<Vec<PathBuf>, MutantError> {
    let entries = fs::read_dir(dir).map_err(|source| MutantError::File { path: dir.to_owned(), source })?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect())
}

fn read(path: &Path) -> Result<String, MutantError> {
    fs::read_to_string(path).map_err(|source| MutantError::File { path: path.to_owned(), source })
}

fn copy_file(from: &Path, to: &Path) -> Result<(), MutantError> {
    let bytes = fs::read(from).map_err(|source| MutantError::File { path: from.to_owned(), source })?;
    write(to, &bytes)
}

/// Writes a file, unless it holds these bytes already.
fn write(path: &Path, bytes: &[u8]) -> Result<(), MutantError> {
    let file_error = |source| MutantError::File { path: path.to_owned(), source };
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(file_error)?;
    }
    fs::write(path, bytes).map_err(file_error)
}

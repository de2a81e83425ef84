//! The files of an emitted crate, before they are on disk.
//!
//! A [`SourceTree`] is what emission makes and what the reading gate reads. It is written to a folder that it
//! shares with others: `proof.json`, `proof.md`, `Cargo.lock` and `target/` belong to whoever builds and
//! proves the crate, everything under `src/` belongs to the tree.

mod disk;
mod format;

use std::{collections::BTreeMap, io, path::PathBuf};

use crate::hex;
use sha2::{Digest, Sha256};

pub use disk::{Difference, DifferenceKind, Written};
pub use format::{FormatError, format_rust, wrap_comments};

/// Names beside the sources that the tree neither holds, writes nor removes.
const NOT_OURS: [&str; 4] = ["proof.json", "proof.md", "Cargo.lock", "target"];

/// Why a file cannot be put into a tree, or a tree onto disk.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The path is not a plain relative path.
    #[error("`{path}` is no path inside a crate: use names joined by `/`, none of them empty, `.` or `..`")]
    Path {
        /// The path as given.
        path: String,
    },
    /// The path belongs to whoever builds and proves the crate.
    #[error("`{path}` is written by the build or by the proof, not by emission: choose another name")]
    NotOurs {
        /// The path as given.
        path: String,
    },
    /// Two parts of a plan emit the same path, or one emits a folder that another emits as a file.
    #[error("`{path}` collides with `{other}`, which is already in the tree: emit each path once")]
    Collision {
        /// The path as given.
        path: String,
        /// The path that was there before.
        other: String,
    },
    /// The disk refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `remove`.
        action: &'static str,
        /// The file or folder it was tried on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The files of one crate: relative path with `/` to text, in the order of the paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceTree(BTreeMap<String, String>);

impl SourceTree {
    /// A tree without files.
    pub fn new() -> SourceTree {
        SourceTree::default()
    }

    /// Adds a file.
    pub fn insert(&mut self, path: impl Into<String>, text: impl Into<String>) -> Result<(), TreeError> {
        let path = path.into();
        let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['\\', ':', '\0']);
        if !path.split('/').all(is_name) {
            return Err(TreeError::Path { path });
        }
        if path.split('/').next().is_some_and(|first| NOT_OURS.contains(&first)) {
            return Err(TreeError::NotOurs { path });
        }
        let encloses = |folder: &str, file: &str| {
            file.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if let Some(other) = self.0.keys().find(|other| encloses(other, &path) || encloses(&path, other)) {
            let other = other.clone();
            return Err(TreeError::Collision { path, other });
        }
        self.0.insert(path, text.into());
        Ok(())
    }

    /// The text at `path`.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Paths and texts, ordered by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// How many files there are.
    pub fn n_files(&self) -> usize {
        self.0.len()
    }

    /// How many lines the files have together.
    pub fn n_lines(&self) -> usize {
        self.0.values().map(|text| text.lines().count()).sum()
    }

    /// sha256, in hex, over every path and text. Lengths are hashed too, so that text cannot pass for a path.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for part in self.iter().flat_map(|(path, text)| [path, text]) {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hex(&hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> SourceTree {
        let mut tree = SourceTree::new();
        for (path, text) in files {
            tree.insert(*path, *text).unwrap();
        }
        tree
    }

    #[test]
    fn paths_that_leave_the_crate_are_refused() {
        for path in ["", "/etc/passwd", "../x", "src/../../x", "src//x", "src/.", "C:\\x", "src/", "a\0b"] {
            let error = SourceTree::new().insert(path, "").unwrap_err();
            assert!(matches!(error, TreeError::Path { .. }), "{path:?}: {error}");
        }
        for path in ["Cargo.lock", "proof.json", "proof.md", "target/debug/x", "target"] {
            let error = SourceTree::new().insert(path, "").unwrap_err();
            assert!(matches!(error, TreeError::NotOurs { .. }), "{path:?}: {error}");
        }
    }

    #[test]
    fn a_path_is_emitted_once_and_is_either_file_or_folder() {
        let mut tree = tree(&[("src/kernels/mod.rs", "a"), ("src/main.rs", "b")]);
        for path in ["src/main.rs", "src/main.rs/x", "src", "src/kernels"] {
            let error = tree.insert(path, "c").unwrap_err();
            assert!(matches!(error, TreeError::Collision { .. }), "{path:?}: {error}");
        }
        tree.insert("src/main", "c").unwrap();
        assert_eq!(tree.get("src/main.rs"), Some("b"));
    }

    #[test]
    fn the_digest_tells_any_two_trees_apart_and_forgets_the_order_of_insertion() {
        let trees = [
            tree(&[]),
            tree(&[("a", "")]),
            tree(&[("a", "b")]),
            tree(&[("ab", "")]),
            tree(&[("a", "bc")]),
            tree(&[("a", "b"), ("c", "")]),
        ];
        let digests: std::collections::BTreeSet<String> = trees.iter().map(SourceTree::digest).collect();
        assert_eq!(digests.len(), trees.len());
        assert!(digests.iter().all(|digest| digest.len() == 64));
        assert_eq!(tree(&[("a", "1"), ("b", "2")]).digest(), tree(&[("b", "2"), ("a", "1")]).digest());
    }
}

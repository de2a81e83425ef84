//! A tree against a folder: write what differs, or say what differs.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use similar::TextDiff;

use super::{SourceTree, TreeError};

/// What [`SourceTree::write_to`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Files that were absent or had another text.
    pub n_written: usize,
    /// Files under `src/` that are no longer in the tree.
    pub n_removed: usize,
}

/// How a folder differs from a tree in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    /// In the tree, not in the folder.
    Missing,
    /// In both, with another text.
    Changed,
    /// Under the folder's `src/`, not in the tree.
    Stale,
}

/// One file in which a folder differs from a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Path of the file inside the crate.
    pub path: String,
    /// How it differs.
    pub kind: DifferenceKind,
    /// From the folder's text to the tree's, as a unified diff.
    pub unified: String,
}

impl SourceTree {
    /// Makes `folder` hold this tree.
    ///
    /// A file whose text is already right keeps its time stamp, so Cargo builds only what changed. Each file
    /// is written beside its place and renamed, so no reader meets half a file.
    pub fn write_to(&self, folder: &Path) -> Result<Written, TreeError> {
        let mut written = Written::default();
        for (path, text) in self.iter() {
            let place = folder.join(path);
            if read(&place)?.as_deref() != Some(text.as_bytes()) {
                write(&place, text)?;
                written.n_written += 1;
            }
        }
        for path in self.stale(folder)? {
            let place = folder.join(path);
            fs::remove_file(&place).map_err(at("remove", &place))?;
            remove_empty_folders(place.parent(), folder)?;
            written.n_removed += 1;
        }
        Ok(written)
    }

    /// What [`SourceTree::write_to`] would change in `folder`, ordered by path. Writes nothing.
    pub fn diff(&self, folder: &Path) -> Result<Vec<Difference>, TreeError> {
        let mut differences = Vec::new();
        for (path, text) in self.iter() {
            match read(&folder.join(path))? {
                None => differences.push(difference(path, DifferenceKind::Missing, "", text)),
                Some(found) if found != text.as_bytes() => {
                    let found = String::from_utf8_lossy(&found);
                    differences.push(difference(path, DifferenceKind::Changed, &found, text));
                }
                Some(_) => {}
            }
        }
        for path in self.stale(folder)? {
            let found = read(&folder.join(&path))?.unwrap_or_default();
            let found = String::from_utf8_lossy(&found);
            differences.push(difference(&path, DifferenceKind::Stale, &found, ""));
        }
        differences.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(differences)
    }

    /// Files under `src/` of `folder` that the tree does not hold.
    fn stale(&self, folder: &Path) -> Result<Vec<String>, TreeError> {
        let mut stale = Vec::new();
        let mut open = vec![String::from("src")];
        while let Some(path) = open.pop() {
            let place = folder.join(&path);
            let entries = match fs::read_dir(&place) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(at("read", &place))?,
            };
            for entry in entries {
                let entry = entry.map_err(at("read", &place))?;
                let path = format!("{path}/{}", entry.file_name().to_string_lossy());
                // A link is a file here, whatever it leads to: the tree never looks outside its folder.
                let is_folder = entry.file_type().map_err(at("read", &entry.path()))?.is_dir();
                match self.get(&path) {
                    _ if is_folder => open.push(path),
                    None => stale.push(path),
                    Some(_) => {}
                }
            }
        }
        stale.sort();
        Ok(stale)
    }
}

fn difference(path: &str, kind: DifferenceKind, found: &str, wanted: &str) -> Difference {
    let unified = TextDiff::from_lines(found, wanted)
        .unified_diff()
        .header(&format!("found/{path}"), &format!("wanted/{path}"))
        .to_string();
    Difference { path: path.to_owned(), kind, unified }
}

fn read(place: &Path) -> Result<Option<Vec<u8>>, TreeError> {
    match fs::read(place) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", place)(error)),
    }
}

fn write(place: &Path, text: &str) -> Result<(), TreeError> {
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder).map_err(at("write", folder))?;
    }
    let mut partial = place.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    fs::write(&partial, text).map_err(at("write", &partial))?;
    fs::rename(&partial, place).map_err(at("write", place))
}

/// Removes `inner` and its parents below `folder` while they are empty.
fn remove_empty_folders(inner: Option<&Path>, folder: &Path) -> Result<(), TreeError> {
    let mut open = inner;
    while let Some(place) = open.filter(|place| *place != folder) {
        match fs::remove_dir(place) {
            Ok(()) => open = place.parent(),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
            Err(error) => return Err(at("remove", place)(error)),
        }
    }
    Ok(())
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TreeError {
    let path = path.to_owned();
    move |source| TreeError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is gone when the test is.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let folder = std::env::temp_dir().join(format!("savile-tree-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Scratch(folder)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn tree(files: &[(&str, &str)]) -> SourceTree {
        let mut tree = SourceTree::new();
        for (path, text) in files {
            tree.insert(*path, *text).unwrap();
        }
        tree
    }

    #[test]
    fn what_was_written_does_not_differ_and_is_not_written_again() {
        let scratch = Scratch::new("twice");
        let tree =
            tree(&[("Cargo.toml", "[package]\n"), ("src/main.rs", "//! Main.\n"), ("src/k/mod.rs", "")]);
        assert_eq!(tree.diff(&scratch.0).unwrap().len(), 3);
        assert_eq!(tree.write_to(&scratch.0).unwrap(), Written { n_written: 3, n_removed: 0 });
        let stamp = |path| fs::metadata(scratch.0.join(path)).unwrap().modified().unwrap();
        let before = stamp("src/main.rs");
        assert_eq!(tree.diff(&scratch.0).unwrap(), []);
        assert_eq!(tree.write_to(&scratch.0).unwrap(), Written::default());
        assert_eq!(stamp("src/main.rs"), before);
    }

    #[test]
    fn stale_sources_go_and_what_others_wrote_stays() {
        let scratch = Scratch::new("stale");
        tree(&[("src/main.rs", "a"), ("src/old/deep/gone.rs", "b")]).write_to(&scratch.0).unwrap();
        for kept in ["proof.json", "proof.md", "Cargo.lock", "target/x"] {
            write(&scratch.0.join(kept), "theirs").unwrap();
        }
        let next = tree(&[("src/main.rs", "a2")]);
        let differences = next.diff(&scratch.0).unwrap();
        let kinds: Vec<_> = differences.iter().map(|found| (found.path.as_str(), found.kind)).collect();
        let expected =
            [("src/main.rs", DifferenceKind::Changed), ("src/old/deep/gone.rs", DifferenceKind::Stale)];
        assert_eq!(kinds, expected);
        assert_eq!(next.write_to(&scratch.0).unwrap(), Written { n_written: 1, n_removed: 1 });
        assert!(!scratch.0.join("src/old").exists());
        for kept in ["proof.json", "proof.md", "Cargo.lock", "target/x"] {
            assert_eq!(fs::read_to_string(scratch.0.join(kept)).unwrap(), "theirs");
        }
        assert_eq!(next.diff(&scratch.0).unwrap(), []);
    }

    #[test]
    fn a_diff_reads_from_found_to_wanted() {
        let scratch = Scratch::new("diff");
        tree(&[("src/main.rs", "one\ntwo\n")]).write_to(&scratch.0).unwrap();
        let differences = tree(&[("src/main.rs", "one\nthree\n")]).diff(&scratch.0).unwrap();
        let unified = "--- found/src/main.rs\n+++ wanted/src/main.rs\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n";
        assert_eq!(differences[0].unified, unified);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_removed_and_never_followed() {
        let (scratch, outside) = (Scratch::new("link"), Scratch::new("outside"));
        write(&outside.0.join("precious"), "kept").unwrap();
        fs::create_dir_all(scratch.0.join("src")).unwrap();
        std::os::unix::fs::symlink(&outside.0, scratch.0.join("src/link")).unwrap();
        tree(&[("src/main.rs", "a")]).write_to(&scratch.0).unwrap();
        assert!(!scratch.0.join("src/link").exists());
        assert_eq!(fs::read_to_string(outside.0.join("precious")).unwrap(), "kept");
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_named() {
        let scratch = Scratch::new("folder");
        fs::create_dir_all(scratch.0.join("src/main.rs")).unwrap();
        let error = tree(&[("src/main.rs", "a")]).write_to(&scratch.0).unwrap_err();
        assert!(error.to_string().contains("main.rs"), "{error}");
    }
}

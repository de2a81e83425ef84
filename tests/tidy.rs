//! What holds for the repository as a whole: who may see whom, what every folder has, what no file holds.
//!
//! One test gathers every finding, so that one run shows all there is to do.

mod documents;
mod files;
mod names;
mod rooms;

use std::{
    fs,
    path::{Path, PathBuf},
};

#[test]
fn the_house_is_in_order() {
    let repository = Repository::read();
    let mut findings = Vec::new();
    findings.extend(rooms::findings(&repository));
    findings.extend(files::findings(&repository));
    findings.extend(documents::findings(&repository));
    findings.extend(names::findings(&repository));
    findings.sort();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// The files of the checkout, build products aside.
struct Repository {
    root: PathBuf,
    files: Vec<File>,
}

struct File {
    /// Path from the root, with `/`.
    path: String,
    n_bytes: u64,
    /// The content, where it is text of a size that people read.
    text: Option<String>,
}

impl Repository {
    fn read() -> Repository {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_owned();
        let mut files = Vec::new();
        collect(&root, "", &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Repository { root, files }
    }

    /// A repository that holds these files and no others.
    fn of(files: &[(&str, &str)]) -> Repository {
        let file = |(path, text): &(&str, &str)| File {
            path: (*path).to_owned(),
            n_bytes: text.len() as u64,
            text: Some((*text).to_owned()),
        };
        Repository { root: PathBuf::new(), files: files.iter().map(file).collect() }
    }

    fn has(&self, path: &str) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path)?.text.as_deref()
    }

    /// Names of the folders right inside `folder`, which ends with `/`.
    fn folders_in(&self, folder: &str) -> Vec<&str> {
        let inside = self.files.iter().filter_map(|file| file.path.strip_prefix(folder));
        let mut names: Vec<&str> =
            inside.filter_map(|path| path.split_once('/').map(|(name, _)| name)).collect();
        names.dedup();
        names
    }
}

fn collect(root: &Path, folder: &str, files: &mut Vec<File>) {
    const BUILT: [&str; 5] = ["target", ".git", "__pycache__", ".venv", "node_modules"];
    const READABLE: u64 = 1 << 20;
    let entries = fs::read_dir(root.join(folder)).expect("a folder of the checkout can be listed");
    for entry in entries {
        let entry = entry.expect("a folder of the checkout can be listed");
        let name = entry.file_name().into_string().expect("a file name of the checkout is UTF-8");
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        // In a second working tree `.git` is a file, and names a folder of this machine.
        if BUILT.contains(&name.as_str()) {
            continue;
        }
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        if metadata.is_dir() {
            collect(root, &path, files);
        } else if metadata.is_file() {
            let n_bytes = metadata.len();
            let text = (n_bytes <= READABLE).then(|| fs::read_to_string(entry.path()).ok()).flatten();
            files.push(File { path, n_bytes, text });
        }
    }
}

/// Asserts that `found` is exactly what `expected` begins, in order.
#[track_caller]
fn assert_findings(found: &[String], expected: &[&str]) {
    let matches = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
    assert!(matches, "found {found:#?}\nexpected {expected:#?}");
}

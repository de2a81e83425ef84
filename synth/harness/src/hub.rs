//! A model named on the Hugging Face hub, as a folder on this machine.
//!
//! The hub's client is a program of its own in `references/hub`, built when first asked for, so that nobody else pays
//! for a network stack.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::reference::ReferenceError;
use crate::reference::steps;

/// The client's crate, which is no part of the workspace.
const CRATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/references/hub");

/// What a revision is when nobody names one.
const MAIN: &str = "main";

/// Most characters of a name on the hub, and of a revision.
const LONGEST: usize = 200;

/// Why there is no folder.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum HubError {
    #[error("`{repo}` is no name of a model on the hub; write `organisation/name`")]
    Name { repo: String },
    #[error("`{revision}` is no revision; write a branch, a tag or a commit")]
    Revision { revision: String },
    #[error(
        "cannot fetch {repo}: {reason}; fetch its folder on a machine with access and name it as `model: {{ path: .. }}`"
    )]
    Refused { repo: String, reason: String },
    #[error("cannot run the hub's client: {0}")]
    Client(io::Error),
    #[error(transparent)]
    Build(#[from] ReferenceError),
}

impl HubError {
    /// Whether the machine lacks something (access, a token), as opposed to a name that cannot be right.
    #[must_use]
    pub fn is_environment(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Client(_) | Self::Build(_))
    }
}

/// The folder of `repo` at `revision` (the main branch if none), fetched into the user's hub cache where it is not
/// there yet. `progress` is told each file.
///
/// # Errors
/// When a name cannot be right, the client cannot be built, or the hub does not give the model.
pub fn fetch(
    repo: &str,
    revision: Option<&str>,
    target_dir: &Path,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, HubError> {
    let revision = revision.unwrap_or(MAIN);
    if !is_repo(repo) {
        return Err(HubError::Name { repo: repo.to_owned() });
    }
    if !is_revision(revision) {
        return Err(HubError::Revision { revision: revision.to_owned() });
    }
    let home = target_dir.join("references/hub");
    std::fs::create_dir_all(&home).map_err(|source| ReferenceError::File { path: home.clone(), source })?;
    steps::build_crate("building the hub's client", Path::new(CRATE), &home, progress)?;
    ask(&home.join("release/hub-fetch"), repo, revision, progress)
}

/// Runs the client and reads the folder it prints.
fn ask(program: &Path, repo: &str, revision: &str, progress: &dyn Fn(&str)) -> Result<PathBuf, HubError> {
    let mut child = Command::new(program)
        .args([repo, revision])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(HubError::Client)?;
    let mut last = String::new();
    for line in child.stderr.take().into_iter().flat_map(|stderr| BufReader::new(stderr).lines()) {
        last = line.map_err(HubError::Client)?;
        progress(&last);
    }
    let mut folder = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut folder).map_err(HubError::Client)?;
    }
    let status = child.wait().map_err(HubError::Client)?;
    let folder = PathBuf::from(folder.trim_end());
    match status.success() && folder.is_dir() {
        true => Ok(folder),
        false => Err(HubError::Refused { repo: repo.to_owned(), reason: last }),
    }
}

/// `organisation/name` in the hub's alphabet. What passes can be neither a flag nor a path out of the cache.
fn is_repo(repo: &str) -> bool {
    let mut parts = repo.split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(organisation), Some(name), None) => {
            is_word(organisation) && is_word(name) && repo.len() <= LONGEST
        }
        _ => false,
    }
}

/// A branch, tag or commit; branches may have slashes.
fn is_revision(revision: &str) -> bool {
    revision.split('/').all(is_word) && revision.len() <= LONGEST
}

fn is_word(word: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_outer = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    word.bytes().all(is_inner)
        && word.as_bytes().first().is_some_and(is_outer)
        && word.as_bytes().last().is_some_and(is_outer)
        && !word.contains("..")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn client(name: &str, script: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("savile-{}-hub-{name}", std::process::id()));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        path
    }

    #[test]
    fn names_that_the_hub_has_are_accepted_and_nothing_else() {
        for repo in ["Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-1B", "a/b", "org_1/x.y-z"] {
            assert!(is_repo(repo), "{repo}");
        }
        for repo in [
            "", "qwen", "a/b/c", "/b", "a/", "--flag/x", "a/..", "../x", "a/b c", "a/b\n", "ä/b", "a/.b",
            "a/b.",
        ] {
            assert!(!is_repo(repo), "{repo}");
        }
        assert!(!is_repo(&format!("a/{}", "b".repeat(LONGEST))));
    }

    #[test]
    fn revisions_are_branches_tags_and_commits() {
        for revision in ["main", "refs/pr/3", "v1.0", "0123abcd"] {
            assert!(is_revision(revision), "{revision}");
        }
        for revision in ["", "-x", "a//b", "../main", "a b"] {
            assert!(!is_revision(revision), "{revision}");
        }
    }

    #[test]
    fn a_wrong_name_is_refused_before_anything_is_built() {
        let nowhere = Path::new("/dev/null/nowhere");
        let error = fetch("no-slash", None, nowhere, &|_| ()).expect_err("refused");
        assert!(matches!(error, HubError::Name { .. }) && !error.is_environment(), "{error}");
        let error = fetch("a/b", Some("--output"), nowhere, &|_| ()).expect_err("refused");
        assert!(matches!(error, HubError::Revision { .. }), "{error}");
    }

    #[test]
    fn the_folder_is_what_the_client_prints() {
        let lines = RefCell::new(Vec::new());
        let program = client("gives", "echo \"fetching $1 at $2\" >&2; echo /tmp");
        let folder =
            ask(&program, "a/b", "main", &|line| lines.borrow_mut().push(line.to_owned())).expect("a folder");
        assert_eq!(folder, Path::new("/tmp"));
        assert_eq!(lines.into_inner(), ["fetching a/b at main"]);
    }

    #[test]
    fn a_refusal_says_why_and_what_to_do_instead() {
        let program = client("refuses", "echo trying >&2; echo 'no route to the hub' >&2; exit 1");
        let error = ask(&program, "a/b", "main", &|_| ()).expect_err("refused");
        let text = error.to_string();
        assert!(error.is_environment());
        assert!(
            text.contains("a/b") && text.contains("no route to the hub") && text.contains("path:"),
            "{text}"
        );
    }

    #[test]
    fn a_client_that_lies_about_its_folder_is_not_believed() {
        let error =
            ask(&client("lies", "echo /nowhere/at/all"), "a/b", "main", &|_| ()).expect_err("refused");
        assert!(matches!(error, HubError::Refused { .. }));
    }
}

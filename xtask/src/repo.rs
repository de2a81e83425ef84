//! Where things are: the repository, a workload's files, the folders that Savile writes.

use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure, OrExit, Outcome};

/// The repository this `xtask` was built from.
pub fn root() -> &'static Path {
    // `xtask/` stands in the root of the repository.
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The build folder that all emitted crates and reference runtimes share.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The files of one workload.
#[derive(Debug, Clone)]
pub struct Files {
    /// What is asked.
    pub spec: PathBuf,
    /// What was decided.
    pub plan: PathBuf,
    /// What was made.
    pub crate_dir: PathBuf,
}

impl Files {
    /// The files of a workload named on the command line: `quickstart`, or the path of a `.yaml` file.
    pub fn find(workload: &str, out: Option<&Path>) -> Outcome<Self> {
        let root = root().canonicalize().or_exit(Exit::Internal)?;
        let is_path = workload.ends_with(".yaml") || workload.ends_with(".yml") || workload.contains('/');
        let spec = if is_path {
            PathBuf::from(workload)
        } else {
            root.join("workloads").join(format!("{workload}.yaml"))
        };
        let spec = spec.canonicalize().map_err(|error| {
            Failure::new(
                if is_path { Exit::Spec } else { Exit::Usage },
                format!("{}: {error}; {}", spec.display(), known()),
            )
        })?;
        let folder = spec.parent().unwrap_or(&root).to_owned();
        let stem = spec.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let is_ours = folder == root.join("workloads") && out.is_none();
        let crate_dir = match out {
            Some(out) => std::path::absolute(out).or_exit(Exit::Usage)?,
            None if is_ours => root.join("generated").join(&stem),
            None => {
                return Err(Failure::new(
                    Exit::Usage,
                    "a spec outside the repository needs --out DIR for its crate",
                ));
            }
        };
        Ok(Self { plan: folder.join(format!("{stem}.plan.yaml")), spec, crate_dir })
    }
}

/// The workloads of the repository, for a message.
fn known() -> String {
    format!("the repository has {}", workloads().join(", "))
}

/// The names of the workloads in the repository.
pub fn workloads() -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(root().join("workloads"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
        .filter(|name| !name.ends_with(".plan"))
        .collect();
    names.sort();
    names
}

/// A path as a message shows it: relative to the current folder where that is shorter.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

//! Where things are: the repository, a workload's files, the folders that Savile writes.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::exit::{Exit, Failure, OrExit, Outcome};

/// The repository this `xtask` was built from.
pub fn root() -> PathBuf {
    // `xtask/` stands in the root of the repository, which was there when this was compiled.
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    root.canonicalize().unwrap_or_else(|_| root.to_owned())
}

/// The build folder that all emitted crates and reference runtimes share.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Which workload a command is about.
#[derive(Debug, Clone, Args)]
pub struct Named {
    /// A workload of the repository, or the path of a spec.
    pub workload: String,
    /// Where the crate of a spec outside the repository is written, or was.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

impl Named {
    /// A workload of the repository.
    pub fn ours(name: &str) -> Self {
        Self { workload: name.to_owned(), out: None }
    }

    /// Its files.
    pub fn files(&self) -> Outcome<Files> {
        Files::find(&self.workload, self.out.as_deref())
    }
}

/// The files of one workload.
#[derive(Debug, Clone)]
pub struct Files {
    /// What is asked.
    pub spec: PathBuf,
    /// What was decided.
    pub plan: PathBuf,
    /// What rounding was measured to cost, where the spec tolerates any.
    pub calibration: PathBuf,
    /// What was measured.
    pub ledger: PathBuf,
    /// What was made.
    pub crate_dir: PathBuf,
    /// The last comparison, in every form it is read in.
    pub reports: PathBuf,
    /// Whether the spec is one of the repository's own.
    pub is_ours: bool,
}

impl Files {
    /// The files of a workload named on the command line: `quickstart`, or the path of a `.yaml` file.
    fn find(workload: &str, out: Option<&Path>) -> Outcome<Self> {
        let root = root();
        let is_path = workload.ends_with(".yaml") || workload.ends_with(".yml") || workload.contains('/');
        let spec = if is_path {
            PathBuf::from(workload)
        } else {
            root.join("workloads").join(format!("{workload}.yaml"))
        };
        let spec = spec.canonicalize().map_err(|error| {
            Failure::new(
                if is_path { Exit::Spec } else { Exit::Usage },
                format!("{}: {error}; the repository has {}", shown(&spec), workloads().join(", ")),
            )
        })?;
        let folder = spec.parent().unwrap_or(&root).to_owned();
        let stem = spec.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let is_ours = folder == root.join("workloads");
        if out.is_none() && folder.parent() == Some(&root.join("workloads/suite")) {
            let suite = folder.file_name().unwrap_or_default().to_string_lossy();
            return Self::of_suite(&suite, &stem);
        }
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
        Ok(Self {
            plan: folder.join(format!("{stem}.plan.yaml")),
            calibration: folder.join(format!("{stem}.calibration.json")),
            ledger: folder.join("ledger").join(format!("{stem}.jsonl")),
            reports: target().join("reports").join(&stem),
            spec,
            crate_dir,
            is_ours,
        })
    }

    /// The files of an own binary of a suite: its spec is committed, everything made of it lies in the build folder.
    pub fn of_suite(suite: &str, name: &str) -> Outcome<Self> {
        let spec = root().join(format!("workloads/suite/{suite}/{name}.yaml"));
        let folder = target().join("suite").join(suite).join(name);
        std::fs::create_dir_all(&folder).or_exit(Exit::Internal)?;
        Ok(Self {
            plan: folder.join("plan.yaml"),
            calibration: folder.join("calibration.json"),
            ledger: folder.join("ledger.jsonl"),
            reports: folder.join("reports"),
            crate_dir: folder.join("crate"),
            is_ours: false,
            spec,
        })
    }

    /// Whether the crate is a member of the repository's workspace.
    pub fn in_workspace(&self) -> bool {
        self.crate_dir.parent() == Some(&root().join("generated"))
    }
}

/// The names of the workloads in the repository.
pub fn workloads() -> Vec<String> {
    names(&root().join("workloads"), |name| {
        name.strip_suffix(".yaml").filter(|name| !name.ends_with(".plan")).map(str::to_owned)
    })
}

/// The names of the emitted crates in the repository.
pub fn crates() -> Vec<String> {
    let generated = root().join("generated");
    names(&generated, |name| generated.join(name).join("Cargo.toml").exists().then(|| name.to_owned()))
}

fn names(folder: &Path, name: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| name(&entry.file_name().into_string().ok()?)).collect();
    names.sort();
    names
}

/// A path as a message shows it: relative to the current folder where that is shorter.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

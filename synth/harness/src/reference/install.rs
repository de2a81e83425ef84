//! How a runtime gets onto a machine: a fixed route of commands in a folder of its own.
//!
//! Nothing is installed outside `<target>/references/NAME`. Everything fetched is pinned by version and by hash, and an
//! installation that was made by another route than today's counts as none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use synth::hex;

use super::{ReferenceError, home, python, steps};

/// A runtime that is fetched, and how.
pub(super) struct Installation {
    /// The reference's name, and so its folder's.
    pub(super) name: &'static str,
    /// The version that is pinned.
    pub(super) version: &'static str,
    /// Files that the route reads, put into the folder before it begins: name and text.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// What each step is called, and its command in the folder. `{cores}` stands for the number of cores, `{home}` for
    /// the folder, `{python}` for an interpreter that the pinned wheels are made for.
    pub(super) route: &'static [(&'static str, &'static str)],
    /// The program that is there at the end.
    pub(super) program: &'static str,
    /// What the route takes from the machine.
    pub(super) needs: &'static [Need],
}

/// Something of the machine that a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// `python3` of any version, with `venv` and `pip`.
    Python,
    /// A C compiler with its binutils.
    C,
    /// A C++ compiler.
    Cpp,
}

/// Written last, so that a half-made installation is none.
const MARKER: &str = "installed.json";

impl Installation {
    /// Goes the whole route, unless it was gone before, and returns the program. `progress` is told each step and each
    /// line of its output.
    ///
    /// # Errors
    /// When something that the route takes is missing, or a step fails.
    pub(super) fn make(&self, target_dir: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf, ReferenceError> {
        if let Some(program) = self.installed(target_dir) {
            progress(&format!("{} is installed", self.name));
            return Ok(program);
        }
        self.needs.iter().try_for_each(|need| need.check())?;
        let has_python = self.route.iter().any(|(_, command)| command.contains("{python}"));
        let python = if has_python { python::find()? } else { PathBuf::new() };
        let started = Instant::now();
        let home = home(target_dir, self.name);
        let file = |path: &Path, source| ReferenceError::File { path: path.to_owned(), source };
        fs::create_dir_all(&home).map_err(|source| file(&home, source))?;
        let home = home.canonicalize().map_err(|source| file(&home, source))?;
        let log = home.join("install.log");
        let write = |name: &str, text: &str| {
            let path = home.join(name);
            fs::write(&path, text).map_err(|source| file(&path, source))
        };

        for (name, text) in self.files {
            write(name, text)?;
        }
        for (step, command) in self.route {
            progress(step);
            steps::run(step, command_in(&home, command, &python), &log, progress)?;
        }
        let program = home.join(self.program);
        if !program.is_file() {
            return Err(ReferenceError::Step {
                step: format!("installing {}", self.name),
                status: format!("there is no {}", self.program),
                log,
                tail: String::new(),
            });
        }
        let marker = json!({
            "version": self.version, "made_by": self.digest(), "seconds": started.elapsed().as_secs(),
        });
        write(MARKER, &format!("{marker:#}\n"))?;
        Ok(program)
    }

    /// The program, if it was made by exactly this route.
    pub(super) fn installed(&self, target_dir: &Path) -> Option<PathBuf> {
        let home = home(target_dir, self.name);
        let marker: Value = serde_json::from_str(&fs::read_to_string(home.join(MARKER)).ok()?).ok()?;
        let program = home.join(self.program);
        (marker["made_by"] == self.digest() && program.is_file()).then_some(program)
    }

    /// Of everything that decides what is installed.
    fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for (name, text) in self.files.iter().chain(self.route) {
            // No text holds a zero, so no two routes make the same bytes.
            digest.update(format!("{name}\0{text}\0"));
        }
        hex(&digest.finalize())
    }
}

/// One command of the route, at low priority: the whole is long and nobody waits for it.
fn command_in(home: &Path, words: &str, python: &Path) -> Command {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("nice");
    command.args(["-n", "10"]).current_dir(home);
    for word in words.split_whitespace() {
        match word {
            "{cores}" => command.arg(&n_cores),
            "{python}" => command.arg(python),
            _ => command.arg(word.replace("{home}", &home.to_string_lossy())),
        };
    }
    // cmake looks for ninja there.
    command.env("PATH", format!("{}:{path}", home.join("venv/bin").display()));
    command
}

impl Need {
    fn check(self) -> Result<(), ReferenceError> {
        match self {
            Need::Python => works(
                "python3 with venv and pip",
                Command::new("python3").args(["-c", "import venv, ensurepip"]),
                "on Debian: apt-get install python3-venv",
            ),
            Need::C => {
                works("a C compiler", Command::new("cc").arg("--version"), "on Debian: apt-get install gcc")?;
                works("nm", Command::new("nm").arg("--version"), "on Debian: apt-get install binutils")
            }
            Need::Cpp => works(
                "a C++ compiler",
                Command::new("c++").arg("--version"),
                "on Debian: apt-get install g++",
            ),
        }
    }
}

fn works(tool: &'static str, command: &mut Command, cure: &'static str) -> Result<(), ReferenceError> {
    answer(command).map(drop).map_err(|reason| ReferenceError::Tool { tool, reason, cure })
}

/// What a short command prints, or why it does not work.
pub(super) fn answer(command: &mut Command) -> Result<String, String> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(text.trim().lines().last().unwrap_or("it fails without a word").to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOY: Installation = Installation {
        name: "toy",
        version: "1",
        files: &[("words.txt", "hello\n")],
        route: &[("copying", "cp words.txt program")],
        program: "program",
        needs: &[],
    };

    fn target(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("savile-{}-install-{test}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    #[test]
    fn a_route_is_gone_once() {
        let target = target("once");
        assert_eq!(TOY.installed(&target), None);
        let program = TOY.make(&target, &|_| ()).expect("it installs");
        assert_eq!(fs::read_to_string(&program).expect("the program"), "hello\n");
        // A second walk would put the file back.
        fs::write(&program, "touched").expect("a write");
        TOY.make(&target, &|_| ()).expect("it is there");
        assert_eq!(fs::read_to_string(&program).expect("the program"), "touched");
    }

    #[test]
    fn what_another_route_or_other_pins_made_is_stale() {
        let target = target("stale");
        TOY.make(&target, &|_| ()).expect("it installs");
        let other_route = Installation { route: &[("copying", "cp -p words.txt program")], ..TOY };
        let other_pins = Installation { files: &[("words.txt", "bye\n")], ..TOY };
        assert_eq!(other_route.installed(&target), None);
        assert_eq!(other_pins.installed(&target), None);
        let program = other_pins.make(&target, &|_| ()).expect("it installs anew");
        assert_eq!(fs::read_to_string(program).expect("the program"), "bye\n");
    }

    #[test]
    fn a_route_that_fails_or_makes_nothing_installs_nothing() {
        for (test, route) in
            [("fails", &[("failing", "false")] as &[_]), ("empty", &[("doing nothing", "true")])]
        {
            let toy = Installation { route, ..TOY };
            let target = target(test);
            let error = toy.make(&target, &|_| ()).expect_err("nothing is made");
            assert!(matches!(error, ReferenceError::Step { .. }), "{error}");
            assert_eq!(toy.installed(&target), None);
        }
    }
}

//! One command of a long preparation: its output logged, and passed on line by line as progress.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;

use super::ReferenceError;

/// Lines of output that an error carries.
const TAIL: usize = 25;

/// Runs the command to its end, appending its output to `log`.
///
/// # Errors
/// When it cannot be started or does not succeed; the error carries the end of its output.
pub(super) fn run(
    step: &str,
    mut command: Command,
    log: &Path,
    progress: &dyn Fn(&str),
) -> Result<(), ReferenceError> {
    let file = |source| ReferenceError::File { path: log.to_owned(), source };
    let mut record = OpenOptions::new().create(true).append(true).open(log).map_err(file)?;
    writeln!(record, "# {step}: {command:?}").map_err(file)?;

    let failed = |status: String, tail: &VecDeque<String>| ReferenceError::Step {
        step: step.to_owned(),
        status,
        log: log.to_owned(),
        tail: tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n"),
    };
    let mut tail = VecDeque::with_capacity(TAIL);
    let (output, mut child) = spawn(&mut command).map_err(|error| failed(error.to_string(), &tail))?;
    // The parent's ends of the pipe live in the command; while they do, the output has no end.
    drop(command);
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line.map_err(file)?).trim_end().to_owned();
        writeln!(record, "{line}").map_err(file)?;
        if !line.trim().is_empty() {
            progress(line.trim());
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    }
    let status = child.wait().map_err(|error| failed(error.to_string(), &tail))?;
    if status.success() { Ok(()) } else { Err(failed(status.to_string(), &tail)) }
}

/// Builds one of the crates that are kept out of the workspace; cargo itself sees when there is nothing to do.
///
/// # Errors
/// As [`run`].
pub(crate) fn build_crate(
    step: &str,
    folder: &Path,
    target_dir: &Path,
    progress: &dyn Fn(&str),
) -> Result<(), ReferenceError> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir)
        // candle chooses some of its kernels when it is compiled, and its authors build it for the machine at hand.
        .env("RUSTFLAGS", "-C target-cpu=native")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(step, cargo, &target_dir.join("build.log"), progress)
}

/// Starts the command with both of its outputs in one pipe.
fn spawn(command: &mut Command) -> io::Result<(io::PipeReader, std::process::Child)> {
    let (output, input) = io::pipe()?;
    let child =
        command.stdin(std::process::Stdio::null()).stdout(input.try_clone()?).stderr(input).spawn()?;
    Ok((output, child))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_outputs_are_progress_and_log() {
        let log = std::env::temp_dir().join(format!("savile-{}-steps.log", std::process::id()));
        let lines = RefCell::new(Vec::new());
        run("greet", shell("echo one; echo two >&2"), &log, &|line| lines.borrow_mut().push(line.to_owned()))
            .expect("it succeeds");
        assert_eq!(lines.into_inner(), ["one", "two"]);
        let text = std::fs::read_to_string(&log).expect("a log");
        assert!(text.starts_with("# greet: ") && text.ends_with("one\ntwo\n"), "{text}");
    }

    #[test]
    fn a_failure_carries_its_status_and_the_end_of_its_output() {
        let log = std::env::temp_dir().join(format!("savile-{}-steps-failure.log", std::process::id()));
        let error = run("count", shell("seq 1 100; exit 9"), &log, &|_| ()).expect_err("it fails");
        let text = error.to_string();
        assert!(text.contains("count failed") && text.contains('9') && text.ends_with("\n100"), "{text}");
        assert!(!text.contains("\n50\n"), "{text}");
    }
}

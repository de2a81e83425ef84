//! The program that users type, run as they run it: a process of its own, with bounds on its time and memory.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use cargo_metadata::Message;
use serde_json::Value;

/// What became of one run.
#[derive(Debug)]
pub struct Ran {
    /// The exit code, or `None` where a signal ended the process.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Wall-clock time.
    pub took: Duration,
}

impl Ran {
    /// The one JSON object of a run with `--json`.
    pub fn json(&self) -> Result<Value, String> {
        serde_json::from_str(&self.stdout)
            .map_err(|error| format!("standard output is not one JSON object: {error}: {:?}", self.stdout))
    }
}

/// What a run may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Wall-clock time, after which the process is killed.
    pub time: Duration,
    /// Address space, bytes.
    pub memory: Option<u64>,
}

/// Runs `cargo xtask` with these arguments in `folder`.
pub fn xtask(folder: &Path, arguments: &[&str], bounds: Bounds) -> Ran {
    let program = program();
    let mut command = match bounds.memory {
        // `ulimit` counts in KiB; it holds for the process that takes the shell's place.
        Some(bytes) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("ulimit -v {}; exec \"$@\"", bytes >> 10)).arg("sh").arg(program);
            shell
        }
        None => Command::new(program),
    };
    command.args(arguments).current_dir(folder);
    run(&mut command, bounds.time).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

/// Runs a command to its end, or kills it after `time`. It writes into files: a full pipe would make it wait.
pub fn run(command: &mut Command, time: Duration) -> io::Result<Ran> {
    let logs = crate::scratch::Scratch::new("run");
    let (stdout, stderr) = (logs.path().join("stdout"), logs.path().join("stderr"));
    let started = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(File::create(&stdout)?).stderr(File::create(&stderr)?).spawn()?;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if started.elapsed() > time => {
                child.kill()?;
                break child.wait()?;
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let text = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Ran { code: status.code(), stdout: text(&stdout)?, stderr: text(&stderr)?, took: started.elapsed() })
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ has a parent").to_owned()
}

/// The program, built as `cargo xtask` builds it, once.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", "xtask", "--message-format=json"])
            .current_dir(root())
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs, since it runs this test");
        assert!(built.status.success(), "xtask does not build");
        let messages = Message::parse_stream(built.stdout.as_slice());
        let programs = messages.filter_map(|message| match message {
            Ok(Message::CompilerArtifact(it)) if it.target.name == "xtask" => it.executable,
            _ => None,
        });
        programs.last().expect("cargo names the program it built").into_std_path_buf()
    })
}

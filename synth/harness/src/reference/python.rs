//! Runtimes that are Python packages: which interpreter runs them, and what their pins must be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ReferenceError, install, steps};

/// The versions that the pinned wheels are made for, the one to prefer first.
const VERSIONS: [&str; 2] = ["3.12", "3.11"];

/// Stands in for CUDA's libraries, which PyPI's torch is linked against.
pub(super) const WITHOUT_CUDA: &str = include_str!("../../references/python/without_cuda.py");

/// The HTTP half of our servers around libraries.
pub(super) const COMPLETIONS: &str = include_str!("../../references/python/completions.py");

/// The first step of a route, and the last of one that has torch in it.
pub(super) const MAKE: (&str, &str) = ("making a Python environment", "{python} -m venv --clear venv");
pub(super) const STAND_IN: (&str, &str) =
    ("standing in for CUDA, which torch looks for", "venv/bin/python without_cuda.py");

/// The step between: what is pinned, and nothing that is not, so without dependencies.
pub(super) const FETCH: &str = "venv/bin/python -m pip --disable-pip-version-check --no-input install --no-deps \
     --require-hashes --only-binary :all: -r requirements.txt";

/// An interpreter with `venv` and `pip`, of a version that the wheels are made for: on `PATH`, or one of pyenv's.
///
/// # Errors
/// When there is none.
pub(super) fn find() -> Result<PathBuf, ReferenceError> {
    VERSIONS.iter().flat_map(|version| candidates(version)).find(|python| is_fit(python)).ok_or_else(|| {
        ReferenceError::Tool {
            tool: "Python 3.12 or 3.11 with venv and pip",
            reason: "none is on PATH or under pyenv's versions".to_owned(),
            cure: "on Debian 12: apt-get install python3-venv; elsewhere: pyenv install 3.12",
        }
    })
}

/// Where an interpreter of a version may be. `python3` is the last: it may be of any version.
fn candidates(version: &str) -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv"));
    let pyenv = std::env::var_os("PYENV_ROOT").map(PathBuf::from).or(home);
    let mut found = vec![PathBuf::from(format!("python{version}"))];
    let versions = pyenv.and_then(|root| fs::read_dir(root.join("versions")).ok());
    let is_version =
        |name: &str| name.strip_prefix(version).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    found.extend(
        versions
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| is_version(&entry.file_name().to_string_lossy()))
            .map(|entry| entry.path().join("bin/python3")),
    );
    found.push(PathBuf::from("python3"));
    found
}

/// Whether the wheels are made for this interpreter. A shim of pyenv may be there and run nothing.
fn is_fit(python: &Path) -> bool {
    let script = "import venv, ensurepip, sys; print('%d.%d' % sys.version_info[:2])";
    install::answer(Command::new(python).args(["-c", script]))
        .is_ok_and(|version| VERSIONS.contains(&version.as_str()))
}

/// Puts a server's files into the folder of its reference.
pub(super) fn place(home: &Path, files: &[(&str, &str)]) -> Result<(), ReferenceError> {
    for (name, text) in files {
        let path = home.join(name);
        fs::write(&path, text).map_err(|source| ReferenceError::File { path: path.clone(), source })?;
    }
    Ok(())
}

/// Converts a model by a command that is told which folder to write; it appears as `folder` when it is complete.
pub(super) fn convert(
    folder: &Path,
    home: &Path,
    progress: &dyn Fn(&str),
    command: impl FnOnce(&Path) -> Command,
) -> Result<(), ReferenceError> {
    progress("converting the model");
    let partial = folder.with_extension("partial");
    // What an interrupted conversion left.
    drop(fs::remove_dir_all(&partial));
    let mut command = command(&partial);
    // A model lies in a folder; what a hub has under its name is nobody's business.
    command.env("HF_HUB_OFFLINE", "1").env("DO_NOT_TRACK", "1");
    steps::run("converting the model", command, &home.join("convert.log"), progress)?;
    fs::rename(&partial, folder).map_err(|source| ReferenceError::File { path: folder.to_owned(), source })
}

/// What is wrong with a file of pins, if anything: packages without an exact version or without a hash.
#[cfg(test)]
pub(super) fn unpinned(requirements: &str) -> Vec<String> {
    let joined = requirements.replace("\\\n", " ");
    let is_hash = |word: &str| {
        word.strip_prefix("--hash=sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    joined
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .filter(|line| {
            let mut words = line.split_whitespace();
            let is_exact = words.next().is_some_and(|word| word.contains("==") && !word.contains('*'));
            !is_exact || !words.any(is_hash)
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::Client;
    use crate::load::{Finish, Outcome, Request, Target, Wire, closed_loop};
    use crate::process::{Launch, Server, free_port};

    /// An engine that counts, and fails at prompts that begin with 13.
    const COUNTING: &str = "
import completions
def engine(inbox):
    while True:
        sequence = inbox.take(is_idle=True)
        if sequence.prompt[0] == 13:
            sequence.fail('unlucky')
            continue
        for number in range(sequence.max_tokens):
            sequence.add([number])
        sequence.finish()
completions.serve(completions.arguments().parse_args(), engine)
";

    async fn counting(test: &str) -> (Server, Target) {
        let folder = std::env::temp_dir().join(format!("savile-{}-python-{test}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        place(&folder, &[("completions.py", COMPLETIONS), ("server.py", COUNTING)]).expect("its files");
        let listen = free_port().expect("a port");
        let flags = ["--model", "m", "--threads", "1", "--context", "64", "--concurrency", "3", "--listen"];
        let mut args = vec![folder.join("server.py").into_os_string()];
        args.extend(flags.map(Into::into));
        args.push(listen.to_string().into());
        let server = Server::start(Launch {
            program: "python3".into(),
            args,
            env: Vec::new(),
            listen,
            ready_path: "/health",
            timeout: Duration::from_secs(30),
            log: folder.join("log"),
        })
        .await
        .expect("it starts");
        (server, Target::new(Client::new(listen), Wire::OpenAi { model: "m".into() }))
    }

    #[tokio::test]
    async fn our_server_speaks_as_the_load_generator_reads() {
        let (server, target) = counting("speaks").await;
        let requests = [1, 2, 60].map(|max_tokens| Request { prompt: vec![7; 4], max_tokens });
        // Two rounds: the second comes on connections that have answered before.
        for _ in 0..2 {
            for record in closed_loop(&target, &requests, 3, Duration::from_secs(30)).await {
                assert_eq!(record.outcome, Outcome::Complete(Finish::Length));
                assert_eq!(record.n_tokens(), record.wanted_tokens);
            }
        }
        let whole = serde_json::json!({ "model": "m", "prompt": [7], "max_tokens": 3, "stream": false });
        let reply = target.client().post("/v1/completions", &whole).await.expect("an answer");
        assert_eq!(reply.body["choices"][0]["token_ids"], serde_json::json!([0, 1, 2]));
        assert_eq!(reply.body["usage"]["completion_tokens"], 3);
        server.stop().await.expect("it stops");
    }

    #[tokio::test]
    async fn our_server_refuses_and_fails_in_words() {
        let (server, target) = counting("refuses").await;
        let refused =
            target.ask(&Request { prompt: vec![1; 60], max_tokens: 5 }, Duration::from_secs(30)).await;
        assert!(
            matches!(&refused.outcome, Outcome::Failed(why) if why.contains("context of 64")),
            "{refused:?}"
        );
        let failed = target.ask(&Request { prompt: vec![13], max_tokens: 5 }, Duration::from_secs(30)).await;
        assert!(matches!(&failed.outcome, Outcome::Failed(why) if why.contains("unlucky")), "{failed:?}");
        server.stop().await.expect("it stops");
    }

    #[test]
    fn a_pin_has_a_version_and_a_hash() {
        let hash = format!("--hash=sha256:{}", "0a".repeat(32));
        let good =
            format!("# why\na==1.0 \\\n    {hash}\nb_c==2 ; python_version < \"3.12\" \\\n    {hash}\n");
        assert_eq!(unpinned(&good), [""; 0]);
        for bad in ["a==1.0", &format!("a>=1.0 {hash}"), &format!("a==1.* {hash}"), "a==1.0 --hash=sha256:0a"]
        {
            assert_eq!(unpinned(bad), [bad]);
        }
    }
}

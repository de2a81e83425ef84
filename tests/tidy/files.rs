//! What every file has, and what no file holds.

use super::{File, Repository};

/// The largest file that a clone should have to fetch.
const MAX_BYTES: u64 = 12 << 20;

pub fn findings(repository: &Repository) -> Vec<String> {
    let mut findings = Vec::new();
    for file in &repository.files {
        if file.n_bytes > MAX_BYTES {
            let path = &file.path;
            findings.push(format!("{path}: {} bytes; a file holds {MAX_BYTES} at most", file.n_bytes));
        }
        if let Some(text) = &file.text {
            machine_paths(file, text, &mut findings);
            if file.path.ends_with(".rs") {
                module_doc(file, text, &mut findings);
                ignored_tests(file, text, &mut findings);
                impurity(file, text, &mut findings);
            }
        }
    }
    yaml_door(repository, &mut findings);
    findings
}

/// Every module says what it is for. Tests of a module speak for themselves, cases of the UI tests are data.
fn module_doc(file: &File, text: &str, findings: &mut Vec<String>) {
    let is_test = file.path.ends_with("/tests.rs") || file.path.contains("/tests/ui/");
    let opens = text.trim_start().strip_prefix("//!").is_some_and(|doc| !doc.trim().is_empty());
    if !is_test && !opens {
        findings
            .push(format!("{}:1: open the file with a `//!` sentence that says what it is for", file.path));
    }
}

/// A test that does not run proves nothing.
fn ignored_tests(file: &File, text: &str, findings: &mut Vec<String>) {
    // Put together here, so that this file does not hold what it looks for.
    let marks = [["#[", "ignore"].concat(), ["```", "ignore"].concat()];
    for (line, content) in lines(text) {
        if marks.iter().any(|mark| content.contains(mark)) {
            findings.push(format!(
                "{}:{line}: every test runs: make it fast and offline, or remove it",
                file.path
            ));
        }
    }
}

/// `synth` gives the same answer at any time, in any place, on any machine. It runs rustfmt, which the toolchain pins,
/// and nothing else. Its tests may look at the clock.
fn impurity(file: &File, text: &str, findings: &mut Vec<String>) {
    const RUNS_RUSTFMT: &str = "synth/src/source_tree/format.rs";
    let marks = ["Instant::now", "SystemTime", "env::var", "std::net", "Command::new", "thread::spawn"];
    if !file.path.starts_with("synth/src/") || file.path.contains("/tests") {
        return;
    }
    for (line, content) in lines(text) {
        let is_rustfmt = file.path == RUNS_RUSTFMT && content.contains("Command::new(\"rustfmt\")");
        if let Some(mark) = marks.iter().find(|mark| content.contains(**mark) && !is_rustfmt) {
            findings.push(format!(
                "{}:{line}: `synth` is pure, `{mark}` is not: move the work to `harness`",
                file.path
            ));
        }
    }
}

/// Paths of one machine mean nothing on another.
fn machine_paths(file: &File, text: &str, findings: &mut Vec<String>) {
    let roots = ["home", "root", "Users", "work"].map(|name| format!("/{name}/"));
    for (line, content) in lines(text) {
        let names_machine = |root: &String| {
            content.match_indices(root.as_str()).any(|(at, _)| {
                // A longer path that only contains the name, as a URL may, is not of a machine.
                let before = content[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || "._-~/}".contains(c))
            })
        };
        if roots.iter().any(names_machine) {
            findings.push(format!("{}:{line}: a path of one machine: make it relative", file.path));
        }
    }
}

/// `serde_yaml` is archived, so one file uses it and one file is exchanged when it must go.
fn yaml_door(repository: &Repository, findings: &mut Vec<String>) {
    const DOOR: &str = "synth/src/yaml.rs";
    let name = ["serde", "_yaml::"].concat();
    for file in repository.files.iter().filter(|file| file.path.ends_with(".rs") && file.path != DOOR) {
        for (line, content) in lines(file.text.as_deref().unwrap_or_default()) {
            if content.contains(&name) {
                findings
                    .push(format!("{}:{line}: only {DOOR} names the YAML library: go through it", file.path));
            }
        }
    }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(idx, line)| (idx + 1, line))
}

#[test]
fn planted_faults_are_found() {
    let yaml = ["serde", "_yaml::from_str(x)"].concat();
    let ignored = ["#[", "ignore]"].concat();
    let homes = ["see `/ho", "me/someone/x`"].concat();
    let others = ["https://host/ho", "me/x, a/wo", "rk/b, /ho", "mes/"].concat();
    let repository = Repository::of(&[
        ("a.md", homes.as_str()),
        ("b.md", others.as_str()),
        ("c.rs", "fn undocumented() {}"),
        ("d.rs", &format!("//! D.\n{ignored}\n{yaml}\n")),
        ("synth/src/plan.rs", "//! Plan.\nlet now = Instant::now();\n"),
        ("synth/src/plan/tests.rs", "let now = Instant::now();\n"),
        ("synth/src/source_tree/format.rs", "//! F.\nCommand::new(\"rustfmt\");\nCommand::new(\"git\");\n"),
        ("synth/src/yaml.rs", &format!("//! The door.\n{yaml}\n")),
        ("x/tests.rs", "fn a_test() {}"),
    ]);
    super::assert_findings(
        &findings(&repository),
        &[
            "a.md:1: a path",
            "c.rs:1: open",
            "d.rs:2: every",
            "synth/src/plan.rs:2: `synth` is pure",
            "synth/src/source_tree/format.rs:3: `synth` is pure",
            "d.rs:3: only",
        ],
    );
}

#[test]
fn a_large_file_is_found() {
    let mut repository = Repository::of(&[("weights.bin", "")]);
    repository.files[0].n_bytes = MAX_BYTES + 1;
    super::assert_findings(&findings(&repository), &["weights.bin: 12582913 bytes"]);
}

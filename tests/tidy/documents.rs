//! What must be written down: mechanisms, emitted crates, decisions.

use super::Repository;

pub fn findings(repository: &Repository) -> Vec<String> {
    let mut findings = mechanisms(repository);
    findings.extend(emitted_crates(repository));
    findings.extend(decisions(repository));
    findings
}

/// A mechanism is a folder that says when it wins, and decides.
fn mechanisms(repository: &Repository) -> Vec<String> {
    // `kernels` and `skeleton` are shared by mechanisms, each folder of `families` is one.
    const SHARED: [&str; 3] = ["families", "kernels", "skeleton"];
    let own = repository.folders_in("templates/").into_iter().filter(|name| !SHARED.contains(name));
    let families =
        repository.folders_in("templates/families/").into_iter().map(|name| format!("families/{name}"));
    let mut findings = Vec::new();
    for folder in own.map(str::to_owned).chain(families) {
        for file in ["README.md", "mod.rs"] {
            let path = format!("templates/{folder}/{file}");
            if !repository.has(&path) {
                findings.push(format!("{path}: missing; a mechanism has README.md and mod.rs"));
            }
        }
    }
    findings
}

/// People read emitted crates, and begin with the README.
fn emitted_crates(repository: &Repository) -> Vec<String> {
    let crates = repository.folders_in("generated/");
    let readmes = crates.iter().map(|name| format!("generated/{name}/README.md"));
    let absent = readmes.filter(|path| !repository.has(path));
    absent.map(|path| format!("{path}: missing; an emitted crate says what it serves and why so")).collect()
}

/// ADRs are numbered without a gap and have the sections of the template.
fn decisions(repository: &Repository) -> Vec<String> {
    let names = repository.files.iter().filter_map(|file| file.path.strip_prefix("docs/adr/"));
    let numbered: Vec<&str> = names.filter(|name| *name != "template.md").collect();
    let mut findings = Vec::new();
    if !repository.has("docs/adr/template.md") {
        findings.push("docs/adr/template.md: missing; new decisions start from it".to_owned());
    }
    for (idx, name) in numbered.iter().enumerate() {
        let number = format!("{:04}", idx + 1);
        let path = format!("docs/adr/{name}");
        if !name.starts_with(&format!("{number}-")) || !name.ends_with(".md") {
            findings.push(format!(
                "{path}: name it `{number}-what-was-decided.md`: numbers have no gap and no twin"
            ));
        }
        let text = repository.text(&path).unwrap_or_default();
        if !text.starts_with(&format!("# {}. ", idx + 1)) {
            findings.push(format!("{path}:1: open with `# {}. What was decided`", idx + 1));
        }
        for section in ["Context", "Decision", "Consequences"] {
            if !text.lines().any(|line| line == format!("## {section}")) {
                findings.push(format!("{path}: the section `## {section}` is missing"));
            }
        }
    }
    findings
}

#[test]
fn planted_faults_are_found() {
    let adr = "# 1. First\n## Context\n## Decision\n## Consequences\n";
    let repository = Repository::of(&[
        ("docs/adr/0001-first.md", adr),
        ("docs/adr/0003-third.md", "# 3. Third\n## Context\n## Consequences\n"),
        ("generated/README.md", ""),
        ("generated/quickstart/src/main.rs", ""),
        ("templates/families/dense/mod.rs", ""),
        ("templates/kernels/x.rs", ""),
        ("templates/paged_kv/README.md", ""),
        ("templates/paged_kv/mod.rs", ""),
    ]);
    super::assert_findings(
        &findings(&repository),
        &[
            "templates/families/dense/README.md: missing",
            "generated/quickstart/README.md: missing",
            "docs/adr/template.md: missing",
            "docs/adr/0003-third.md: name it `0002-",
            "docs/adr/0003-third.md:1: open",
            "docs/adr/0003-third.md: the section `## Decision`",
        ],
    );
}

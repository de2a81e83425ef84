//! Dependency direction: which of our crates each of our crates may name.

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

use super::Repository;

/// The rooms, and whom each may see. Emitted crates share one row.
const MAY_SEE: [(&str, &[&str]); 7] = [
    ("synth", &[]),
    ("synth-macros", &[]),
    ("rt", &[]),
    ("oracle", &[]),
    ("harness", &["oracle", "synth"]),
    ("templates", &["synth", "synth-macros"]),
    ("generated/*", &["rt", "synth-macros"]),
];

/// Rooms that wire or test the others.
const SEE_ALL: [&str; 2] = ["savile-tests", "xtask"];

/// What a test may see beyond its room: `synth` renders what the macro has checked.
const TESTS_MAY_SEE: [(&str, &str); 1] = [("synth", "synth-macros")];

/// What makes a library depend on clock, network or scheduler. `synth` is pure, so it names none of them.
const IMPURE: [&str; 8] = ["axum", "hf-hub", "hyper", "rand", "reqwest", "tokio", "tracing", "ureq"];

pub fn findings(repository: &Repository) -> Vec<String> {
    let manifest = repository.root.join("Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec();
    let metadata = match metadata {
        Ok(metadata) => metadata,
        Err(error) => return vec![format!("Cargo.toml: cannot be read by cargo: {error}")],
    };
    metadata.packages.iter().flat_map(|package| findings_of(package, &repository.root)).collect()
}

fn findings_of(package: &Package, root: &std::path::Path) -> Vec<String> {
    let manifest = package.manifest_path.as_std_path();
    let manifest = manifest.strip_prefix(root).unwrap_or(manifest).display().to_string();
    let is_emitted = manifest.starts_with("generated/");
    let room = if is_emitted { "generated/*" } else { package.name.as_str() };
    let mut findings = Vec::new();
    if is_emitted && package.targets.iter().any(|target| !target.is_bin()) {
        findings
            .push(format!("{manifest}: an emitted crate is one binary, so that rustc finds what is unused"));
    }
    for dependency in &package.dependencies {
        let name = dependency.name.as_str();
        let is_ours = dependency.path.is_some();
        let is_test = dependency.kind == DependencyKind::Development;
        if is_ours && !may_see(room, name, is_test) {
            findings.push(format!(
                "{manifest}: `{room}` must not see `{name}` (tests/tidy/rooms.rs says who may)"
            ));
        }
        if room == "synth" && IMPURE.contains(&name) && !is_test {
            findings
                .push(format!("{manifest}: `synth` is pure, `{name}` is not: move the work to `harness`"));
        }
    }
    findings
}

fn may_see(room: &str, name: &str, is_test: bool) -> bool {
    SEE_ALL.contains(&room)
        || is_test && TESTS_MAY_SEE.contains(&(room, name))
        || MAY_SEE.iter().any(|(seer, seen)| *seer == room && seen.contains(&name))
}

#[test]
fn the_table_keeps_truth_and_answer_apart() {
    for (room, name) in [
        ("oracle", "rt"),
        ("rt", "synth"),
        ("synth", "templates"),
        ("generated/*", "synth"),
        ("a new room", "synth"),
    ] {
        assert!(!may_see(room, name, false), "{room} -> {name}");
    }
    assert!(may_see("xtask", "oracle", false));
    assert!(may_see("generated/*", "rt", false));
    assert!(may_see("synth", "synth-macros", true) && !may_see("synth", "synth-macros", false));
}

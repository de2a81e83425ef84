//! What documents say about the code: every room is on the map, and every name on it leads somewhere.

use super::{File, Repository};

/// The map of the repository.
const MAP: &str = "ARCHITECTURE.md";

/// The page of the ledger's format, and the types it describes.
const LEDGER: &str = "docs/ledger.md";
const RECORDS: [(&str, &[&str]); 7] = [
    ("synth/harness/src/ledger.rs", &["Entry", "Proven", "Server", "Race", "Cell", "Figure", "Headline"]),
    ("synth/harness/src/ledger/suite.rs", &["SuiteEntry", "Ours"]),
    ("synth/harness/src/suite/run.rs", &["Entrant", "Figure"]),
    ("synth/harness/src/suite/limit.rs", &["Ceilings", "Reads", "Limit"]),
    ("synth/harness/src/prove/proof.rs", &["Digests"]),
    ("synth/harness/src/bench/host.rs", &["Host", "Noise"]),
    ("synth/harness/src/bench/roofline.rs", &["Roofline", "RooflineFraction"]),
];

/// Stand for a name of the reader's choice.
const PLACEHOLDERS: [&str; 4] = ["ID", "ISA", "NAME", "X"];

/// Made by a command, whose `--check` says whether it is there.
const MADE: [&str; 1] = ["docs/catalogue.md"];

pub fn findings(repository: &Repository) -> Vec<String> {
    let mut findings = rooms_on_the_map(repository);
    findings.extend(fields_of_the_ledger(repository));
    for file in &repository.files {
        if is_ours(&file.path) {
            findings.extend(dead_names(repository, file));
            findings.extend(dead_commands(repository, file));
        }
    }
    findings
}

/// Documents that people write about the code.
fn is_ours(path: &str) -> bool {
    path.ends_with(".md") && (path.starts_with("docs/") || !path.contains('/'))
}

/// The map names every member of the workspace and every folder of the catalogue, as `` `folder/` ``.
fn rooms_on_the_map(repository: &Repository) -> Vec<String> {
    let Some(map) = repository.text(MAP) else {
        return vec![format!("{MAP}: missing; it is where readers begin")];
    };
    let manifest = repository.text("Cargo.toml").unwrap_or_default();
    let members = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
    let members = members.map_or("", |(members, _)| members).split('"').skip(1).step_by(2);
    let members = members.map(|member| member.trim_end_matches("/*").to_owned());
    let catalogue = repository.folders_in("templates/").into_iter().map(|name| format!("templates/{name}"));
    let rooms = members.chain(catalogue).filter(|room| !map.contains(&format!("`{room}/`")));
    rooms.map(|room| format!("{MAP}: say in a sentence what `{room}/` is for")).collect()
}

/// Every field of a line of the ledger is explained.
fn fields_of_the_ledger(repository: &Repository) -> Vec<String> {
    let page = repository.text(LEDGER).unwrap_or_default();
    let mut findings = Vec::new();
    for (path, types) in RECORDS {
        let code = repository.text(path).unwrap_or_default();
        for name in types {
            let body =
                code.split_once(&format!("struct {name} {{\n")).and_then(|(_, rest)| rest.split_once("\n}"));
            for line in body.map_or("", |(body, _)| body).lines() {
                let declaration = line.trim().trim_start_matches("pub ");
                let field = declaration.split_once(": ").map_or("", |(field, _)| field);
                let is_field = !field.is_empty() && field.chars().all(|c| c.is_lowercase() || c == '_');
                if is_field && !page.contains(&format!("`{field}`")) {
                    findings.push(format!("{LEDGER}: explain `{field}` of `{name}` ({path})"));
                }
            }
        }
    }
    findings
}

/// Code in a document, such as `` `docs/style.md` `` or `` `tests/tidy.rs::Repository` ``, is there.
fn dead_names(repository: &Repository, file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, content) in file.text.as_deref().unwrap_or_default().lines().enumerate() {
        for code in content.split('`').skip(1).step_by(2) {
            let (path, name) = code.split_once("::").map_or((code, None), |(path, name)| (path, Some(name)));
            if is_of_the_repository(repository, path) && !leads_somewhere(repository, path, name) {
                findings.push(format!("{}:{}: `{code}` is not there", file.path, line + 1));
            }
        }
    }
    findings
}

/// Every `cargo xtask COMMAND` that a reader may type is a file of `xtask/`.
fn dead_commands(repository: &Repository, file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, content) in file.text.as_deref().unwrap_or_default().lines().enumerate() {
        for rest in content.split("cargo xtask ").skip(1) {
            let command = rest.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
            if !command.is_empty() && !repository.has(&format!("xtask/src/{command}.rs")) {
                findings.push(format!("{}:{}: there is no `cargo xtask {command}`", file.path, line + 1));
            }
        }
    }
    findings
}

/// Whether this is a path that begins in a folder we have, and is no pattern.
fn is_of_the_repository(repository: &Repository, path: &str) -> bool {
    let Some((first, _)) = path.split_once('/') else { return false };
    let is_plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let has_placeholder =
        path.split('/').any(|name| PLACEHOLDERS.contains(&name.split('.').next().unwrap_or_default()));
    is_plain
        && !has_placeholder
        && !MADE.contains(&path)
        && repository.files.iter().any(|file| file.path.split('/').next() == Some(first))
}

fn leads_somewhere(repository: &Repository, path: &str, name: Option<&str>) -> bool {
    let folder = format!("{}/", path.trim_end_matches('/'));
    let Some(name) = name else {
        return repository.has(path) || repository.files.iter().any(|file| file.path.starts_with(&folder));
    };
    let is_of_a_name = |c: char| c.is_alphanumeric() || c == '_';
    let text = repository.text(path).unwrap_or_default();
    text.split(|c| !is_of_a_name(c)).any(|word| word == name)
}

#[test]
fn planted_faults_are_found() {
    let map = "`synth/` `generated/` `templates/here/`\n\
               `synth/gone.rs` `synth/lib.rs::gone` `synth/lib.rs::plan` `synth/NAME.rs` `elsewhere/x` `synth/*.rs`\n";
    let entry = "struct Entry {\n    /// Its number.\n    pub id: u64,\n    seed: u64,\n}\n";
    let repository = Repository::of(&[
        ("ARCHITECTURE.md", map),
        ("Cargo.toml", "members = [\"synth\", \"synth/rt\", \"generated/*\"]\nexclude = [\"x\"]\n"),
        (
            "docs/ledger.md",
            "`seed`, and id\n\n$ cargo xtask bench X | cargo xtask gone, cargo xtask --help\n",
        ),
        ("synth/harness/src/ledger.rs", entry),
        ("synth/lib.rs", "fn plan() {}"),
        ("synth/notes.md", "`synth/gone.rs`"),
        ("templates/here/mod.rs", ""),
        ("templates/lost/mod.rs", ""),
        ("xtask/src/bench.rs", ""),
    ]);
    super::assert_findings(
        &findings(&repository),
        &[
            "ARCHITECTURE.md: say in a sentence what `synth/rt/`",
            "ARCHITECTURE.md: say in a sentence what `templates/lost/`",
            "docs/ledger.md: explain `id` of `Entry`",
            "ARCHITECTURE.md:2: `synth/gone.rs`",
            "ARCHITECTURE.md:2: `synth/lib.rs::gone`",
            "docs/ledger.md:3: there is no `cargo xtask gone`",
        ],
    );
    super::assert_findings(&findings(&Repository::of(&[])), &["ARCHITECTURE.md: missing"]);
}

#[test]
fn every_type_of_the_ledger_is_found() {
    let repository = Repository::read();
    for (path, types) in RECORDS {
        let code = repository.text(path).unwrap_or_default();
        for name in types {
            assert!(code.contains(&format!("struct {name} {{\n")), "{path} has no struct {name}");
        }
    }
}

//! Rules that need no syntax: words that no emitted file holds.

use super::Finding;

const UNFINISHED: [&str; 3] = ["TODO", "FIXME", "XXX"];

/// Reads one file, Rust or not.
pub fn read(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (idx, line) in text.lines().enumerate() {
        let mut push = |rule, message: String| {
            findings.push(Finding { file: path.to_owned(), line: idx + 1, rule, message });
        };
        for word in words(line) {
            if UNFINISHED.contains(&word) {
                push(
                    "unfinished",
                    format!("`{word}` is a promise to nobody: finish it, or say why it ends here"),
                );
            }
            if word.eq_ignore_ascii_case("generated") && path != "README.md" {
                let message = "only README.md says where this crate comes from: drop the word `generated`; tokens are `sampled`";
                push("word-generated", message.to_owned());
            }
        }
    }
    findings
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

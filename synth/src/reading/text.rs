//! Rules that need no syntax: words that no emitted file holds.
//!
//! What stands in quotes is not ours to word: names and paths are the user's, special tokens the model's. Nor is the
//! chat template, which is the model's to the letter.

use std::borrow::Cow;

use proc_macro2::{TokenStream, TokenTree};

use super::Finding;

const UNFINISHED: [&str; 3] = ["TODO", "FIXME", "XXX"];

/// Reads one file, Rust or not.
pub fn read(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let text = match path.rsplit_once('.') {
        Some((_, "jinja")) => return findings,
        Some((_, "rs")) => without_strings(text),
        Some((_, "toml")) => without_quoted(text),
        _ => Cow::Borrowed(text),
    };
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

/// The first word of a text that no emitted file may hold.
pub fn unfit_word(text: &str) -> Option<&str> {
    words(text).find(|word| UNFINISHED.contains(word) || word.eq_ignore_ascii_case("generated"))
}

/// Rust with its string literals blanked out, each line in its place. What is no Rust is left as it is.
fn without_strings(text: &str) -> Cow<'_, str> {
    let Ok(tokens) = text.parse() else { return Cow::Borrowed(text) };
    let mut bytes = text.as_bytes().to_vec();
    blank_strings(tokens, &mut bytes);
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn blank_strings(tokens: TokenStream, bytes: &mut [u8]) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => blank_strings(group.stream(), bytes),
            TokenTree::Literal(literal) => {
                let literal = &mut bytes[literal.span().byte_range()];
                // A doc comment is the literal of an attribute, and spans its comment.
                if !literal.starts_with(b"/") && literal.contains(&b'"') {
                    literal.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

/// TOML with its quoted values blanked out.
fn without_quoted(text: &str) -> Cow<'_, str> {
    let lines = text.lines().map(|line| match line.split_once(" = ") {
        Some((key, _)) if !line.starts_with('#') => key,
        _ => line,
    });
    Cow::Owned(lines.collect::<Vec<_>>().join("\n"))
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

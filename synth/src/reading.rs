//! The reading gate: emitted code is read by people, so what nobody should have to read does not pass.
//!
//! rustc proves that nothing in an emitted binary is unused. This gate looks for what rustc and clippy accept
//! and a reader would not: a branch that never varies, a choice left open, a constant without its reason, a
//! danger without its argument. [`check`] reports everything it finds, each finding with its cure.

mod comments;
mod conditions;
mod crate_facts;
mod items;
mod promises;
mod text;
mod visit;

use std::fmt;

use proc_macro2::{LexError, TokenStream};
use serde::Serialize;

use crate::source_tree::SourceTree;
use comments::Comments;
use crate_facts::CrateFacts;
pub(crate) use text::unfit_word;

/// One place that a reader should not meet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Path of the file inside the crate.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Name of the rule.
    pub rule: &'static str,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.message)
    }
}

/// Reads every file of an emitted crate. Findings come in the order of files and lines; none means it may ship.
pub fn check(tree: &SourceTree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut pages = Vec::new();
    for (path, text) in tree.iter() {
        findings.extend(text::read(path, text));
        if path.ends_with(".rs") {
            match Page::parse(path, text) {
                Ok(page) => pages.push(page),
                Err(finding) => findings.push(finding),
            }
        }
    }
    let facts = CrateFacts::gather(&pages);
    findings.extend(facts.lonely_traits());
    for page in &pages {
        findings.extend(visit::read(page, &facts));
    }
    findings.sort();
    findings.dedup();
    findings
}

/// A file of Rust with what its syntax tree leaves out.
struct Page<'a> {
    path: &'a str,
    syntax: syn::File,
    comments: Comments<'a>,
}

impl<'a> Page<'a> {
    fn parse(path: &'a str, text: &'a str) -> Result<Page<'a>, Finding> {
        let refused = |error: syn::Error| Finding {
            file: path.to_owned(),
            line: error.span().start().line,
            rule: "not-rust",
            message: format!("{error}: this file cannot be parsed"),
        };
        let tokens: TokenStream = text.parse().map_err(|error: LexError| refused(error.into()))?;
        let comments = Comments::gather(text, &tokens);
        let syntax = syn::parse2(tokens).map_err(refused)?;
        Ok(Page { path, syntax, comments })
    }

    fn finding(&self, line: usize, rule: &'static str, message: impl Into<String>) -> Finding {
        Finding { file: self.path.to_owned(), line, rule, message: message.into() }
    }
}

#[cfg(test)]
mod tests;

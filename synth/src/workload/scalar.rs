//! One value of a spec as what its field takes, or what was expected instead.

use std::time::Duration;

use super::check::{listed, suggest};
use super::field::Kind;
use super::file::Node;
use super::{Bytes, units};

/// Names that cargo or rustc keep for themselves, or that crates of this workspace have; `-` counts as `_`.
const TAKEN: &str = "
    abstract alloc as async await become box break build const continue core crate deps do dyn else enum
    examples extern false final fn for gen harness if impl in incremental let loop macro match mod move
    mut oracle override priv proc_macro pub ref return rt savile_tests self static std struct super synth
    synth_macros templates test trait true try type typeof union unsafe unsized use virtual where while
    xtask yield";

pub(super) fn integer(node: &Node, min: i128, max: i128) -> Result<usize, String> {
    match node {
        Node::Integer(value) if (min..=max).contains(value) => {
            usize::try_from(*value).map_err(|error| error.to_string())
        }
        _ => Err(format!("expected a whole number from {min} to {max}, found {node}")),
    }
}

pub(super) fn number(node: &Node, above: f64, most: f64) -> Result<f64, String> {
    let value = match node {
        Node::Integer(value) => *value as f64,
        Node::Float(value) => *value,
        _ => f64::NAN,
    };
    // Not a number compares false with everything, so it is refused here as well.
    let fits = value > above && value <= most;
    fits.then_some(value)
        .ok_or_else(|| format!("expected a number above {above} and up to {most}, found {node}"))
}

pub(super) fn choice<'a>(words: &'a [&'a str], node: &Node) -> Result<&'a str, String> {
    let found = match node {
        Node::Text(found) => found.as_str(),
        _ => "",
    };
    let expected = || match words {
        [word] => format!("expected `{word}`, found {node}"),
        _ => format!(
            "expected one of {}, found {node}{}",
            listed(words),
            suggest(found, words.iter().copied())
        ),
    };
    words.iter().find(|word| **word == found).copied().ok_or_else(expected)
}

pub(super) fn text<'a>(node: &'a Node, what: &str) -> Result<&'a str, String> {
    match node {
        Node::Text(text) if !text.is_empty() && text.len() <= 4096 && !text.contains('\0') => Ok(text),
        _ => Err(format!("expected {what}, found {node}")),
    }
}

pub(super) fn size(node: &Node) -> Result<Bytes, String> {
    let hint = match node {
        Node::Integer(value) if (1..4096).contains(value) => format!("; did you mean `{value}GiB`?"),
        _ => String::new(),
    };
    let parsed = if let Node::Text(text) = node { units::bytes(text) } else { None };
    parsed.ok_or_else(|| format!("expected {}, found {node}{hint}", units::SIZE))
}

pub(super) fn time(node: &Node) -> Result<Duration, String> {
    let hint = match node {
        Node::Integer(value) if *value > 0 => format!("; did you mean `{value}ms`?"),
        _ => String::new(),
    };
    let parsed = if let Node::Text(text) = node { units::duration(text) } else { None };
    parsed.ok_or_else(|| format!("expected {}, found {node}{hint}", units::TIME))
}

pub(super) fn crate_name(node: &Node) -> Result<(), String> {
    let name = text(node, &Kind::CrateName.expected(""))?;
    let plain = name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if !plain {
        return Err(format!(
            "expected {}, at most 64 of them, a letter first; found {node}",
            Kind::CrateName.expected("")
        ));
    }
    if TAKEN.split_whitespace().any(|taken| taken == name.replace('-', "_")) {
        return Err(format!("{node} is a word of Rust or the name of another crate; choose another name"));
    }
    Ok(())
}

pub(super) fn repository(node: &Node) -> Result<(), String> {
    let expected = Kind::Repository.expected("");
    let name = text(node, &expected)?;
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [org, repo] if part(org) && part(repo) && name.len() <= 192 => Ok(()),
        _ => Err(format!("expected {expected}, found {node}")),
    }
}

pub(super) fn revision(node: &Node) -> Result<(), String> {
    let name = text(node, "a branch, tag or commit")?;
    let plain = name.len() <= 128
        && !name.split('/').any(|part| part.is_empty() || part.starts_with('.'))
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    if plain { Ok(()) } else { Err(format!("expected a branch, tag or commit, found {node}")) }
}

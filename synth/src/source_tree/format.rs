//! Formatting emitted Rust as this repository formats its own.

use std::{
    io::{self, Write},
    process::{Command, Stdio},
};

/// The settings of `rustfmt.toml`; a test holds the two together.
const SETTINGS: &str = "max_width=110,use_small_heuristics=Max";

/// Why a text was not formatted.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// There is no rustfmt.
    #[error("cannot run rustfmt: {0}; install it with `rustup component add rustfmt`")]
    Missing(#[source] io::Error),
    /// The text is no Rust.
    #[error("rustfmt refuses {path}:\n{message}")]
    Refused {
        /// The emitted file.
        path: String,
        /// What rustfmt printed, with lines that count from 1.
        message: String,
    },
}

/// Formats the text of the file at `path`. Comments and single blank lines survive.
///
/// The result depends on the text and on the toolchain alone: no `rustfmt.toml` of the machine is read.
pub fn format_rust(path: &str, text: &str) -> Result<String, FormatError> {
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path", "/dev/null", "--config", SETTINGS])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(FormatError::Missing)?;
    let refused = |message: String| FormatError::Refused { path: path.to_owned(), message };
    // rustfmt reads all of its input before it writes, so writing first cannot block for ever.
    let fed = rustfmt.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let output = rustfmt.wait_with_output().map_err(|error| refused(error.to_string()))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).replace("<stdin>", path);
        return Err(refused(message.trim_end().to_owned()));
    }
    fed.map_err(|error| refused(error.to_string()))?;
    String::from_utf8(output.stdout).map_err(|error| refused(error.to_string()))
}

/// Widest comment: prose may be a little wider than code.
const WIDTH: usize = 120;

/// Sets paragraphs of comments anew where one of their lines is wider than it may be, which rustfmt leaves as they are:
/// reasons come at any length.
///
/// Only lines that hold nothing but a comment are touched, and each piece gets the same marker.
pub fn wrap_comments(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut wrapped = String::with_capacity(text.len());
    let mut start = 0;
    while start < lines.len() {
        let n_more = lines[start + 1..].iter().take_while(|line| goes_on(lines[start], line)).count();
        let paragraph = &lines[start..=start + n_more];
        match comment(lines[start]) {
            Some((lead, _)) if paragraph.iter().any(|line| line.chars().count() > WIDTH) => {
                wrap(lead, paragraph, &mut wrapped);
            }
            _ => paragraph.iter().for_each(|line| wrapped.extend([line, "\n"])),
        }
        start += n_more + 1;
    }
    wrapped
}

/// The indent with the marker, and the words of a line that is a comment.
fn comment(line: &str) -> Option<(&str, &str)> {
    let indent = line.len() - line.trim_start().len();
    let marker = ["/// ", "//! ", "// "].into_iter().find(|marker| line[indent..].starts_with(marker))?;
    Some(line.split_at(indent + marker.len()))
}

/// Whether `line` goes on with the paragraph, or with the item of a list, that begins with `first`.
fn goes_on(first: &str, line: &str) -> bool {
    let (Some((lead, begun)), Some((same, words))) = (comment(first), comment(line)) else { return false };
    // What goes on with an item stands below its first word, as Markdown has it.
    let goes_on = match is_item(begun) {
        true => words.starts_with("  "),
        false => !words.starts_with(' '),
    };
    lead == same && goes_on && is_prose(begun) && is_prose(words) && !is_item(words)
}

fn is_item(words: &str) -> bool {
    words.starts_with("* ") || words.starts_with("- ")
}

/// Whether words are no heading, row of a table, fence or ruler.
fn is_prose(words: &str) -> bool {
    !["#", "|", "```", "---"].iter().any(|mark| words.trim_start().starts_with(mark))
}

fn wrap(lead: &str, paragraph: &[&str], out: &mut String) {
    let words =
        paragraph.iter().filter_map(|line| comment(line)).flat_map(|(_, words)| words.split_whitespace());
    let below = if is_item(&paragraph[0][lead.len()..]) { "  " } else { "" };
    let mut line = lead.trim_end().to_owned();
    let mut is_empty = true;
    for word in words {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = format!("{}{below}", lead.trim_end());
        }
        line.push(' ');
        line.push_str(word);
        is_empty = false;
    }
    out.push_str(&line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_comments_are_broken_between_words_and_nothing_else_is() {
        let long = "word ".repeat(40);
        let text = format!("    /// {}\nlet text = \"{long}\";\n// short\n", long.trim_end());
        let wrapped = wrap_comments(&text);
        let lines: Vec<&str> = wrapped.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[..2].iter().all(|line| line.starts_with("    /// word") && line.len() <= WIDTH));
        assert_eq!(lines[2..], text.lines().skip(1).collect::<Vec<_>>());
        assert_eq!(lines[..2].join(" ").matches("word").count(), 40);
        assert_eq!(wrap_comments(&wrapped), wrapped);
        let item = wrap_comments(&format!("//! * {}\n", long.trim_end()));
        assert!(item.lines().skip(1).all(|line| line.starts_with("//!   word")), "{item}");
        let one_word = format!("// {}\n", "x".repeat(200));
        assert_eq!(wrap_comments(&one_word), one_word);
    }

    #[test]
    fn what_a_long_line_leaves_over_goes_into_the_next_line_of_its_paragraph() {
        let long = "word ".repeat(25);
        let text = format!(
            "//! * {}\n//!   more\n//! * other\n//!\n//! {}\n//! last\n//! # Safety\n",
            long.trim_end(),
            long.trim_end()
        );
        let wrapped = wrap_comments(&text);
        let expected = [
            &format!("//! * {}", "word ".repeat(23).trim_end()),
            "//!   word word more",
            "//! * other",
            "//!",
            &format!("//! {}", "word ".repeat(23).trim_end()),
            "//! word word last",
            "//! # Safety",
        ];
        assert_eq!(wrapped.lines().collect::<Vec<_>>(), expected);
        let short = "/// one\n/// two\n// ---- lanes\n// -----\n";
        assert_eq!(wrap_comments(short), short, "paragraphs that fit are left alone");
    }

    #[test]
    fn comments_survive_and_formatting_twice_changes_nothing() {
        let text = "//! Doc.\n\n\n\nfn  main( ) { // why\n\n// alone\nlet x=1; }\n";
        let once = format_rust("src/main.rs", text).unwrap();
        assert_eq!(once, "//! Doc.\n\nfn main() {\n    // why\n\n    // alone\n    let x = 1;\n}\n");
        assert_eq!(format_rust("src/main.rs", &once).unwrap(), once);
    }

    #[test]
    fn a_refusal_names_the_file_and_the_line() {
        let error = format_rust("src/engine.rs", "fn ok() {}\nfn (\n").unwrap_err().to_string();
        assert!(error.contains("src/engine.rs:2:"), "{error}");
    }

    #[test]
    fn a_long_text_does_not_block() {
        let text = "const X: u32 = 1;\n".repeat(20_000);
        assert_eq!(format_rust("src/shape.rs", &text).unwrap(), text);
    }

    #[test]
    fn the_settings_are_those_of_the_repository() {
        let file = include_str!("../../../rustfmt.toml");
        let settings: Vec<String> =
            file.lines().map(|line| line.replace([' ', '"'], "")).filter(|line| !line.is_empty()).collect();
        assert_eq!(settings.join(","), SETTINGS);
    }
}

//! Comments, which a syntax tree does not keep.

use std::{collections::BTreeMap, ops::Range};

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};

/// The comments of one file, doc comments included, by the lines they stand on.
pub struct Comments<'a> {
    lines: Vec<&'a str>,
    by_line: BTreeMap<usize, String>,
}

impl<'a> Comments<'a> {
    /// Finds the comments of `text`, whose tokens are `tokens`.
    pub fn gather(text: &'a str, tokens: &TokenStream) -> Comments<'a> {
        let comments = without_code(text, tokens);
        let lines = comments.lines().enumerate().map(|(idx, line)| (idx + 1, line.trim().to_owned()));
        let by_line = lines.filter(|(_, comment)| !comment.is_empty()).collect();
        Comments { lines: text.lines().collect(), by_line }
    }

    /// The comment on `line` and the comment lines right above it, attributes between them passed over.
    pub fn around(&self, line: usize) -> String {
        let mut around = vec![self.by_line.get(&line).map_or("", String::as_str)];
        let mut above = line.saturating_sub(1);
        while above > 0 && (self.is_comment_only(above) || self.is_attribute(above)) {
            around.push(self.by_line.get(&above).map_or("", String::as_str));
            above -= 1;
        }
        around.reverse();
        around.join(" ")
    }

    /// Comments that are not documentation, each with its line.
    pub fn plain(&self) -> impl Iterator<Item = (usize, &str)> {
        self.by_line.iter().filter_map(|(line, comment)| {
            let text = comment.strip_prefix("//").filter(|text| !text.starts_with(['/', '!']))?;
            Some((*line, text.trim()))
        })
    }

    fn is_comment_only(&self, line: usize) -> bool {
        let comment = self.by_line.get(&line);
        comment.is_some_and(|comment| self.lines.get(line - 1).is_some_and(|text| text.trim() == comment))
    }

    fn is_attribute(&self, line: usize) -> bool {
        self.lines.get(line - 1).is_some_and(|text| {
            let text = text.trim();
            text.starts_with("#[") && text.ends_with(']')
        })
    }
}

/// The text with every token blanked out, so that comments stay, each on its line.
fn without_code(text: &str, tokens: &TokenStream) -> String {
    let mut ranges = Vec::new();
    collect_ranges(tokens.clone(), &mut ranges);
    // A doc comment is an attribute among the tokens: its `#` spans the whole comment, which is to stay.
    let is_doc =
        |range: &Range<usize>| text[range.clone()].starts_with("//") || text[range.clone()].starts_with("/*");
    let (docs, code): (Vec<_>, Vec<_>) = ranges.into_iter().partition(is_doc);
    let mut bytes = text.as_bytes().to_vec();
    for range in code {
        bytes[range].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    for range in docs {
        bytes[range.clone()].copy_from_slice(&text.as_bytes()[range]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn collect_ranges(tokens: TokenStream, ranges: &mut Vec<Range<usize>>) {
    let mut push = |span: Span| ranges.push(span.byte_range());
    let mut groups = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                if group.delimiter() != Delimiter::None {
                    push(group.span_open());
                    push(group.span_close());
                }
                groups.push(group.stream());
            }
            token => push(token.span()),
        }
    }
    for group in groups {
        collect_ranges(group, ranges);
    }
}

//! Rendering one template with the values of one struct.
//!
//! `derive(Template)` of `synth-macros` checks a template against a struct and writes the calls to this
//! module. The delimiters are ones that Rust, CUDA and TOML leave alone: values stand in `@{ name }@`, blocks
//! in `@% for x in xs %@`, comments in `@# … #@`. Nothing is escaped. A block or comment tag that stands alone
//! on its line leaves no line behind, so a loop reads in the template as its output reads.

use serde::Serialize;
use tera::{Context, Delimiters, ErrorKind, ReportError, Tera, Value};

/// Why a template did not render.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A tag is wrong, or a value in it is not what the tag needs.
    #[error("{template}:{line}:{column}: {message}")]
    Tag {
        /// The template, by the path that the struct names.
        template: String,
        /// Line of the tag, from 1.
        line: usize,
        /// Column of the tag in characters, from 1.
        column: usize,
        /// What is wrong, and where Tera knows it, what it expected.
        message: String,
    },
    /// A field cannot be handed to the template.
    #[error("{template}: field `{field}` has no form that a template can use: {message}")]
    Field {
        /// The template, by the path that the struct names.
        template: String,
        /// The field of the struct.
        field: &'static str,
        /// What `serde` reported.
        message: String,
    },
    /// The template as a whole is refused.
    #[error("{template}: {message}")]
    Whole {
        /// The template, by the path that the struct names.
        template: String,
        /// What Tera reported.
        message: String,
    },
}

/// A template on its way to becoming text.
#[derive(Debug)]
pub struct Rendering {
    name: &'static str,
    text: &'static str,
    values: Context,
}

impl Rendering {
    /// Starts to render `text`. Errors call it `name`.
    pub fn new(name: &'static str, text: &'static str) -> Rendering {
        Rendering { name, text, values: Context::new() }
    }

    /// Hands over one field.
    pub fn with<T: Serialize + ?Sized>(
        mut self,
        field: &'static str,
        value: &T,
    ) -> Result<Rendering, TemplateError> {
        let value = Value::try_from_serializable(value).map_err(|error| TemplateError::Field {
            template: self.name.to_owned(),
            field,
            message: error.to_string(),
        })?;
        self.values.insert_value(field, value);
        Ok(self)
    }

    /// Fills the template. The result depends on the text and the fields alone.
    pub fn finish(self) -> Result<String, TemplateError> {
        let mut tera = Tera::new();
        let rendered = tera.set_delimiters(delimiters()).and_then(|()| {
            tera.autoescape_on(Vec::<&str>::new());
            tera.add_raw_template(self.name, &without_bare_lines(self.text))?;
            tera.render(self.name, &self.values)
        });
        rendered.map_err(|error| self.locate(&error))
    }

    fn locate(&self, error: &tera::Error) -> TemplateError {
        let at = |report: &ReportError| TemplateError::Tag {
            template: self.name.to_owned(),
            line: report.span().start_line,
            column: report.span().start_col + 1,
            message: report.message().trim_end_matches('.').to_owned(),
        };
        match error.kind() {
            ErrorKind::SyntaxError(report) | ErrorKind::RenderingError(report) => at(report),
            _ => TemplateError::Whole { template: self.name.to_owned(), message: error.to_string() },
        }
    }
}

fn delimiters() -> Delimiters {
    Delimiters {
        block_start: "@%".into(),
        block_end: "%@".into(),
        variable_start: "@{".into(),
        variable_end: "}@".into(),
        comment_start: "@#".into(),
        comment_end: "#@".into(),
    }
}

/// Moves the white space around a tag that stands alone on its line into the tag.
///
/// Tera ignores white space inside a tag, so the line vanishes from the output, while every character keeps
/// the line on which errors will report it.
fn without_bare_lines(text: &str) -> String {
    let mut moved = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let Some(line) = bare_line(rest) else {
            let end = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
            moved.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        };
        let (open, close) = (&line.tag[..2], &line.tag[line.tag.len() - 2..]);
        for part in [open, line.indent, &line.tag[2..line.tag.len() - 2], line.tail, close] {
            moved.push_str(part);
        }
        rest = &rest[line.indent.len() + line.tag.len() + line.tail.len()..];
    }
    moved
}

/// A line, or several, with one tag and nothing beside it.
struct BareLine<'a> {
    indent: &'a str,
    tag: &'a str,
    tail: &'a str,
}

fn bare_line(text: &str) -> Option<BareLine<'_>> {
    let is_blank = |c: char| c == ' ' || c == '\t';
    let start = text.trim_start_matches(is_blank);
    let indent = &text[..text.len() - start.len()];
    let close = match start.get(..2)? {
        "@%" => "%@",
        "@#" => "#@",
        _ => return None,
    };
    let length = 2 + start[2..].find(close)? + 2;
    let (tag, after) = start.split_at(length);
    // A tag with `-` says for itself which white space goes.
    let trims = tag[2..].starts_with('-') || tag[..length - 2].ends_with('-');
    let line_end = after.trim_start_matches(is_blank);
    let tail_length = after.len() - line_end.strip_prefix('\n')?.len();
    (!trims).then(|| BareLine { indent, tag, tail: &after[..tail_length] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &'static str) -> Result<String, TemplateError> {
        Rendering::new("page.tera", text).with("names", &["a", "b"])?.with("code", "x < y && \"z\"")?.finish()
    }

    #[test]
    fn values_are_not_escaped() {
        assert_eq!(render("@{ code }@").unwrap(), "x < y && \"z\"");
    }

    #[test]
    fn braces_of_rust_stay() {
        let text = "format!(\"{{..}} {x}\"); match y { z @ {..} => 7 % @1, #[a] _ => {% } }";
        assert_eq!(render(text).unwrap(), text);
    }

    #[test]
    fn a_tag_alone_on_its_line_leaves_no_line() {
        let text = "{\n    @# each name\n       once #@\n    @% for name in names %@\n    @{ name }@,\n    @% endfor %@ \n}\n";
        assert_eq!(render(text).unwrap(), "{\n    a,\n    b,\n}\n");
    }

    #[test]
    fn a_tag_beside_text_and_a_tag_that_trims_are_left_to_tera() {
        assert_eq!(render("<@% for n in names %@@{ n }@ @% endfor %@>\n").unwrap(), "<a b >\n");
        assert_eq!(render("<\n@%- for n in names %@ @{ n }@@% endfor %@>").unwrap(), "< a b>");
    }

    #[test]
    fn errors_name_template_line_and_column() {
        let text = "first\n  @% for name in names %@\n@{ name.missing }@\n@% endfor %@\n";
        let error = render(text).unwrap_err().to_string();
        assert!(error.starts_with("page.tera:3:"), "{error}");
        let error = render("first\n @% for name names %@\n").unwrap_err().to_string();
        assert!(error.starts_with("page.tera:2:14:"), "{error}");
        let error = render("@{ names | unheard_of }@").unwrap_err().to_string();
        assert!(error.contains("page.tera") && error.contains("unheard_of"), "{error}");
    }

    #[test]
    fn white_space_moves_without_a_character_lost() {
        for text in ["", "\n", "@%", "@% if x %@", " @%%@\n", "@#", "@#é#@\n", "@%-%@\n", "a\n\t@# b #@\t\nc"]
        {
            let sorted = |text: &str| {
                let mut characters: Vec<char> = text.chars().collect();
                characters.sort_unstable();
                characters
            };
            assert_eq!(sorted(&without_bare_lines(text)), sorted(text), "{text:?}");
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

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

//! What a person sees: facts on standard output, progress on standard error.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::exit::Failure;

/// The terminal, or the pipe.
pub struct Ui {
    json: bool,
    is_terminal: bool,
}

impl Ui {
    /// Text for people, or one JSON object for programs.
    pub fn new(json: bool) -> Self {
        Self { json, is_terminal: std::io::stderr().is_terminal() }
    }

    /// Prints a fact behind a right-aligned verb, as cargo does.
    pub fn say(&self, verb: &str, fact: impl std::fmt::Display) {
        if self.is_terminal {
            eprintln!("\x1b[1;32m{verb:>12}\x1b[0m {fact}");
        } else {
            eprintln!("{verb:>12} {fact}");
        }
    }

    /// Prints text on standard output, unless that is kept for JSON.
    pub fn print(&self, text: impl std::fmt::Display) {
        if !self.json {
            write_line(text);
        }
    }

    /// Prints the one JSON object of a run, if it was asked for.
    pub fn print_json(&self, object: &Value) {
        if self.json {
            write_line(object);
        }
    }

    /// Starts a step that may take long: a spinner on a terminal, nothing in a log.
    pub fn step(&self, verb: &'static str, what: impl Into<String>) -> Step {
        let what = what.into();
        let bar = if self.is_terminal {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{prefix:>12.cyan.bold} {spinner} {elapsed} {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.set_prefix(verb);
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        } else {
            // A log shows that something long began.
            self.say(verb, &what);
            ProgressBar::hidden()
        };
        Step { bar, what, started: Instant::now() }
    }

    /// Starts a step whose length is known, in bytes: a bar on a terminal, one line in a log.
    pub fn bar(&self, verb: &'static str, what: impl Into<String>) -> Step {
        let step = self.step(verb, what);
        step.bar.set_style(
            ProgressStyle::with_template(
                "{prefix:>12.cyan.bold} {bar:30} {bytes} of {total_bytes}, {eta} left {wide_msg}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        step
    }

    /// Reports a failure and returns its exit code.
    pub fn fail(&self, failure: &Failure) -> ExitCode {
        let code = failure.exit as u8;
        if self.json {
            write_line(json!({"version": 1, "error": {"exit": code, "message": failure.message}}));
        }
        let red = if self.is_terminal { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        eprintln!("{}error{}: {}", red.0, red.1, failure.message);
        ExitCode::from(code)
    }
}

/// Writes to standard output. A reader that has seen enough, such as `head`, is no failure.
fn write_line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A step under way.
pub struct Step {
    bar: ProgressBar,
    what: String,
    started: Instant,
}

impl Step {
    /// Shows what the step is busy with.
    pub fn note(&self, detail: &str) {
        self.bar.set_message(format!("{}: {detail}", self.what));
    }

    /// Shows how far a step of known length has come.
    pub fn reached(&self, n: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(n);
    }

    /// Ends the step and says how long it took.
    pub fn done(self) -> Duration {
        self.bar.finish_and_clear();
        self.started.elapsed()
    }
}

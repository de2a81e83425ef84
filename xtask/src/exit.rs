//! Exit codes, which scripts rely on, and the failure that carries one.

use std::fmt::Display;

/// Why the process ends with something other than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// A fault of Savile's own.
    Internal = 1,
    /// The command line asks for what there is not.
    Usage = 2,
    /// Something became worse, or a committed file is stale.
    Regression = 3,
    /// The spec or the model folder is refused.
    Spec = 4,
    /// The binary does not answer as the model does.
    Proof = 5,
    /// The emitted crate does not build.
    Build = 6,
    /// This machine lacks something.
    Environment = 7,
}

/// An error with the exit code it leads to.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What to tell the user.
    pub message: String,
}

impl Failure {
    /// A failure that ends the process with `exit`.
    pub fn new(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}

/// What a command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Gives an error its exit code.
pub trait OrExit<T> {
    /// Ends the process with `exit` if this is an error.
    fn or_exit(self, exit: Exit) -> Outcome<T>;
}

impl<T, E: Display> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Outcome<T> {
        self.map_err(|error| Failure::new(exit, format_args!("{error:#}")))
    }
}

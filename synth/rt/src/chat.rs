//! The model's chat template: messages to prompt text, as Hugging Face's `apply_chat_template` renders them.
//!
//! The template is part of the build; none is ever taken from a request. It runs on fuel, so that no message
//! can make it run or grow without end.

use std::fmt;

use minijinja::{Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig};
use serde::Serialize;

/// Instructions a rendering may take, and 64-byte units it may write: far above any conversation that fits a
/// context, and below a second of work.
const FUEL: u64 = 4_000_000;

/// Why messages could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template itself is not valid; found when the server starts.
    #[error("chat template: {0}")]
    Template(String),
    /// The template refuses these messages; the text is the template's own.
    #[error("the chat template refuses these messages: {0}")]
    Refused(String),
    /// The template failed on these messages, or ran out of fuel.
    #[error("the chat template cannot render these messages: {0}")]
    Failed(String),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
    /// The participant's name, for templates that show it.
    pub name: Option<String>,
}

impl Message {
    /// The message as templates see it: without a name there is no key `name`.
    fn to_value(&self) -> Value {
        let mut pairs = vec![("role", Value::from(self.role)), ("content", Value::from(&*self.content))];
        pairs.extend(self.name.as_deref().map(|name| ("name", Value::from(name))));
        Value::from_pairs(pairs)
    }
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: &'static str,
    eos_token: &'static str,
}

impl ChatTemplate {
    /// Compiles `source`; it sees the two token strings as `bos_token` and `eos_token`, empty if the model has none.
    pub fn new(
        source: &'static str,
        bos_token: &'static str,
        eos_token: &'static str,
    ) -> Result<ChatTemplate, ChatError> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(|error| ChatError::Template(describe(&error)))?,
        );
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment.add_template("chat", source).map_err(|error| ChatError::Template(describe(&error)))?;
        Ok(ChatTemplate { environment, bos_token, eos_token })
    }

    /// The prompt for `messages`; with `add_generation_prompt` it ends where the assistant's answer begins.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ChatError> {
        let template = self.environment.get_template("chat").map_err(failed)?;
        let variables = context! {
            messages => messages.iter().map(Message::to_value).collect::<Vec<Value>>(),
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
            tools => None::<()>,
            documents => None::<()>,
        };
        template.render(variables).map_err(failed)
    }
}

/// Marks an error that the template raised on purpose.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message)))
}

/// JSON as Python's `json.dumps(ensure_ascii=False)` spells it, which is what templates are written against.
fn to_json(value: Value) -> Result<Value, Error> {
    struct Python;
    impl serde_json::ser::Formatter for Python {
        fn begin_array_value<W: std::io::Write + ?Sized>(
            &mut self,
            writer: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            if first { Ok(()) } else { writer.write_all(b", ") }
        }

        fn begin_object_key<W: std::io::Write + ?Sized>(
            &mut self,
            writer: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            if first { Ok(()) } else { writer.write_all(b", ") }
        }

        fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
            writer.write_all(b": ")
        }
    }
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, Python);
    let written = value.serialize(&mut serializer).map_err(|error| error.to_string());
    match written.and_then(|()| String::from_utf8(json).map_err(|error| error.to_string())) {
        Ok(json) => Ok(Value::from_safe_string(json)),
        Err(error) => Err(Error::new(ErrorKind::InvalidOperation, error)),
    }
}

fn failed(error: Error) -> ChatError {
    match std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Raised>()) {
        Some(raised) => ChatError::Refused(raised.0.clone()),
        None => ChatError::Failed(describe(&error)),
    }
}

/// The error in one line, without the template's source.
fn describe(error: &Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    match error.detail() {
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}

#[cfg(test)]
mod tests;

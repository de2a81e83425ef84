//! `tokenizer_config.json` and the chat template: a file of its own, or inline.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use serde_json::Value;

use super::ModelError;
use super::keys::{Keys, exists, read_text};

/// Longest template, bytes.
const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// Steps that a template may take for one short message, and units of 64 bytes that it may write.
const FUEL: u64 = 100_000;
/// Most operators of a template; published ones have some hundreds. Each may nest one deeper than the last, and
/// what nests is compiled by recursion.
const MAX_OPERATORS: usize = 4096;
/// Stack for compiling as many: 3 KiB each, without optimisation.
const STACK_BYTES: usize = 32 << 20;

/// What `tokenizer_config.json` says about text around a conversation.
pub(super) struct Chat {
    pub add_bos: bool,
    pub bos_token: Option<String>,
    pub eos_token: Option<String>,
    pub template: Option<String>,
}

/// Reads the tokenizer configuration and the template of `folder`; both may be absent.
pub(super) fn read(folder: &Path) -> Result<Chat, Vec<ModelError>> {
    let file = folder.join("tokenizer_config.json");
    let mut keys = Keys::read_optional(file.clone()).map_err(|error| vec![error])?;
    let add_bos = keys.flag("add_bos_token");
    let (bos_token, eos_token) = (token(&mut keys, "bos_token"), token(&mut keys, "eos_token"));
    let apart = folder.join("chat_template.jinja");
    // The file wins, as in the reference code: it is the newer way.
    let template = if exists(&apart) {
        read_text(&apart, MAX_TEMPLATE_BYTES as u64).map(|text| Some((apart, String::new(), text)))
    } else {
        Ok(inline(&mut keys).map(|text| (file, "chat_template".to_owned(), text)))
    };
    let mut errors = keys.errors;
    let template = template.unwrap_or_else(|error| {
        errors.push(error);
        None
    });
    let names = (bos_token.as_deref(), eos_token.as_deref());
    if let Some((file, key, text)) = &template
        && let Err(message) = check(text, names)
    {
        errors.push(ModelError { file: PathBuf::from(file), key: key.clone(), message });
    }
    let template = template.map(|(_, _, text)| text);
    if errors.is_empty() { Ok(Chat { add_bos, bos_token, eos_token, template }) } else { Err(errors) }
}

/// A special token: its text, or an object that has it as `content`.
fn token(keys: &mut Keys, key: &str) -> Option<String> {
    if keys.get(key).is_some_and(Value::is_object) {
        return keys.text(&format!("{key}.content"));
    }
    keys.text(key)
}

/// `chat_template`: a text, or a list of named ones of which `default` is meant.
fn inline(keys: &mut Keys) -> Option<String> {
    let Some(Value::Array(named)) = keys.get("chat_template") else { return keys.text("chat_template") };
    let default = named.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
    let found = default.and_then(|entry| entry.get("template")).and_then(Value::as_str).map(str::to_owned);
    if found.is_none() {
        keys.refuse("chat_template", "expected a template named `default` in the list");
    }
    found
}

/// Compiles the template and renders one message, in bounded steps.
fn check(text: &str, (bos_token, eos_token): (Option<&str>, Option<&str>)) -> Result<(), String> {
    if text.len() > MAX_TEMPLATE_BYTES {
        return Err(format!(
            "expected a template of at most {} KiB, found {} bytes",
            MAX_TEMPLATE_BYTES >> 10,
            text.len()
        ));
    }
    let n_operators = n_operators(text);
    if n_operators > MAX_OPERATORS {
        return Err(format!("expected at most {MAX_OPERATORS} operators, found {n_operators}"));
    }
    std::thread::scope(|scope| {
        let rendering = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || render(text, (bos_token, eos_token)))
            .map_err(|error| format!("cannot be tried: {error}"))?;
        rendering.join().unwrap_or_else(|_| Err("the template does not work: its engine gave up".to_owned()))
    })
}

/// Counts what an expression can nest by. Text between tags counts as well: only much of it comes near the bound.
fn n_operators(text: &str) -> usize {
    const WORDS: [&str; 7] = ["and", "elif", "if", "in", "is", "not", "or"];
    let tags = ["{%-", "-%}", "{{-", "-}}", "{%", "%}"];
    let text = tags.iter().fold(text.to_owned(), |text, tag| text.replace(tag, " "));
    let signs = text.bytes().filter(|byte| b"!%(*+-./<=>[|~".contains(byte)).count();
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| WORDS.contains(word));
    signs + words.count()
}

fn render(text: &str, (bos_token, eos_token): (Option<&str>, Option<&str>)) -> Result<(), String> {
    let mut environment = Environment::new();
    // Templates are written for the whitespace rules that the reference code sets.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| described(&error))?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{REFUSAL}{message}")))
    });
    let template =
        environment.template_from_named_str("chat_template", text).map_err(|error| described(&error))?;
    let rendered = template.render(context! {
        messages => [context! { role => "user", content => "Hello" }],
        add_generation_prompt => true,
        bos_token => bos_token.unwrap_or_default(),
        eos_token => eos_token.unwrap_or_default(),
        tools => None::<()>,
        documents => None::<()>,
    });
    match rendered {
        Ok(_) => Ok(()),
        // A template may refuse a conversation; that it can say so shows that it works.
        Err(error) if error.detail().is_some_and(|detail| detail.starts_with(REFUSAL)) => Ok(()),
        Err(error) => Err(described(&error)),
    }
}

/// Marks an error that the template itself raised.
const REFUSAL: &str = "raised: ";

fn described(error: &minijinja::Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!(" at line {line}"));
    match error.kind() {
        ErrorKind::OutOfFuel => {
            format!("the template takes more than {FUEL} steps for one short message{line}")
        }
        kind => {
            let detail = error.detail().map_or(String::new(), |detail| {
                format!(": {}", detail.chars().take(200).collect::<String>())
            });
            format!("the template does not work{line}: {kind}{detail}")
        }
    }
}

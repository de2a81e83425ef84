//! The messages of a chat request.

use serde_json::Value;

use crate::{
    chat::Message,
    error::ApiError,
    fields::{Fields, wrong},
};

/// Messages of one request; a longer conversation fits no context.
const MAX_MESSAGES: usize = 4096;

/// Takes `messages`: text only, from the three roles that a template knows.
pub fn take_messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let param = "messages";
    let items = match fields.take(param) {
        None => return Err(ApiError::field(param, "messages is missing")),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(param, "a list of messages", &other)),
    };
    if items.is_empty() || items.len() > MAX_MESSAGES {
        let message = format!("messages has {} items; give 1 to {MAX_MESSAGES}", items.len());
        return Err(ApiError::field(param, message));
    }
    items.into_iter().enumerate().map(|(at, item)| read_message(&format!("{param}[{at}]"), item)).collect()
}

fn read_message(param: &str, item: Value) -> Result<Message, ApiError> {
    let mut fields = Fields::object(param, item)?;
    let within = |error: ApiError| error.within(param);
    let role = match fields.string("role").map_err(within)?.as_deref() {
        // `developer` is OpenAI's newer word for it; templates know the older one.
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some("tool" | "function") => {
            return Err(ApiError::unsupported(&format!("{param}.role"), "it was built without tools"));
        }
        _ => {
            let message = format!("{param}.role must be developer, system, user or assistant");
            return Err(ApiError::field(format!("{param}.role"), message));
        }
    };
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    for name in ["tool_calls", "function_call"] {
        fields.refuse(name, "it was built without tools", empty).map_err(within)?;
    }
    fields.refuse("audio", "it was built for text", |_| false).map_err(within)?;
    let name = fields.string("name").map_err(within)?;
    let content = match fields.take("content") {
        Some(content) => read_content(&format!("{param}.content"), content)?,
        // An assistant may have said nothing; who asks has to say something.
        None if role == "assistant" => String::new(),
        None => {
            return Err(ApiError::field(format!("{param}.content"), format!("{param}.content is missing")));
        }
    };
    Ok(Message { role, content, name })
}

/// A string, or text parts, which are joined by line breaks as vLLM joins them.
fn read_content(param: &str, content: Value) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(wrong(param, "a string or a list of text parts", &other)),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (at, part) in parts.into_iter().enumerate() {
        let param = format!("{param}[{at}]");
        let mut part = Fields::object(&param, part)?;
        match part.string("type").map_err(|error| error.within(&param))?.as_deref() {
            Some("text") => match part.string("text").map_err(|error| error.within(&param))? {
                Some(text) => texts.push(text),
                None => {
                    return Err(ApiError::field(format!("{param}.text"), format!("{param}.text is missing")));
                }
            },
            Some(_) => return Err(ApiError::unsupported(&format!("{param}.type"), "it was built for text")),
            None => return Err(ApiError::field(format!("{param}.type"), format!("{param}.type is missing"))),
        }
    }
    Ok(texts.join("\n"))
}

//! A request's body, field by field: strict about what it takes, and able to say what it did not.
//!
//! A derived deserialiser stops at the first type error without naming the field as a client knows it, takes
//! the last of two equal keys, and drops unknown ones in silence. A client needs the opposite of all three.

use std::{fmt, ops::RangeInclusive};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::error::ApiError;

/// The fields of one JSON object that were not taken yet.
pub struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    /// Parses a body. Refuses what is not one JSON object, repeated keys, invalid UTF-8 and deep nesting.
    pub fn parse(body: &[u8]) -> Result<Fields, ApiError> {
        let UniqueKeys(value) = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("the body is not valid JSON: {error}")))?;
        match value {
            Value::Object(map) => Ok(Fields { map }),
            other => Err(ApiError::invalid(format!("the body must be a JSON object, not {}", shown(&other)))),
        }
    }

    /// Views an object inside the body.
    pub fn object(param: &str, value: Value) -> Result<Fields, ApiError> {
        match value {
            Value::Object(map) => Ok(Fields { map }),
            other => Err(wrong(param, "an object", &other)),
        }
    }

    /// Takes a field; `null` counts as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Takes a truth value.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.typed(name, "true or false", |value| value.as_bool())
    }

    /// Takes a string.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.typed(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// Takes a number within `range`.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let number = self.typed(name, "a number", Value::as_f64)?;
        match number.filter(|number| !range.contains(number)) {
            Some(number) => Err(outside(name, number, range.start(), range.end())),
            None => Ok(number),
        }
    }

    /// Takes a whole number within `range`. `2.0` is one, as JSON does not tell it from `2`.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match integer(&value) {
            Some(integer) if range.contains(&integer) => Ok(Some(integer)),
            None if value.as_f64().is_none_or(|number| number.fract() != 0.0) => {
                Err(wrong(name, "a whole number", &value))
            }
            // Shown as it came, since it may be larger than any integer here.
            _ => Err(outside(name, value, range.start(), range.end())),
        }
    }

    /// Takes a list of at most `max_items` token ids, each below `vocab`.
    pub fn token_ids(
        &mut self,
        name: &str,
        max_items: usize,
        vocab: usize,
    ) -> Result<Option<Vec<u32>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => token_ids(name, value, max_items, vocab).map(Some),
        }
    }

    /// Refuses a field that asks for something that was not built; values that ask for nothing pass.
    pub fn refuse(
        &mut self,
        name: &str,
        why: &str,
        asks_nothing: impl Fn(&Value) -> bool,
    ) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !asks_nothing(&value) => Err(ApiError::unsupported(name, why)),
            _ => Ok(()),
        }
    }

    /// The names of the fields nobody took, which are ignored.
    pub fn rest(self) -> Vec<String> {
        self.map.into_iter().map(|(name, _)| name).collect()
    }

    fn typed<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| wrong(name, expected, &value))
    }
}

/// Reads a list of token ids.
pub fn token_ids(param: &str, value: Value, max_items: usize, vocab: usize) -> Result<Vec<u32>, ApiError> {
    let Value::Array(items) = value else { return Err(wrong(param, "a list of token ids", &value)) };
    if items.len() > max_items {
        return Err(ApiError::field(
            param,
            format!("{param} has {} token ids, more than {max_items}", items.len()),
        ));
    }
    let id = |item: &Value| {
        let id = integer(item).ok_or_else(|| wrong(param, "token ids", item))?;
        let known = u32::try_from(id).ok().filter(|&id| (id as usize) < vocab);
        known.ok_or_else(|| {
            ApiError::field(param, format!("{param}: token id {id} is not in the vocabulary of {vocab}"))
        })
    };
    items.iter().map(id).collect()
}

/// The error for a value of the wrong type.
pub fn wrong(param: &str, expected: &str, found: &Value) -> ApiError {
    ApiError::field(param, format!("{param} must be {expected}, not {}", shown(found)))
}

fn outside(
    name: &str,
    value: impl fmt::Display,
    low: impl fmt::Display,
    high: impl fmt::Display,
) -> ApiError {
    ApiError::field(name, format!("{name} must be between {low} and {high}, not {value}"))
}

fn integer(value: &Value) -> Option<i64> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9.0e15).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().filter(|_| !value.is_u64()).and_then(whole))
}

/// A value as an error names it: what is short is shown, what may be long is only called by its kind.
fn shown(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// A JSON value in which no object names a key twice.
struct UniqueKeys(Value);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueKeysVisitor).map(UniqueKeys)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(UniqueKeys(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, UniqueKeys(value))) = entries.next_entry::<String, UniqueKeys>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} is given twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_bodies_are_refused() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let cases: [&[u8]; 9] = [
            b"",
            b"[]",
            b"{\"a\":1,\"a\":2}",
            b"{\"a\":{\"b\":1,\"b\":1}}",
            b"{\"a\":NaN}",
            b"{\"a\":1e999}",
            b"{\"a\":\"\xff\"}",
            b"{\"a\":\"\\ud800\"}",
            deep.as_bytes(),
        ];
        for body in cases {
            assert!(Fields::parse(body).is_err(), "{}", String::from_utf8_lossy(&body[..body.len().min(40)]));
        }
    }

    #[test]
    fn each_error_names_its_field() {
        let body = br#"{"flag":1,"text":2,"number":"x","integer":1.5,"high":3,"big":18446744073709551615,"ids":[1,-1]}"#;
        let mut fields = Fields::parse(body).expect("valid");
        let errors = [
            fields.boolean("flag").err(),
            fields.string("text").err(),
            fields.number("number", 0.0..=1.0).err(),
            fields.integer("integer", 0..=9).err(),
            fields.number("high", 0.0..=2.0).err(),
            fields.integer("big", 0..=i64::MAX).err(),
            fields.token_ids("ids", 9, 9).err(),
        ];
        for (error, name) in
            errors.into_iter().zip(["flag", "text", "number", "integer", "high", "big", "ids"])
        {
            assert_eq!(error.expect("refused").body()["error"]["param"], name);
        }
    }

    #[test]
    fn what_nobody_takes_is_left_in_order() {
        let mut fields = Fields::parse(br#"{"z":1,"n":null,"a":2,"i":2.0}"#).expect("valid");
        assert_eq!(fields.integer("i", 0..=9), Ok(Some(2)));
        assert_eq!(fields.boolean("n"), Ok(None));
        assert_eq!(fields.rest(), ["z", "a"]);
    }
}

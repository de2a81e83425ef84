//! Line and column of a field.
//!
//! The tree of a spec has no positions. The parser does attach one to every error, so a field is found by
//! reading the text again and failing on purpose when the field is reached.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::yaml;

/// One step from a value to one inside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step<'a> {
    /// Into the value of a field.
    Field(&'a str),
    /// To the name itself of the `nth` field so called; always the last step.
    Name { name: &'a str, nth: usize },
    /// Into one element of a list.
    Element(usize),
}

/// Line and column, from 1, of what `steps` lead to, or of the innermost value on the way that exists.
pub(super) fn locate(text: &str, steps: &[Step<'_>]) -> (usize, usize) {
    yaml::read_with(Stop { steps }, text).err().and_then(|stopped| stopped.place).unwrap_or((1, 1))
}

/// The steps of a dotted path.
pub(super) fn steps(field: &str) -> Vec<Step<'_>> {
    field.split('.').filter(|name| !name.is_empty()).map(Step::Field).collect()
}

/// Line and column, from 1, of a byte of `text`.
pub(super) fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..byte.min(text.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    (line, 1 + String::from_utf8_lossy(&before[line_start..]).chars().count())
}

/// Follows the steps and fails at their end.
#[derive(Clone, Copy)]
struct Stop<'a> {
    steps: &'a [Step<'a>],
}

/// Fails at the name of a field if it is the one to stop at, else says which it is.
struct StopAtName<'a> {
    name: Option<&'a str>,
    skip: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for Stop<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Stop<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("to stop here")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (wanted, last) = match self.steps.first() {
            Some(Step::Field(name)) => (Some(*name), None),
            Some(Step::Name { name, nth }) => (None, Some((*name, *nth))),
            Some(Step::Element(_)) | None => (None, None),
        };
        let mut skip = last.map_or(0, |(_, nth)| nth);
        while let Some(name) =
            map.next_key_seed(StopAtName { name: last.map(|(name, _)| name), skip: &mut skip })?
        {
            if wanted.is_some_and(|wanted| wanted == name) {
                return map.next_value_seed(Stop { steps: &self.steps[1..] });
            }
            map.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::custom("stop"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if let Some(Step::Element(idx)) = self.steps.first() {
            for _ in 0..*idx {
                seq.next_element::<IgnoredAny>()?;
            }
            seq.next_element_seed(Stop { steps: &self.steps[1..] })?;
        }
        Err(A::Error::custom("stop"))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(A::Error::custom("stop"))
    }
}

impl<'de> DeserializeSeed<'de> for StopAtName<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StopAtName<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<String, E> {
        if self.name == Some(name) {
            match self.skip.checked_sub(1) {
                Some(left) => *self.skip = left,
                None => return Err(E::custom("stop")),
            }
        }
        Ok(name.to_owned())
    }
}

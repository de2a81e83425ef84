//! The text of a spec as a tree, in bounded time and memory.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::SpecSource;
use super::errors::SpecError;
use super::locate::position;
use crate::yaml::{self, Misread};

/// Longest spec that is read, bytes.
pub(super) const MAX_BYTES: usize = yaml::MAX_BYTES;
/// Most values in one spec, counted after aliases are followed, so that a few lines cannot unfold into gigabytes.
const MAX_NODES: usize = 4096;

/// One value of a spec.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file; a repeated key is repeated here.
    Map(Vec<(String, Node)>),
}

/// Reads `source` as one YAML document.
///
/// Errors: too long, too deep, too many values, not YAML; the place is the parser's.
pub(super) fn parse(source: &SpecSource) -> Result<Node, SpecError> {
    let text = source.text();
    if text.len() > MAX_BYTES {
        return Err(source.at(
            (1, 1),
            "",
            format!("a spec is at most {} KiB, found {} bytes", MAX_BYTES >> 10, text.len()),
        ));
    }
    if text.trim().is_empty() {
        return Err(source.at((1, 1), "", "the spec is empty; docs/workload.md lists its fields"));
    }
    if !yaml::has_few_brackets(text) {
        return Err(source.at((1, 1), "", format!("a spec has at most {} brackets", yaml::MAX_BRACKETS)));
    }
    node(text).map_err(|misread| {
        source.at(misread.place.unwrap_or_else(|| position(text, text.len())), "", misread.message)
    })
}

/// Reads a default of the field table, which is YAML as well.
pub(super) fn node(text: &str) -> Result<Node, Misread> {
    let left = Cell::new(MAX_NODES);
    yaml::read_with(Seed { left: &left }, text)
}

impl fmt::Display for Node {
    /// What was found, short enough for a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Null => f.write_str("nothing"),
            Node::Bool(value) => write!(f, "{value}"),
            Node::Integer(value) => write!(f, "{value}"),
            Node::Float(value) => write!(f, "{value}"),
            Node::Text(text) if text.chars().count() > 40 => {
                write!(f, "`{}…`", text.chars().take(40).collect::<String>().escape_debug())
            }
            Node::Text(text) => write!(f, "`{}`", text.escape_debug()),
            Node::List(_) => f.write_str("a list"),
            Node::Map(_) => f.write_str("a map"),
        }
    }
}

/// Builds a node and takes one from the budget for each.
#[derive(Clone, Copy)]
struct Seed<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let left = self
            .left
            .get()
            .checked_sub(1)
            .ok_or_else(|| D::Error::custom(format!("a spec has at most {MAX_NODES} values")))?;
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Node, E> {
        Ok(i128::try_from(value).map_or(Node::Float(value as f64), Node::Integer))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element_seed(self)? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key_seed(NameSeed)? {
            entries.push((name, map.next_value_seed(self)?));
        }
        Ok(Node::Map(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(A::Error::custom("a spec has no tags (`!name`)"))
    }
}

/// Reads the name of a field.
struct NameSeed;

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NameSeed {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<String, E> {
        Ok(name.to_owned())
    }
}

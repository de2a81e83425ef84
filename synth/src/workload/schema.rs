//! `workloads/schema.json` and `docs/workload.md`, made from the field table.

use serde_json::{Map, Value, json};

use super::field::{FIELDS, Field, Kind, METRICS, Need, children, field, required_of};
use super::{file, units};

/// The JSON Schema (draft 7) of a spec, for editors; ends with a newline.
pub fn json() -> String {
    let mut root = Map::from_iter([
        ("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#")),
        ("title".to_owned(), json!("Workload")),
        (
            "description".to_owned(),
            json!("What a server is made for. Made from the field table; do not edit."),
        ),
    ]);
    root.extend(object(""));
    format!("{:#}\n", Value::Object(root))
}

/// The reference of every field, with types, defaults and an example; ends with a newline.
pub fn markdown() -> String {
    let mut text = String::from(INTRODUCTION);
    for field in FIELDS {
        let need = match field.need {
            Need::Required if is_alternative(field) => "one of these".to_owned(),
            Need::Required => "required".to_owned(),
            Need::Default(value) => format!("default `{value}`"),
            Need::Optional(absence) => format!("optional; without it, {absence}"),
        };
        let expected = field.kind.expected(field.path);
        text.push_str(&format!("| `{}` | {expected} | {need} | {} |\n", field.path, field.doc));
    }
    text.push_str(AFTER);
    text
}

const INTRODUCTION: &str = "\
# The workload

A workload is one YAML file under `workloads/`, or anywhere else. It says what to serve, on what, for which traffic, and how far
the answers may be from the model's. Everything else is decided from it.

Start a file with `# yaml-language-server: $schema=schema.json` and an editor completes and checks it. A field that is not in this
table is refused. Relative paths start at the folder of the file. Lengths are tokens.

```yaml
name: quickstart
model: { path: ../tests/fixtures/models/quickstart }
target: { cpu: { isa: native, threads: 2, memory: 4GiB } }
traffic:
  arrivals: { poisson: 4.0 }
  concurrency: 8
  prompt: { p50: 128, p99: 480, max: 1024 }
  output: { p50: 48, p99: 160, max: 256 }
output: text
api: [chat, completions]
slo: { minimise: tpot_p50, keep: { ttft_p99: 800ms } }
tolerance: { tokens: exact }
```

| field | takes | needed | meaning |
|---|---|---|---|
";

const AFTER: &str = "
## What is refused before anything is generated

Every error names file, line, column and field, and all of them are shown at once. Beside what the table says:

- percentiles that are not in order;
- `traffic.prompt.max` + `traffic.output.max` beyond the model's context;
- `target.cpu.memory` that cannot hold weights, KV blocks for `traffic.concurrency` sequences of the greatest length, and scratch;
- a bound in `slo.keep` below what the machine's measured bandwidth and arithmetic allow;
- `weights` that round what is stored, under `tolerance: { tokens: exact }`;
- `weights` that were measured to break the tolerance;
- `kv` other than f32, under `tolerance: { tokens: exact }`;
- `kv` that was measured to break the tolerance;
- `chat` for a model without a chat template.

This page is made by `synth::workload::schema::markdown`; do not edit it.
";

/// Whether the field is one way among several to fill the map around it.
fn is_alternative(alternative: &Field) -> bool {
    let parent = alternative.path.rsplit_once('.').and_then(|(parent, _)| field(parent));
    parent.is_some_and(|parent| matches!(parent.kind, Kind::OneOf(_)))
}

/// A map of the fields below `parent`.
fn object(parent: &str) -> Map<String, Value> {
    let properties: Map<String, Value> =
        children(parent).map(|field| (field.name().to_owned(), schema(field))).collect();
    let required: Vec<&str> = children(parent)
        .filter(|field| matches!(field.need, Need::Required) && !is_alternative(field))
        .map(Field::name)
        .collect();
    let mut object = Map::from_iter([
        ("type".to_owned(), json!("object")),
        ("additionalProperties".to_owned(), json!(false)),
        ("properties".to_owned(), json!(properties)),
    ]);
    if !required.is_empty() {
        object.insert("required".to_owned(), json!(required));
    }
    object
}

fn schema(field: &Field) -> Value {
    let mut schema = match field.kind {
        Kind::Map => Value::Object(object(field.path)),
        Kind::OneOf(groups) => {
            let choices: Vec<Value> = groups.iter().map(|group| only(field.path, group, groups)).collect();
            let mut schema = object(field.path);
            schema.insert("oneOf".to_owned(), json!(choices));
            Value::Object(schema)
        }
        Kind::CrateName => json!({ "type": "string", "pattern": "^[a-z][a-z0-9_-]{0,63}$" }),
        Kind::Integer { min, max } => {
            json!({ "type": "integer", "minimum": min as i64, "maximum": max as i64 })
        }
        Kind::Number { above, most } => {
            json!({ "type": "number", "exclusiveMinimum": above, "maximum": most })
        }
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::ChoiceOrMap(words) => json!({ "anyOf": [{ "enum": words }, object(field.path)] }),
        Kind::Choices(words) => {
            json!({ "type": "array", "items": { "enum": words }, "minItems": 1, "uniqueItems": true })
        }
        Kind::Bytes => json!({ "type": "string", "pattern": units::SIZE_PATTERN }),
        Kind::Path | Kind::Revision => json!({ "type": "string", "minLength": 1 }),
        Kind::Repository => json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$" }),
        Kind::Bounds => {
            let time = json!({ "type": "string", "pattern": units::TIME_PATTERN });
            let properties: Map<String, Value> =
                METRICS.iter().map(|metric| (metric.to_string(), time.clone())).collect();
            json!({ "type": "object", "additionalProperties": false, "properties": properties })
        }
    };
    schema["description"] = json!(field.doc);
    if let Need::Default(text) = field.need
        && let Ok(node) = file::node(text)
    {
        schema["default"] = value(&node);
    }
    schema
}

/// The fields of `group`, at least one and all that it needs, and of no other group.
fn only(parent: &str, group: &'static [&'static str], groups: &[&[&str]]) -> Value {
    let needs = |name: &&str| json!({ "required": [name] });
    let others: Vec<Value> =
        groups.iter().filter(|other| **other != group).flat_map(|other| other.iter()).map(needs).collect();
    let required: Vec<&str> = required_of(parent, group).map(Field::name).collect();
    let mut schema = json!({ "not": { "anyOf": others } });
    if required.is_empty() {
        schema["anyOf"] = group.iter().map(needs).collect();
    } else {
        schema["required"] = json!(required);
    }
    schema
}

/// A tree as JSON.
fn value(node: &file::Node) -> Value {
    match node {
        file::Node::Null => Value::Null,
        file::Node::Bool(value) => json!(value),
        file::Node::Integer(value) => json!(*value as i64),
        file::Node::Float(value) => json!(value),
        file::Node::Text(text) => json!(text),
        file::Node::List(nodes) => nodes.iter().map(value).collect(),
        file::Node::Map(entries) => {
            Value::Object(entries.iter().map(|(name, node)| (name.clone(), value(node))).collect())
        }
    }
}

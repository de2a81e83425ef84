//! Every field of a spec: its name, what it takes, its default and what it means.
//!
//! The one table that reading, error messages, `docs/workload.md` and `workloads/schema.json` are made from.

/// A field of a spec.
#[derive(Debug)]
pub(super) struct Field {
    /// Dotted path from the root.
    pub path: &'static str,
    pub kind: Kind,
    pub need: Need,
    /// What it means, in one or two sentences.
    pub doc: &'static str,
}

/// What a field takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A map of the fields below it.
    Map,
    /// A map that takes the fields of exactly one of these groups; `Need` counts within the group.
    OneOf(&'static [&'static [&'static str]]),
    /// The name of a Rust crate.
    CrateName,
    /// A whole number in this range, both ends included.
    Integer { min: i128, max: i128 },
    /// A number above the first and up to the second.
    Number { above: f64, most: f64 },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One of these words, or a map of the fields below it.
    ChoiceOrMap(&'static [&'static str]),
    /// A list of some of these words, each at most once.
    Choices(&'static [&'static str]),
    /// A size with its unit.
    Bytes,
    /// A path, relative to the folder of the spec.
    Path,
    /// `org/name` on the hub.
    Repository,
    /// A branch, tag or commit.
    Revision,
    /// A map from latency metrics to times.
    Bounds,
}

/// Whether a field must be there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need {
    Required,
    /// What it is where it is absent, in YAML.
    Default(&'static str),
    /// What its absence means, in words.
    Optional(&'static str),
}

/// Latency metrics, in the order of [`super::Metric::ALL`].
pub(super) const METRICS: [&str; 8] =
    ["ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", "itl_p50", "itl_p99", "e2e_p50", "e2e_p99"];

/// Number formats of weights, in the order of [`super::Precision::ALL`].
const PRECISIONS: [&str; 4] = ["f32", "bf16", "int8", "int4"];

/// Those of them that keys and values may have.
const CACHED: [&str; 3] = ["f32", "bf16", "int8"];

const TOKENS: Kind = Kind::Integer { min: 1, max: 1 << 20 };

/// Parents before children, in the order of the documentation.
pub(super) const FIELDS: &[Field] = &[
    Field {
        path: "name",
        kind: Kind::CrateName,
        need: Need::Required,
        doc: "Name of the emitted crate and of its binary.",
    },
    Field {
        path: "model",
        kind: Kind::OneOf(&[&["path"], &["hub", "revision"]]),
        need: Need::Required,
        doc: "Where the model is: a folder in Hugging Face format, or a repository on the hub.",
    },
    Field {
        path: "model.path",
        kind: Kind::Path,
        need: Need::Required,
        doc: "Folder with `config.json`, `*.safetensors` and `tokenizer.json`.",
    },
    Field {
        path: "model.hub",
        kind: Kind::Repository,
        need: Need::Required,
        doc: "Repository on the Hugging Face hub; downloaded once, where a network exists.",
    },
    Field {
        path: "model.revision",
        kind: Kind::Revision,
        need: Need::Default("main"),
        doc: "Branch, tag or commit of the repository.",
    },
    Field {
        path: "weights",
        kind: Kind::ChoiceOrMap(&PRECISIONS),
        need: Need::Optional(
            "the cheapest that keeps the tolerance; as stored for exact tokens, f16 widened to f32",
        ),
        doc: "Forces a number format on the weight matrices in memory. A tolerance that it breaks is then an error.",
    },
    Field {
        path: "weights.layers",
        kind: Kind::Choice(&PRECISIONS),
        need: Need::Required,
        doc: "Format of the matrices of the layers.",
    },
    Field {
        path: "weights.head",
        kind: Kind::Choice(&PRECISIONS),
        need: Need::Optional("the cheapest that keeps the tolerance beside these layers"),
        doc: "Format of the output head and the embedding: that of the layers, or a finer one where those are int8 or int4.",
    },
    Field {
        path: "kv",
        kind: Kind::Choice(&CACHED),
        need: Need::Optional("the cheapest that keeps the tolerance; f32 for exact tokens"),
        doc: "Forces a number format on the keys and values of attention in memory. A tolerance that it breaks is then an error.",
    },
    Field { path: "target", kind: Kind::Map, need: Need::Required, doc: "The machine to serve on." },
    Field { path: "target.cpu", kind: Kind::Map, need: Need::Required, doc: "A CPU." },
    Field {
        path: "target.cpu.isa",
        kind: Kind::Choice(&["native", "scalar", "avx2", "avx512", "amx"]),
        need: Need::Default("native"),
        doc: "Instruction set. `native` is the widest that the planning machine has; the plan pins which one that was.",
    },
    Field {
        path: "target.cpu.threads",
        kind: Kind::Integer { min: 1, max: 256 },
        need: Need::Required,
        doc: "Threads that compute.",
    },
    Field {
        path: "target.cpu.memory",
        kind: Kind::Bytes,
        need: Need::Required,
        doc: "Most memory for weights, KV blocks and scratch together. All of it is reserved before the server is ready, and granted in the background from then on.",
    },
    Field { path: "traffic", kind: Kind::Map, need: Need::Required, doc: "What arrives." },
    Field {
        path: "traffic.arrivals",
        kind: Kind::OneOf(&[&["poisson"], &["closed"], &["trace"]]),
        need: Need::Required,
        doc: "When requests come.",
    },
    Field {
        path: "traffic.arrivals.poisson",
        kind: Kind::Number { above: 0.0, most: 100_000.0 },
        need: Need::Required,
        doc: "Open loop: independent arrivals, this many requests per second on average.",
    },
    Field {
        path: "traffic.arrivals.closed",
        kind: Kind::Integer { min: 1, max: 1024 },
        need: Need::Required,
        doc: "Closed loop: this many clients, each of which sends when its last answer is complete.",
    },
    Field {
        path: "traffic.arrivals.trace",
        kind: Kind::Path,
        need: Need::Required,
        doc: "Open loop: a JSON Lines file, one `{\"at\": seconds, \"prompt_tokens\": n, \"output_tokens\": m}` per line, `at` ascending.",
    },
    Field {
        path: "traffic.concurrency",
        kind: Kind::Integer { min: 1, max: 1024 },
        need: Need::Default("8"),
        doc: "Most sequences in flight. KV blocks for this many of the greatest length are allocated.",
    },
    Field { path: "traffic.prompt", kind: Kind::Map, need: Need::Required, doc: "Prompt lengths, tokens." },
    Field {
        path: "traffic.prompt.p50",
        kind: TOKENS,
        need: Need::Required,
        doc: "Half of the prompts are no longer.",
    },
    Field {
        path: "traffic.prompt.p99",
        kind: TOKENS,
        need: Need::Required,
        doc: "99 of 100 prompts are no longer; at least `p50`.",
    },
    Field {
        path: "traffic.prompt.max",
        kind: TOKENS,
        need: Need::Required,
        doc: "Longest prompt that memory is planned for; at least `p99`. Prompt and output of a request together are refused beyond `prompt.max` + `output.max`.",
    },
    Field { path: "traffic.output", kind: Kind::Map, need: Need::Required, doc: "Output lengths, tokens." },
    Field {
        path: "traffic.output.p50",
        kind: TOKENS,
        need: Need::Required,
        doc: "Half of the outputs are no longer.",
    },
    Field {
        path: "traffic.output.p99",
        kind: TOKENS,
        need: Need::Required,
        doc: "99 of 100 outputs are no longer; at least `p50`.",
    },
    Field {
        path: "traffic.output.max",
        kind: TOKENS,
        need: Need::Required,
        doc: "Longest output that can be asked for; at least `p99`.",
    },
    Field {
        path: "traffic.samples",
        kind: Kind::Path,
        need: Need::Optional("proof and bench make requests up from the lengths"),
        doc: "JSON Lines file of real requests, one `{\"prompt\": text}` or `{\"messages\": [{\"role\": .., \"content\": ..}]}` per line, each with an optional `max_tokens`.",
    },
    Field {
        path: "output",
        kind: Kind::Choice(&["text"]),
        need: Need::Default("text"),
        doc: "What a request is answered with.",
    },
    Field {
        path: "api",
        kind: Kind::Choices(&["chat", "completions"]),
        need: Need::Default("[chat, completions]"),
        doc: "Routes beside the operational ones: `/v1/chat/completions`, `/v1/completions`.",
    },
    Field {
        path: "slo",
        kind: Kind::Map,
        need: Need::Optional("its fields take their defaults"),
        doc: "What to make fast, and what to keep meanwhile.",
    },
    Field {
        path: "slo.minimise",
        kind: Kind::Choice(&METRICS),
        need: Need::Default("tpot_p50"),
        doc: "The latency to make as small as possible.",
    },
    Field {
        path: "slo.keep",
        kind: Kind::Bounds,
        need: Need::Default("{}"),
        doc: "Latencies that stay under a bound, as `{ ttft_p99: 800ms }`.",
    },
    Field {
        path: "tolerance",
        kind: Kind::OneOf(&[&["tokens"], &["logprob_p99", "same_top", "kl_mean", "kl_p999"]]),
        need: Need::Default("{ tokens: exact }"),
        doc: "How far an answer may be from the model's.",
    },
    Field {
        path: "tolerance.tokens",
        kind: Kind::Choice(&["exact"]),
        need: Need::Required,
        doc: "Greedy tokens equal the model's.",
    },
    Field {
        path: "tolerance.logprob_p99",
        kind: Kind::Number { above: 0.0, most: 20.0 },
        need: Need::Default("0.05"),
        doc: "With bounds: 99th percentile of the absolute difference in log-probability, nats.",
    },
    Field {
        path: "tolerance.same_top",
        kind: Kind::Number { above: 0.0, most: 1.0 },
        need: Need::Default("0.99"),
        doc: "With bounds: least share of positions whose most likely token agrees.",
    },
    Field {
        path: "tolerance.kl_mean",
        kind: Kind::Number { above: 0.0, most: 1.0 },
        need: Need::Default("0.001"),
        doc: "With bounds: mean Kullback-Leibler divergence from the model, nats.",
    },
    Field {
        path: "tolerance.kl_p999",
        kind: Kind::Number { above: 0.0, most: 20.0 },
        need: Need::Optional("fifty times `kl_mean`"),
        doc: "With bounds: 99.9th percentile of that divergence over positions, nats.",
    },
];

impl Field {
    /// The last part of the path.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }
}

/// The names of `group` below `parent` that must be there once the group is chosen.
pub(super) fn required_of(
    parent: &str,
    group: &'static [&'static str],
) -> impl Iterator<Item = &'static Field> {
    children(parent)
        .filter(move |field| group.contains(&field.name()) && matches!(field.need, Need::Required))
}

/// The field at `path`.
pub(super) fn field(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// The fields directly below `parent`; the root is the empty path.
pub(super) fn children(parent: &str) -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(move |field| field.path.rsplit_once('.').map_or("", |(above, _)| above) == parent)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::workload::{Metric, Precision};

    #[test]
    fn every_field_has_a_parent_and_one_place() {
        let mut seen = BTreeSet::from([""]);
        for field in FIELDS {
            assert!(
                seen.contains(field.path.rsplit_once('.').map_or("", |(above, _)| above)),
                "{}",
                field.path
            );
            assert!(seen.insert(field.path), "{}", field.path);
            assert!(field.doc.ends_with('.'), "{}", field.path);
        }
        for field in FIELDS {
            if let Kind::OneOf(groups) = field.kind {
                let grouped: Vec<&str> = groups.concat();
                assert_eq!(
                    grouped,
                    children(field.path).map(Field::name).collect::<Vec<_>>(),
                    "{}",
                    field.path
                );
            }
        }
    }

    #[test]
    fn metrics_and_precisions_are_spelled_once() {
        assert_eq!(METRICS, Metric::ALL.map(Metric::name));
        assert_eq!(PRECISIONS, Precision::ALL.map(Precision::name));
    }
}

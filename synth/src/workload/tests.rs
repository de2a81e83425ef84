//! Specs that are right, wrong, and broken at random.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::model::tests::folder::Folder;
use crate::target::Isa;

const SPEC: &str = "\
name: small
model: { path: . }
target: { cpu: { threads: 2, memory: 4GiB } }
traffic:
  arrivals: { poisson: 4.0 }
  prompt: { p50: 128, p99: 480, max: 1024 }
  output: { p50: 48, p99: 160, max: 256 }
";

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("spec.yaml")
}

fn parse(text: &str) -> Result<Workload, SpecErrors> {
    Workload::parse(&path(), text)
}

/// The errors of `text`, each without the file it is in.
fn errors(text: &str) -> Vec<String> {
    let prefix = format!("{}:", path().display());
    let errors = parse(text).expect_err("the spec is wrong").0;
    errors.iter().map(|error| error.to_string().replace(&prefix, "")).collect()
}

/// The errors of the valid spec with one text replaced.
fn errors_with(from: &str, to: &str) -> Vec<String> {
    assert!(SPEC.contains(from), "{from}");
    errors(&SPEC.replace(from, to))
}

/// A small generator of test inputs (xorshift), seeded by the test.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

#[test]
fn defaults_are_those_of_the_table() {
    let workload = parse(SPEC).expect("the spec is valid");
    assert_eq!(workload.weights, None);
    assert_eq!(workload.target.isa, Isa::Native);
    assert_eq!(workload.target.memory, Bytes(4 << 30));
    assert_eq!(workload.traffic.arrivals, Arrivals::Poisson(4.0));
    assert_eq!(workload.traffic.concurrency, 8);
    assert_eq!(workload.traffic.prompt, Lengths { p50: 128, p99: 480, max: 1024 });
    assert_eq!(workload.api, [Api::Chat, Api::Completions]);
    assert_eq!(workload.slo, Slo { minimise: Metric::TpotP50, keep: BTreeMap::new() });
    assert_eq!(workload.tolerance, Tolerance::Exact);
}

#[test]
fn every_field_can_be_given() {
    let text = "\
name: all-of_it2
model: { hub: org/name, revision: v1.0 }
weights: bf16
target: { cpu: { isa: avx2, threads: 256, memory: 1.5 GB } }
traffic:
  arrivals: { closed: 3 }
  concurrency: 1024
  prompt: { p50: 1, p99: 1, max: 1 }
  output: { p50: 1, p99: 2, max: 3 }
output: text
api: [completions]
slo: { minimise: e2e_p99, keep: { ttft_p99: 800ms, itl_p50: 0.5s } }
tolerance: { logprob_p99: 0.1, kl_mean: 0.01 }
";
    let workload = parse(text).expect("the spec is valid");
    assert_eq!(workload.model, ModelSource::Hub { repo: "org/name".into(), revision: "v1.0".into() });
    assert_eq!(workload.weights, Some(Weights { layers: Precision::Bf16, head: None }));
    assert_eq!(workload.target.memory, Bytes(1_500_000_000));
    assert_eq!(workload.api, [Api::Completions]);
    assert_eq!(workload.slo.keep[&Metric::TtftP99], Duration::from_millis(800));
    let tolerance = Tolerance::Bounded { logprob_p99: 0.1, same_top: 0.99, kl_mean: 0.01, kl_p999: 0.5 };
    assert_eq!(workload.tolerance, tolerance, "the tail follows the mean where it is not bounded");
}

#[test]
fn weights_are_a_word_or_a_word_for_layers_and_head() {
    let weights = |value: &str| parse(&format!("{SPEC}weights: {value}\n")).map(|workload| workload.weights);
    use Precision::{Bf16, F32, Int4, Int8};
    for (value, layers, head) in [
        ("int4", Int4, None),
        ("{ layers: int8 }", Int8, None),
        ("{ layers: int4, head: int4 }", Int4, Some(Int4)),
        ("{ layers: int4, head: int8 }", Int4, Some(Int8)),
        ("{ head: bf16, layers: int8 }", Int8, Some(Bf16)),
        ("{ layers: f32, head: f32 }", F32, Some(F32)),
    ] {
        assert_eq!(weights(value).expect(value), Some(Weights { layers, head }));
    }
    let digests = ["int4", "{ layers: int4, head: int4 }", "int8"]
        .map(|value| parse(&format!("{SPEC}weights: {value}\n")).expect(value).digest);
    assert!(digests[0] != digests[1] && digests[0] != digests[2]);
    for (value, expected) in [
        (
            "int5",
            "8:10: weights: expected one of `f32`, `bf16`, `int8`, `int4`, found `int5`; did you mean `int4`?",
        ),
        ("[int4]", "8:10: weights: expected one of `f32`"),
        ("{}", "8:10: weights.layers: missing, expected one of `f32`"),
        ("{ head: int8 }", "8:10: weights.layers: missing"),
        (
            "{ layers: int4, heads: int8 }",
            "8:26: weights.heads: unknown field, expected one of `layers`, `head`; did you mean `head`?",
        ),
        ("{ layers: { a: 1 } }", "8:20: weights.layers: expected one of `f32`"),
        (
            "{ layers: int8, head: int4 }",
            "8:32: weights.head: expected no fewer bits than the layers have, int8, found `int4`",
        ),
        (
            "{ layers: bf16, head: int8 }",
            "8:32: weights.head: expected `bf16` beside layers of bf16, found `int8`",
        ),
    ] {
        let found = errors(&format!("{SPEC}weights: {value}\n"));
        assert!(found[0].starts_with(expected), "{value}: {found:#?}");
    }
}

#[test]
fn every_instruction_set_can_be_asked_for() {
    for isa in Isa::ALL {
        let text = SPEC.replace("cpu: { ", &format!("cpu: {{ isa: {}, ", isa.name()));
        assert_ne!(text, SPEC);
        assert_eq!(parse(&text).map(|it| it.target.isa).ok(), Some(isa));
    }
}

#[test]
fn the_digest_is_of_what_is_asked() {
    let digest = |text: &str| parse(text).expect("the spec is valid").digest;
    let same = SPEC.replace("name: small\n", "# a comment\n").replace("4GiB", "4096MiB").replace("4.0", "4")
        + "name: small\n";
    assert_eq!(digest(SPEC), digest(&same));
    assert_eq!(digest(SPEC), digest(&SPEC.replace("path: .", "path: src")));
    assert_ne!(digest(SPEC), digest(&SPEC.replace("4GiB", "5GiB")));
    assert_ne!(digest(SPEC), digest(&(SPEC.to_owned() + "weights: bf16\n")));
}

#[test]
fn an_error_stands_at_its_place() {
    assert_eq!(
        errors_with("  prompt:", "  promt:"),
        [
            "6:3: traffic.promt: unknown field, expected one of `arrivals`, `concurrency`, `prompt`, `output`, `samples`; did you mean `prompt`?"
        ],
    );
    assert!(
        errors_with(", max: 256", "")[0]
            .starts_with("7:11: traffic.output.max: missing, expected a whole number")
    );
    assert_eq!(
        errors_with("threads: 2", "threads: 0"),
        ["3:27: target.cpu.threads: expected a whole number from 1 to 256, found 0"],
    );
    assert_eq!(
        errors_with("memory: 4GiB", "memory: 4"),
        [
            "3:38: target.cpu.memory: expected a size with its unit, KiB, MiB, GiB, MB or GB, as `4GiB`, found 4; did you mean `4GiB`?"
        ],
    );
    assert_eq!(
        errors_with("p99: 480", "p99: 100"),
        ["6:28: traffic.prompt.p99: expected at least p50, 128, found 100"]
    );
    assert_eq!(
        errors_with("{ poisson: 4.0 }", "{ poison: 4.0 }"),
        [
            "5:15: traffic.arrivals.poison: unknown field, expected one of `poisson`, `closed`, `trace`; did you mean `poisson`?"
        ],
    );
}

#[test]
fn many_errors_come_at_once() {
    let text = SPEC.replace("small", "Small").replace("max: 256", "max: 100").replace("4.0", ".nan")
        + "slo: { minimise: tpot }\nfoo: 1\n";
    let found = errors(&text);
    let places: Vec<&str> =
        found.iter().map(|error| error.split(": ").take(2).last().unwrap_or_default()).collect();
    assert_eq!(
        places,
        ["name", "traffic.arrivals.poisson", "traffic.output.max", "slo.minimise", "foo"],
        "{found:#?}"
    );
}

#[test]
fn a_name_twice_is_refused_at_the_second() {
    assert_eq!(errors(&format!("{SPEC}name: other\n")), ["8:1: name: given twice; keep one"]);
    let found = errors(&format!("{SPEC}slo: {{ keep: {{ ttft_p99: 1s, ttft_p99: 2s }} }}\n"));
    assert_eq!(found, ["8:30: slo.keep.ttft_p99: given twice; keep one"]);
}

#[test]
fn alternatives_exclude_each_other() {
    let found = errors_with("{ poisson: 4.0 }", "{ poisson: 4.0, closed: 2 }");
    assert_eq!(
        found,
        ["5:13: traffic.arrivals: expected only one of `poisson`, `closed`, `trace`, found several"]
    );
    assert!(errors_with("{ path: . }", "{}")[0].contains("model: expected one of `path`, `hub`"));
    assert!(errors_with("{ path: . }", "{ revision: main }")[0].contains("model.hub: missing"));
    assert!(
        errors(&format!("{SPEC}tolerance: {{ tokens: exact, kl_mean: 0.1 }}\n"))[0].contains("only one of")
    );
}

#[test]
fn words_numbers_and_lists_are_checked() {
    for (from, to, expected) in [
        ("name: small", "name: async", "1:7: name: `async` is a word of Rust"),
        ("name: small", "name: synth-macros", "the name of another crate"),
        ("name: small", "name: 7", "1:7: name: expected a crate name"),
        ("path: .", "path: nowhere", "2:16: model.path: no folder at"),
        ("path: .", "hub: nowhere", "2:15: model.hub: expected a repository on the hub, as `org/name`"),
        ("path: .", "hub: ../etc", "2:15: model.hub: expected a repository"),
        ("path: .", "path: ., weights: f32", "2:19: model.weights: unknown field"),
        ("threads: 2", "threads: 2.5", "found 2.5"),
        (
            "threads: 2",
            "threads: 99999999999999999999999999999999999999999",
            "target.cpu.threads: expected a whole number",
        ),
        ("threads: 2", "isa: axv2, threads: 2", "did you mean `avx2`?"),
        ("{ poisson: 4.0 }", "{ closed: -1 }", "from 1 to 1024, found -1"),
        ("{ poisson: 4.0 }", "{ poisson: .inf }", "found inf"),
        ("{ poisson: 4.0 }", "{ trace: none.jsonl }", "traffic.arrivals.trace: cannot read"),
        (
            "{ poisson: 4.0 }",
            "4.0",
            "traffic.arrivals: expected a map with `poisson`, `closed`, `trace`, found 4",
        ),
    ] {
        let found = errors_with(from, to);
        assert!(found[0].contains(expected), "{to}: {found:#?}");
    }
    for (line, expected) in [
        ("api: []", "8:6: api: expected at least one of `chat`, `completions`"),
        (
            "api: [chat, chats]",
            "8:13: api[1]: expected one of `chat`, `completions`, found `chats`; did you mean `chat`?",
        ),
        ("api: [chat, chat]", "8:13: api[1]: `chat` is listed twice"),
        ("slo: { keep: { tpot_99: 1s } }", "8:16: slo.keep.tpot_99: unknown metric"),
        (
            "slo: { keep: { tpot_p99: 80 } }",
            "8:26: slo.keep.tpot_p99: expected a time with its unit, ms or s, as `800ms`, found 80; did you mean `80ms`?",
        ),
        (
            "tolerance: { kl_mean: 2 }",
            "8:23: tolerance.kl_mean: expected a number above 0 and up to 1, found 2",
        ),
        (
            "tolerance: { kl_p999: 21 }",
            "8:23: tolerance.kl_p999: expected a number above 0 and up to 20, found 21",
        ),
        ("precision: bf16", "8:1: precision: unknown field"),
        ("isa: avx2", "did you mean `target.cpu.isa`?"),
    ] {
        let found = errors(&format!("{SPEC}{line}\n"));
        assert!(found[0].contains(expected), "{line}: {found:#?}");
    }
}

/// A folder for the files that a spec names.
fn files(files: &[(&str, &str)]) -> Folder {
    let folder = Folder::empty();
    for (name, text) in files {
        folder.write(name, text);
    }
    folder
}

#[test]
fn samples_and_traces_are_read() {
    let folder = files(&[
        (
            "samples.jsonl",
            "{\"prompt\": \"a\", \"max_tokens\": 3}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\n",
        ),
        (
            "trace.jsonl",
            "{\"at\": 0, \"prompt_tokens\": 9, \"output_tokens\": 1}\n{\"at\": 0.5, \"prompt_tokens\": 1024, \"output_tokens\": 256}",
        ),
    ]);
    let text = SPEC.replace("poisson: 4.0 }", "trace: trace.jsonl }\n  samples: samples.jsonl");
    let workload = Workload::parse(&folder.path().join("spec.yaml"), &text).expect("the spec is valid");
    let samples = workload.samples().expect("the samples are valid");
    assert_eq!(samples[0], Sample { input: SampleInput::Prompt("a".into()), max_tokens: Some(3) });
    let message = Message { role: "user".into(), content: "b".into() };
    assert_eq!(samples[1], Sample { input: SampleInput::Messages(vec![message]), max_tokens: None });
    let trace = workload.trace().expect("the trace is valid");
    assert_eq!(trace[1], TraceEvent { at: 0.5, prompt_tokens: 1024, output_tokens: 256 });
}

#[test]
fn a_line_that_is_wrong_is_named() {
    let folder = files(&[
        (
            "samples.jsonl",
            "{\"prompt\": \"a\"}\n{\"prompt\": 1}\n{\"promt\": \"a\"}\n{\"prompt\": \"a\", \"max_tokens\": 0}\n{}\n{\"messages\": [{\"role\": \"robot\", \"content\": \"b\"}]}\n",
        ),
        (
            "trace.jsonl",
            "{\"at\": 1, \"prompt_tokens\": 9, \"output_tokens\": 1}\n{\"at\": 0.5, \"prompt_tokens\": 9, \"output_tokens\": 1}\n{\"at\": 2, \"prompt_tokens\": 2000, \"output_tokens\": 1}\n",
        ),
        ("empty.jsonl", "\n"),
    ]);
    let found = |arrivals: &str| {
        let text = SPEC.replace("poisson: 4.0 }", arrivals);
        let errors = Workload::parse(&folder.path().join("spec.yaml"), &text).expect_err("the spec is wrong");
        errors.to_string().replace(&format!("{}/", folder.path().display()), "")
    };
    assert_eq!(
        found("poisson: 4.0 }\n  samples: samples.jsonl"),
        "samples.jsonl:2:12: invalid type: integer `1`, expected a string\n\
         samples.jsonl:3:8: unknown field `promt`, expected one of `prompt`, `messages`, `max_tokens`\n\
         samples.jsonl:4:1: max_tokens: expected at least 1, found 0\n\
         samples.jsonl:5:1: expected either a `prompt` or `messages`, not empty\n\
         samples.jsonl:6:1: role: expected `system`, `user` or `assistant`, found `robot`"
    );
    assert_eq!(
        found("trace: trace.jsonl }"),
        "trace.jsonl:2:1: at: expected seconds from 1 on, found 0.5\n\
         trace.jsonl:3:1: prompt_tokens: expected 1 to 1024, found 2000"
    );
    assert_eq!(
        found("poisson: 4.0 }\n  samples: empty.jsonl"),
        "spec.yaml:6:12: traffic.samples: expected at least one request in empty.jsonl"
    );
}

#[test]
fn broken_yaml_is_an_error_with_a_place() {
    for (text, expected) in [
        ("", "1:1: the spec is empty"),
        ("name: [a\n", "did not find expected"),
        ("- a\n- b\n", "1:1: expected a map with `name`"),
        ("name: x\n1: y\n", "2:1: invalid type: integer `1`, expected the name of a field"),
        ("name: !secret x\n", "1:7: name: a spec has no tags"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n---\n", "more than one document"),
        ("\tname: x\n", "1:1"),
    ] {
        let found = errors(text);
        assert!(found[0].contains(expected), "{text}: {found:#?}");
    }
}

#[test]
fn hostile_yaml_costs_little() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..40 {
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(", "));
    }
    let deep_flow = "[".repeat(MAX_TEXT);
    let deep_block = "- ".repeat(MAX_TEXT / 2);
    let deep_mapping = (0..300).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
    let long = "a".repeat(10 * MAX_TEXT);
    let many = "a: 1\n".repeat(MAX_TEXT / 5);
    let question = "? ".repeat(MAX_TEXT / 2);
    let strangers = (0..1500).map(|idx| format!("stranger{idx}: 1\n")).collect::<String>();
    for text in [strangers, bomb, deep_flow, deep_block, deep_mapping, long, many, question] {
        let start = Instant::now();
        let found = errors(&text);
        assert!(!found.is_empty() && found.len() < 100);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?} for {}", start.elapsed(), &text[..20]);
    }
}

const MAX_TEXT: usize = file::MAX_BYTES;

#[test]
fn no_mutation_panics_and_every_error_has_a_place() {
    let mut random = Random(0x5eed_0001);
    let fragments = [
        "{", "}", "[", "]", ":", "- ", "&a", "*a", "!t", "#", "\n", "\t", "'", "\"", "? ", "|", ">", "~",
        "-1", ".nan", "<<", "é", "\u{feff}", "---", "%",
    ];
    for _ in 0..3000 {
        let mut text: Vec<char> = SPEC.chars().collect();
        for _ in 0..=random.below(3) {
            let at = random.below(text.len().max(1)).min(text.len());
            match random.below(3) {
                0 => drop(text.splice(at..at, fragments[random.below(fragments.len())].chars())),
                1 => drop(text.drain(at..text.len().min(at + 1 + random.below(6)))),
                _ => text.truncate(at),
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(SpecErrors(errors)) = parse(&text) {
            assert!(!errors.is_empty(), "{text}");
            for error in errors {
                assert!(
                    error.line >= 1 && error.column >= 1 && error.line <= text.lines().count() + 1,
                    "{error}\n{text}"
                );
                assert!(!error.message.is_empty(), "{text}");
            }
        }
    }
}

#[test]
fn documentation_is_made_from_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (file, made) in [("docs/workload.md", schema::markdown()), ("workloads/schema.json", schema::json())]
    {
        let written = std::fs::read_to_string(root.join(file)).expect("the file is committed");
        assert!(written == made, "{file} is not what the field table makes");
    }
}

//! Specs that are wrong.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use super::{Case, SPEC, assert_refused, case};

/// The right spec with one text replaced.
fn with(name: &'static str, from: &'static str, to: &'static str, says: &'static [&'static str]) -> Case {
    assert!(SPEC.contains(from), "{from}");
    case(name, move |folder| write(folder, SPEC.replace(from, to)), says)
}

fn write(folder: &Path, text: impl AsRef<[u8]>) {
    fs::write(folder.join("spec.yaml"), text).expect("the spec can be written");
}

#[test]
fn a_field_is_refused_at_its_place() {
    assert_refused(&[
        with(
            "unknown field",
            "concurrency: 2",
            "concurency: 2",
            &["spec.yaml:6:3: traffic.concurency: unknown field", "did you mean `concurrency`?"],
        ),
        with(
            "right name, wrong depth",
            "name: small",
            "name: small\nthreads: 2",
            &["spec.yaml:2:1: threads: unknown field", "did you mean `target.cpu.threads`?"],
        ),
        with(
            "given twice",
            "name: small",
            "name: small\nname: tall",
            &["spec.yaml:2:1: name: given twice; keep one"],
        ),
        with("missing", "name: small\n", "", &["spec.yaml:1:1: name: missing, expected a crate name"]),
        with(
            "no unit",
            "1GiB",
            "4",
            &["target.cpu.memory: expected a size with its unit", "did you mean `4GiB`?"],
        ),
        with(
            "wrong unit",
            "1GiB",
            "1 gigabyte",
            &["spec.yaml:3:", "expected a size with its unit, KiB, MiB, GiB"],
        ),
        with(
            "a time without its unit",
            "api:",
            "slo: { keep: { ttft_p99: 800 } }\napi:",
            &["spec.yaml:9:", "slo.keep.ttft_p99: expected a time with its unit", "did you mean `800ms`?"],
        ),
        with(
            "negative",
            "threads: 1",
            "threads: -1",
            &["target.cpu.threads: expected a whole number from 1 to 256, found -1"],
        ),
        with(
            "float",
            "concurrency: 2",
            "concurrency: 2.5",
            &["traffic.concurrency: expected a whole number"],
        ),
        with(
            "too large",
            "threads: 1",
            "threads: 99999999999999999999999",
            &["expected a whole number from 1 to 256"],
        ),
        with(
            "not a number",
            "poisson: 4.0",
            "poisson: .nan",
            &["traffic.arrivals.poisson: expected a number above 0"],
        ),
        with(
            "order",
            "p50: 20, p99: 40",
            "p50: 40, p99: 20",
            &["spec.yaml:7:", "expected at least p50, 40, found 20"],
        ),
        with(
            "two of one",
            "poisson: 4.0",
            "poisson: 4.0, closed: 2",
            &["traffic.arrivals: expected only one of"],
        ),
        with(
            "a word of Rust",
            "name: small",
            "name: match",
            &["spec.yaml:1:7: name: `match` is a word of Rust"],
        ),
        with(
            "a path as name",
            "name: small",
            "name: ../../evil",
            &["spec.yaml:1:7: name: expected a crate name"],
        ),
        with(
            "another set",
            "isa: scalar",
            "isa: neon",
            &["target.cpu.isa: expected one of `native`, `scalar`"],
        ),
        with("another tag", "name: small", "name: !python/object x", &["spec.yaml:1:"]),
        with(
            "a model that is made on demand",
            "path: model",
            "path: target/models/qwen2.5-0.5b",
            &["spec.yaml:2:16: model.path: no folder at", "run `cargo xtask model qwen2.5-0.5b`"],
        ),
        with(
            "no folder",
            "path: model",
            "path: modle",
            &["spec.yaml:2:16: model.path: no folder at", "relative to the folder of the spec"],
        ),
    ]);
}

#[test]
fn several_mistakes_are_told_at_once() {
    let several =
        SPEC.replace("concurrency: 2", "concurency: 2").replace("1GiB", "1GB/s").replace("max: 50", "max: 5");
    assert_refused(&[case(
        "three",
        move |folder| write(folder, &several),
        &[
            "spec.yaml:3:",
            "spec.yaml:6:3: traffic.concurency",
            "spec.yaml:8:",
            "expected at least p99, 20, found 5",
        ],
    )]);
}

#[test]
fn what_cannot_be_served_is_refused_with_the_arithmetic() {
    assert_refused(&[
        with(
            "context",
            "max: 100",
            "max: 250",
            &["spec.yaml:7:", "prompt.max 250 + output.max 50 = 300, more than the model's context, 256"],
        ),
        with(
            "memory",
            "1GiB",
            "200KiB",
            &[
                "spec.yaml:3:",
                "target.cpu.memory: weights 195 KiB",
                "KV 20 blocks × 16 KiB = 320 KiB",
                "more than the 200 KiB given; lower",
            ],
        ),
        with(
            "roofline",
            "api:",
            "slo: { keep: { ttft_p50: 0.001ms } }\napi:",
            &["spec.yaml:9:", "slo.keep.ttft_p50: 0.001 ms is below the least that this machine allows"],
        ),
        with(
            "rounded weights",
            "api:",
            "weights: bf16\napi:",
            &["spec.yaml:9:10: weights: bf16 rounds weights stored as F32"],
        ),
        with(
            "codes for exact tokens",
            "api:",
            "weights: int4\napi:",
            &["spec.yaml:9:10: weights: int4 rounds weights stored as F32", "give bounds under tolerance"],
        ),
        with(
            "a head of codes for exact tokens",
            "api:",
            "weights: { layers: int8, head: f32 }\ntolerance: { tokens: exact }\napi:",
            &["spec.yaml:9:10: weights: int8 rounds weights stored as F32"],
        ),
        with(
            "a head coarser than its layers",
            "api:",
            "weights: { layers: int8, head: int4 }\ntolerance: { kl_mean: 0.1 }\napi:",
            &["spec.yaml:9:32: weights.head: expected no fewer bits than the layers have"],
        ),
        with(
            "a tolerance that cannot be",
            "api:",
            "tolerance: { kl_p999: 0 }\napi:",
            &["spec.yaml:9:23: tolerance.kl_p999: expected a number above 0 and up to 20, found 0"],
        ),
        with(
            "no chat template",
            "[completions]",
            "[chat]",
            &["spec.yaml:9:6: api: chat needs a chat template", "or leave chat out"],
        ),
    ]);
}

#[test]
fn a_file_that_is_no_spec_is_refused() {
    let bomb = "\
a: &a [x, x, x, x, x, x, x, x, x]
b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]
c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]
d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]
e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]
f: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e]
g: &g [*f, *f, *f, *f, *f, *f, *f, *f, *f]
name: [*g, *g, *g, *g, *g, *g, *g, *g, *g]
";
    assert_refused(&[
        case("empty", |folder| write(folder, ""), &["spec.yaml:1:1: the spec is empty"]),
        case(
            "a list",
            |folder| write(folder, "- name: small\n"),
            &["spec.yaml:1:1: expected a map with `name`"],
        ),
        case("no YAML", |folder| write(folder, "name: [small\n"), &["spec.yaml:"]),
        case(
            "two documents",
            |folder| write(folder, format!("{SPEC}---\n{SPEC}")),
            &["spec.yaml:", "more than one document is not supported"],
        ),
        case("no UTF-8", |folder| write(folder, b"name: sm\xffall\n"), &["spec.yaml:1:9: expected UTF-8"]),
        case(
            "an alias bomb",
            move |folder| write(folder, bomb),
            &["spec.yaml:", "a spec has at most 4096 values"],
        ),
        case("an alias of itself", |folder| write(folder, "name: &a [*a]\n"), &["spec.yaml:1:"]),
        case(
            "nesting without end",
            |folder| write(folder, "[".repeat(60_000)),
            &["spec.yaml:1:1: a spec has at most 1024 brackets"],
        ),
        case(
            "nesting by indentation",
            |folder| {
                let lines: String = (0..300).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
                write(folder, lines);
            },
            &["spec.yaml:"],
        ),
        case(
            "100 MB",
            |folder| write(folder, vec![b'#'; 100_000_000]),
            &["spec.yaml:1:1: a spec is at most 64 KiB"],
        ),
        case(
            "a hundred unknown fields",
            |folder| {
                let fields: String = (0..5000).map(|n| format!("f{n}: 1\n")).collect();
                write(folder, fields);
            },
            &["spec.yaml:1:1: "],
        ),
        case(
            "a folder",
            |folder| {
                fs::remove_file(folder.join("spec.yaml")).expect("the spec is there");
                fs::create_dir(folder.join("spec.yaml")).expect("a folder can be made");
            },
            &["spec.yaml:1:1: ", "expected a file"],
        ),
        case(
            "a pipe that nobody writes to",
            |folder| {
                fs::remove_file(folder.join("spec.yaml")).expect("the spec is there");
                make_pipe(&folder.join("spec.yaml"));
            },
            &["spec.yaml:1:1: ", "expected a file"],
        ),
        case(
            "links in a circle",
            |folder| {
                fs::remove_file(folder.join("spec.yaml")).expect("the spec is there");
                symlink("spec.yaml", folder.join("spec.yaml")).expect("a link can be made");
            },
            &["spec.yaml: ", "symbolic links"],
        ),
        case(
            "absent",
            |folder| fs::remove_file(folder.join("spec.yaml")).expect("the spec is there"),
            &["spec.yaml: No such file"],
        ),
    ]);
}

#[test]
fn the_files_that_a_spec_names_are_read_as_carefully() {
    let samples = |folder: &Path, text: &[u8]| {
        write(folder, SPEC.replace("api:", "  samples: requests.jsonl\napi:"));
        fs::write(folder.join("requests.jsonl"), text).expect("the samples can be written");
    };
    assert_refused(&[
        case(
            "a sample that is none",
            move |folder| samples(folder, b"{\"prompt\": \"a\"}\n{\"prompts\": \"b\"}\n"),
            &["requests.jsonl:2:", "unknown field `prompts`"],
        ),
        case(
            "no samples",
            move |folder| samples(folder, b"\n"),
            &["spec.yaml:9:", "expected at least one request in"],
        ),
        case(
            "a pipe of samples",
            |folder| {
                write(folder, SPEC.replace("api:", "  samples: requests.jsonl\napi:"));
                make_pipe(&folder.join("requests.jsonl"));
            },
            &["spec.yaml:9:", "traffic.samples: expected a file"],
        ),
        case(
            "a trace that goes back in time",
            |folder| {
                write(folder, SPEC.replace("poisson: 4.0", "trace: trace.jsonl"));
                let events = [1.0, 0.5]
                    .map(|at| format!("{{\"at\": {at}, \"prompt_tokens\": 2, \"output_tokens\": 2}}\n"));
                fs::write(folder.join("trace.jsonl"), events.concat()).expect("the trace can be written");
            },
            &["trace.jsonl:2:1: at: expected seconds from 1 on, found 0.5"],
        ),
    ]);
}

/// A named pipe: opening it for reading waits until somebody writes.
pub fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(made.success());
}

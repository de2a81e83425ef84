//! Plans that were edited by hand, or are none.

use std::{fs, path::Path, sync::OnceLock};

use super::{assert_refused, case, sound, specs::make_pipe};

/// The plan of the sound folder, with one text replaced.
fn edit(folder: &Path, from: &str, to: &str) {
    static SOUND: OnceLock<String> = OnceLock::new();
    let text = SOUND.get_or_init(|| {
        let folder = sound();
        let ran = super::plan(folder.path());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        fs::read_to_string(folder.path().join("spec.plan.yaml")).expect("the plan was written")
    });
    replace(folder, text, from, to);
}

/// The same, every decision made by hand.
fn by_user(folder: &Path, from: &str, to: &str) {
    edit(folder, "by: rule", "by: user");
    let text = fs::read_to_string(folder.join("spec.plan.yaml")).expect("the plan is there");
    replace(folder, &text, from, to);
}

fn replace(folder: &Path, text: &str, from: &str, to: &str) {
    assert!(text.contains(from), "{from:?} is not in\n{text}");
    fs::write(folder.join("spec.plan.yaml"), text.replace(from, to)).expect("the plan can be written");
}

#[test]
fn a_decision_that_cannot_be_carried_out_is_refused_with_the_names_there_are() {
    assert_refused(&[
        case(
            "unknown mechanism",
            |folder| by_user(folder, "paged_kv", "radix_kv"),
            &["spec.plan.yaml", "kv", "`radix_kv`, which is not in the catalogue; the axis has paged_kv"],
        ),
        case(
            "unknown knob",
            |folder| by_user(folder, "block: 16", "blocks: 16"),
            &["spec.plan.yaml", "sets `blocks`, which paged_kv does not have here; it has block"],
        ),
        case(
            "a mechanism of another axis",
            |folder| by_user(folder, "mechanism: sampling", "mechanism: paged_kv"),
            &["sample names `paged_kv`", "the axis has sampling"],
        ),
        case(
            "an axis that must be answered",
            |folder| by_user(folder, "mechanism: paged_kv", "mechanism: none"),
            &["kv names `none`", "the axis has paged_kv"],
        ),
        case(
            "what does not fit",
            |folder| by_user(folder, "f32_weights", "bf16_weights"),
            &["weights (by user) is `bf16_weights`, which does not fit", "delete the decision"],
        ),
        case(
            "a block of nothing",
            |folder| by_user(folder, "block: 16", "block: 0"),
            &["spec.plan.yaml: ", "`block` of paged_kv is 0", "expected one of 16, 32, 64"],
        ),
        case(
            "a block of everything",
            |folder| by_user(folder, "block: 16", "block: 18446744073709551615"),
            &["`block` of paged_kv is 18446744073709551615", "expected one of 16, 32, 64"],
        ),
        case(
            "rows for no one",
            |folder| by_user(folder, "rows: 64", "rows: 1"),
            &["1 rows a step leave some of 2 sequences without one; set `rows` to at least 2"],
        ),
        case(
            "rows beyond number",
            |folder| by_user(folder, "rows: 64", "rows: 9999999999999"),
            &["`rows` of continuous_batching is 9999999999999"],
        ),
        case(
            "blocks that no longer fit the memory",
            |folder| {
                by_user(folder, "rows: 64", "rows: 256");
                let spec = folder.join("spec.yaml");
                let text = fs::read_to_string(&spec).expect("the spec is there");
                fs::write(spec, text.replace("1GiB", "700KiB")).expect("the spec can be written");
            },
            &["spec.yaml:3:", "target.cpu.memory: ", "more than the 700 KiB given"],
        ),
        case(
            "a reason that is none",
            |folder| by_user(folder, "reason: Plain Rust runs on any processor.", "reason: ' '"),
            &["kernels", "reason"],
        ),
        case(
            "a reason that an emitted crate may not hold",
            |folder| by_user(folder, "Plain Rust runs on any processor.", "TODO find out."),
            &["kernels", "reason", "TODO"],
        ),
    ]);
}

#[test]
fn a_file_that_is_no_plan_is_refused() {
    let write = |folder: &Path, text: &[u8]| {
        fs::write(folder.join("spec.plan.yaml"), text).expect("the plan can be written");
    };
    assert_refused(&[
        case(
            "not a plan",
            move |folder| write(folder, b"- 1\n"),
            &["spec.plan.yaml:1:1", "repair it, or delete"],
        ),
        case("no UTF-8", move |folder| write(folder, b"\xff"), &["spec.plan.yaml", "UTF-8"]),
        case("unknown key", |folder| edit(folder, "isa:", "isas:"), &["spec.plan.yaml:", "isas"]),
        case(
            "another version",
            |folder| edit(folder, "version: 1", "version: 2"),
            &["spec.plan.yaml: plan version 2"],
        ),
        case(
            "an instruction set that is not decided",
            |folder| edit(folder, "isa: scalar", "isa: native"),
            &["spec.plan.yaml:", "isa", "native"],
        ),
        case(
            "too long",
            move |folder| write(folder, &vec![b'#'; 100_000_000]),
            &["spec.plan.yaml", "at most"],
        ),
        case("nesting without end", move |folder| write(folder, &[b'['; 60_000]), &["spec.plan.yaml"]),
        case(
            "a pipe",
            |folder| make_pipe(&folder.join("spec.plan.yaml")),
            &["spec.plan.yaml", "expected a file"],
        ),
        case(
            "a folder",
            |folder| fs::create_dir(folder.join("spec.plan.yaml")).expect("a folder can be made"),
            &["spec.plan.yaml", "expected a file"],
        ),
    ]);
}

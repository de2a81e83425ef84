//! From a plan to a crate: the same bytes for the same inputs, whoever asks, and every combination fit to be read.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use synth::{
    axis::Axis,
    calibration::Calibration,
    emit::{self, EmitError, Place},
    feasibility,
    mechanism::Job,
    model::{Dtype, Model},
    plan::{Author, Plan},
    planner, reading,
    source_tree::SourceTree,
    target::Isa,
    workload::Workload,
};
use templates::CATALOGUE;

use crate::{
    command::{self, Bounds},
    scratch::{Scratch, fixture, odd_model},
    tolerance::calibration,
};

/// The families, each as its fixture has it.
const FIXTURES: [&str; 6] = ["llama", "llama_tied", "mistral", "quickstart", "qwen2", "qwen3"];

const SPEC: &str = "\
name: small
model: { path: MODEL }
target: { cpu: { isa: avx2, threads: 2, memory: 1GiB } }
traffic:
  arrivals: { poisson: 4.0 }
  concurrency: 3
  prompt: { p50: 40, p99: 90, max: 150 }
  output: { p50: 10, p99: 20, max: 50 }
api: [completions]
";

/// A spec, its model and an instruction set: what a plan is made for.
struct Asked {
    workload: Workload,
    model: Model,
    isa: Isa,
    calibration: Calibration,
}

impl Asked {
    /// The spec with this model, and these lines at its end.
    fn read(folder: &Path, more: &str, isa: Isa) -> Asked {
        let model = Model::read(folder).unwrap_or_else(|errors| panic!("{errors}"));
        // A head beside codes is held in them, or as it is stored; f16 is widened.
        let stored = if model.stored == Dtype::Bf16 { "bf16" } else { "f32" };
        let text = SPEC.replace("MODEL", &folder.display().to_string()) + &more.replace("STORED", stored);
        let workload =
            Workload::parse(Path::new("spec.yaml"), &text).unwrap_or_else(|errors| panic!("{errors}"));
        // As if rounding cost nothing.
        let calibration = calibration(&model, |_| 0.0);
        Asked { workload, model, isa, calibration }
    }

    fn job(&self) -> Job<'_> {
        Job {
            workload: &self.workload,
            model: &self.model,
            isa: self.isa,
            calibration: Some(&self.calibration),
            held: None,
            rate: None,
            kv: None,
        }
    }

    fn plan(&self, earlier: Option<&Plan>) -> Plan {
        planner::plan(&self.job(), "0", earlier, CATALOGUE.mechanisms)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn emit(&self, plan: &Plan) -> Result<SourceTree, EmitError> {
        let knob = |axis, name: &str| plan.on(axis).map_or(1, |decision| decision.knobs[name] as usize);
        let held = planner::held(plan, CATALOGUE.mechanisms).expect("a plan holds weights");
        let kv = planner::kv(plan, CATALOGUE.mechanisms).expect("a plan keeps keys and values");
        let (block, rows) = (knob(Axis::Kv, "block"), knob(Axis::Schedule, "rows"));
        let kernels =
            planner::on_axis(plan, Axis::Kernels, CATALOGUE.mechanisms).expect("a plan has kernels");
        let operand = |format, rows, k| kernels.operand_bytes(format, rows, k);
        let memory = feasibility::memory(&self.workload, &self.model, held, kv, block, rows, operand);
        let place = Place::Elsewhere { savile: "/savile".to_owned() };
        emit::emit(self.job(), plan, &memory, &place, "/images/m.weights", &CATALOGUE)
    }
}

/// Decides one axis by hand.
fn set(plan: &mut Plan, axis: Axis, knob: &str, value: u64) {
    let decision = plan.decisions.get_mut(&axis).expect("a plan decides every axis");
    decision.knobs.insert(knob.to_owned(), value);
    decision.by = Author::User;
    decision.reason = format!("{value} was measured to be better here.");
}

#[test]
fn every_family_emits_for_every_instruction_set_and_number_format_and_is_fit_to_be_read() {
    const MORE: [&str; 8] = [
        "",
        "weights: f32\n",
        "weights: bf16\ntolerance: { logprob_p99: 0.5 }\n",
        "weights: int8\ntolerance: { logprob_p99: 0.5 }\n",
        "weights: { layers: int8, head: STORED }\ntolerance: { logprob_p99: 0.5 }\n",
        "weights: { layers: int4, head: int8 }\ntolerance: { logprob_p99: 0.5 }\n",
        "weights: STORED\nkv: bf16\ntolerance: { logprob_p99: 0.5 }\n",
        "weights: STORED\nkv: int8\ntolerance: { logprob_p99: 0.5 }\n",
    ];
    let odd = Scratch::new("odd");
    odd_model(odd.path());
    let folders: Vec<PathBuf> = FIXTURES.into_iter().map(fixture).chain([odd.path().to_owned()]).collect();
    let findings = |folder: &Path| -> Vec<String> {
        let mut findings = Vec::new();
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx] {
            for more in MORE {
                let asked = Asked::read(folder, more, isa);
                let plan = asked.plan(None);
                let tree =
                    asked.emit(&plan).unwrap_or_else(|error| panic!("{folder:?} {isa:?} {more}: {error}"));
                let read = reading::check(&tree);
                findings.extend(read.iter().map(|it| format!("{folder:?} {isa:?} {more:?}: {it}")));
            }
        }
        findings
    };
    // Most of the time is rustfmt's, a process for each file.
    let findings: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = folders.iter().map(|folder| scope.spawn(|| findings(folder))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no emission panics")).collect()
    });
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn knobs_set_by_hand_are_those_of_the_crate() {
    let asked = Asked::read(&fixture("qwen3"), "", Isa::Avx2);
    let decided = asked.plan(None);
    for (axis, knob, constant, values) in
        [(Axis::Kv, "block", "BLOCK", [32, 64]), (Axis::Schedule, "rows", "STEP_ROWS", [32, 1024])]
    {
        for value in values {
            let mut edited = decided.clone();
            set(&mut edited, axis, knob, value);
            let plan = asked.plan(Some(&edited));
            assert_eq!(plan, edited, "a decision by hand stands");
            assert_ne!(plan.digest(), decided.digest());
            let tree = asked.emit(&plan).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(reading::check(&tree), []);
            let shape = tree.get("src/shape.rs").expect("every crate has its numbers");
            let expected = format!(
                "/// {value} was measured to be better here.\npub const {constant}: usize = {value};"
            );
            assert!(shape.contains(&expected), "{expected}\n{shape}");
        }
    }
}

#[test]
fn numbers_of_the_kernels_set_by_hand_change_one_file_and_what_names_the_plan() {
    for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx] {
        for more in [
            "",
            "weights: f32\n",
            "weights: { layers: int8, head: STORED }\ntolerance: { logprob_p99: 0.5 }\n",
        ] {
            let asked = Asked::read(&fixture("qwen3"), more, isa);
            let decided = asked.plan(None);
            let tree = asked.emit(&decided).unwrap_or_else(|error| panic!("{error}"));
            let decision = decided.on(Axis::Kernels).expect("a plan decides every axis");
            let mechanism = CATALOGUE.mechanisms.iter().find(|it| it.name() == decision.mechanism);
            let specs = mechanism.expect("a plan names what there is").knobs();
            assert_eq!(
                tree.get("src/kernels/tuning.rs").is_some(),
                !decision.knobs.is_empty(),
                "{isa:?} {more}"
            );
            for (knob, usual) in &decision.knobs {
                let spec = specs.iter().find(|spec| spec.name == knob).expect("a knob is its mechanism's");
                assert!(spec.values.contains(usual), "{knob} {usual}");
                let other = *spec.values.iter().find(|value| *value != usual).expect("a knob has a choice");
                let mut edited = decided.clone();
                set(&mut edited, Axis::Kernels, knob, other);
                let plan = asked.plan(Some(&edited));
                assert_eq!(plan, edited, "a decision by hand stands");
                let other_tree = asked.emit(&plan).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(reading::check(&other_tree), []);
                let text = other_tree.get("src/kernels/tuning.rs").expect("there are knobs");
                let constant = format!("pub const {}: usize = {other};", knob.to_uppercase());
                assert!(text.contains(&constant), "{constant}\n{text}");
                assert!(text.contains("was measured to be better here."), "{text}");
                let changed: Vec<_> = other_tree
                    .iter()
                    .filter(|(path, text)| tree.get(path) != Some(text))
                    .map(|it| it.0)
                    .collect();
                assert_eq!(
                    changed,
                    ["README.md", "src/kernels/tuning.rs", "src/server.rs"],
                    "{isa:?} {more} {knob}"
                );
            }
        }
    }
}

#[test]
fn a_number_that_no_product_reads_is_refused() {
    let bf16 = "weights: bf16\ntolerance: { logprob_p99: 0.5 }\n";
    for (knob, more, known) in [("few_rows", "", "pages, panels, strips"), ("panels", bf16, "pages")] {
        let asked =
            Asked::read(&fixture("qwen3"), more, if more.is_empty() { Isa::Amx } else { Isa::Avx512 });
        let mut edited = asked.plan(None);
        set(&mut edited, Axis::Kernels, knob, 8);
        let refused = planner::plan(&asked.job(), "0", Some(&edited), CATALOGUE.mechanisms);
        let error = refused.expect_err("nothing would change").to_string();
        assert!(error.contains(&format!("sets `{knob}`, which")), "{error}");
        assert!(error.contains(&format!("does not have here; it has {known}")), "{error}");
    }
}

/// The rows of a step where the spec has these lines at its end, and the reason.
fn rows(more: &str, isa: Isa) -> (u64, String) {
    let asked = Asked::read(&fixture("qwen3"), more, isa);
    let plan = asked.plan(None);
    let decision = plan.on(Axis::Schedule).expect("a plan decides every axis");
    (decision.knobs["rows"], decision.reason.clone())
}

#[test]
fn every_kernel_states_the_rate_that_its_ladder_shows() {
    const BF16: &str = "weights: bf16\ntolerance: { logprob_p99: 0.5 }\n";
    const INT8: &str = "weights: int8\ntolerance: { logprob_p99: 0.5 }\n";
    const INT4: &str = "weights: int4\ntolerance: { logprob_p99: 0.5 }\n";
    for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx] {
        for more in ["", "weights: f32\n", BF16, INT8, INT4] {
            let asked = Asked::read(&fixture("qwen3"), more, isa);
            let plan = asked.plan(None);
            let rate = planner::rate(&plan, CATALOGUE.mechanisms).expect("kernels state their rate");
            let tree = asked.emit(&plan).unwrap_or_else(|error| panic!("{error}"));
            let kernel = tree.get("src/kernels/matmul.rs").expect("every crate has products");
            let ladder: Vec<_> = kernel.lines().take_while(|line| line.starts_with("//!")).collect();
            let stated = ["GFLOP/s", "GOP/s"].map(|unit| format!(" {} {unit}", rate * 2.0 / 1e9));
            assert!(
                ladder.iter().any(|line| stated.iter().any(|stated| line.contains(stated))),
                "{isa:?} {more}: none of {stated:?} in {ladder:#?}"
            );
        }
    }
}

#[test]
fn bounds_on_gaps_shorten_steps_and_bounds_on_the_first_token_lengthen_them() {
    let keep = |bounds: &str| format!("slo: {{ keep: {{ {bounds} }} }}\n");
    for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx] {
        let (free, reason) = rows("", isa);
        assert!(free >= 32, "{reason}");
        let of = |bounds: &str| rows(&keep(bounds), isa).0;
        let gaps = ["itl_p99: 0.001ms", "itl_p99: 0.02ms", "itl_p99: 1ms", "itl_p99: 1s"].map(of);
        assert!(gaps.is_sorted() && gaps[0] == 32, "{isa:?}: {gaps:?}");
        // A whole prompt of the 99th percentile, 90 tokens, and no more.
        assert_eq!(gaps[3], 128, "{isa:?}");
        let firsts = ["ttft_p99: 0.001ms", "ttft_p99: 0.1ms", "ttft_p99: 10s"].map(of);
        assert!(firsts.iter().rev().is_sorted() && firsts[2] == free, "{isa:?}: {firsts:?}");
        assert_eq!(of("tpot_p50: 0.001ms, ttft_p99: 0.001ms"), 32, "{isa:?}: the gap binds");
    }
    let (_, reason) = rows(&keep("itl_p99: 0.08ms"), Isa::Avx2);
    assert!(reason.contains("the most within itl_p99 of 0.080 ms: 2 threads at 197 GFLOP/s"), "{reason}");
    let (_, reason) = rows(&keep("itl_p99: 0.001ms"), Isa::Avx2);
    assert!(reason.contains("the fewest that there are, as none keep itl_p99 of 0.001 ms: "), "{reason}");
}

#[test]
fn a_reason_written_over_several_lines_stays_a_comment() {
    let asked = Asked::read(&fixture("qwen3"), "", Isa::Avx2);
    let mut edited = asked.plan(None);
    set(&mut edited, Axis::Kv, "block", 32);
    let decision = edited.decisions.get_mut(&Axis::Kv).expect("a plan decides every axis");
    decision.reason = "Measured:\n\n  32 | 16 is a tie.\npub const EVIL: usize = 1; */ //\n".to_owned();
    let tree = asked.emit(&asked.plan(Some(&edited))).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(reading::check(&tree), []);
    let shape = tree.get("src/shape.rs").expect("every crate has its numbers");
    assert!(shape.contains("/// Measured: 32 | 16 is a tie. pub const EVIL: usize = 1; */ //.\n"), "{shape}");
    let readme = tree.get("README.md").expect("every crate has a README");
    assert!(readme.contains(r"| Measured: 32 \| 16 is a tie."), "{readme}");
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    for name in FIXTURES {
        let asked = Asked::read(&fixture(name), "", Isa::Avx512);
        let plan = asked.plan(None);
        assert_eq!(plan, asked.plan(Some(&plan)), "{name}: planning again decides the same");
        let trees = [0, 1].map(|_| asked.emit(&plan).unwrap_or_else(|error| panic!("{error}")));
        assert_eq!(trees[0], trees[1], "{name}");
    }
}

#[test]
fn neither_the_folder_nor_the_environment_of_the_caller_changes_a_byte() {
    let folder = Scratch::new("emission");
    let spec = SPEC.replace("MODEL", &fixture("qwen3").display().to_string());
    folder.write("spec.yaml", &spec);
    let emit = |command: &mut Command| {
        let spec = folder.path().join("spec.yaml");
        let out = folder.path().join("crate");
        command.args([
            "synth",
            &spec.display().to_string(),
            "--out",
            &out.display().to_string(),
            "--stop",
            "emit",
        ]);
        let ran = command::run(command, Duration::from_secs(120)).expect("xtask runs");
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let files = files(&out);
        fs::remove_dir_all(&out).expect("it was written");
        files
    };
    let here = emit(Command::new(command::program()).current_dir(folder.path()));
    fs::remove_file(folder.path().join("spec.plan.yaml")).expect("the plan was written");
    // rustfmt and cargo look for settings around them.
    let elsewhere = Scratch::new("elsewhere");
    elsewhere.write("rustfmt.toml", "max_width = 40\nhard_tabs = true\n");
    elsewhere.write(".rustfmt.toml", "max_width = 40\nhard_tabs = true\n");
    folder.write("rustfmt.toml", "max_width = 40\nhard_tabs = true\n");
    let there = emit(
        Command::new(command::program())
            .current_dir(elsewhere.path())
            .envs([("LC_ALL", "tr_TR.UTF-8"), ("TZ", "Pacific/Kiritimati"), ("RUSTFLAGS", "-C opt-level=0")])
            .env("XDG_CONFIG_HOME", elsewhere.path())
            .env("SOURCE_DATE_EPOCH", "0"),
    );
    assert_eq!(here.keys().collect::<Vec<_>>(), there.keys().collect::<Vec<_>>());
    for (path, text) in &here {
        assert_eq!(Some(text), there.get(path), "{path}");
    }
}

#[test]
fn names_and_paths_of_the_user_are_spelled_as_rust_and_toml_spell_them() {
    let folder = Scratch::new("named");
    let strange = folder.path().join("a \"generated\" TODO \\n é");
    crate::scratch::copy_fixture("llama_tied", &strange);
    fs::write(strange.join("chat_template.jinja"), "{# TODO: generated #}{{ messages[0].content }}")
        .expect("a file can be written");
    folder.write(
        "spec.yaml",
        SPEC.replace("small", "generated").replace("MODEL", "'a \"generated\" TODO \\n é'"),
    );
    let bounds = Bounds { time: Duration::from_secs(120), memory: None };
    let out = strange.join("crate").display().to_string();
    let arguments = ["synth", "spec.yaml", "--out", out.as_str(), "--stop", "emit"];
    let ran = command::xtask(folder.path(), &arguments, bounds);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let server = fs::read_to_string(strange.join("crate/src/server.rs")).expect("it was written");
    let image = strange.canonicalize().expect("it is there").join("crate/generated.weights");
    let written = format!("{:?}", image.display().to_string());
    assert!(server.contains(&format!("pub const WEIGHTS: &str = {written};")), "{server}");
    let template = fs::read_to_string(strange.join("crate/src/chat_template.jinja")).expect("it was written");
    assert_eq!(template, "{# TODO: generated #}{{ messages[0].content }}");
    // What Savile wrote it may write again.
    let again = command::xtask(folder.path(), &arguments, bounds);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains(", 0 changed"), "{}", again.stderr);
}

/// Every file below a folder, by its path in it.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(place) = open.pop() {
        for entry in fs::read_dir(&place).expect("the folder can be listed") {
            let path = entry.expect("the folder can be listed").path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("emitted files are text");
            files.insert(path.strip_prefix(folder).expect("it is inside").display().to_string(), text);
        }
    }
    files
}

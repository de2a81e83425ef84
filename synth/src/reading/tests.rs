//! For every rule, what it finds and what it leaves alone; then the crates that are committed.

use std::{fs, path::Path};

use super::*;

/// Findings in a crate of one file, which gets its `//!` here, so that the given text starts on line 2.
fn read_at(path: &str, text: &str) -> Vec<(usize, &'static str)> {
    read_crate(&[(path, &format!("//! A file.\n{text}"))])
}

fn read(text: &str) -> Vec<(usize, &'static str)> {
    read_at("src/engine.rs", text)
}

fn read_crate(files: &[(&str, &str)]) -> Vec<(usize, &'static str)> {
    let mut tree = SourceTree::new();
    for (path, text) in files {
        tree.insert(*path, *text).unwrap();
    }
    check(&tree).into_iter().map(|finding| (finding.line, finding.rule)).collect()
}

/// One line of text, one rule.
fn finds(rule: &'static str, lines: &[&str]) {
    for line in lines {
        assert_eq!(read(line), [(2, rule)], "{line}");
    }
}

fn passes(lines: &[&str]) {
    for line in lines {
        assert_eq!(read(line), [], "{line}");
    }
}

#[test]
fn a_file_says_what_it_is_for() {
    assert_eq!(
        read_crate(&[("src/a.rs", "fn a() {}\n"), ("src/b.rs", "//!\n"), ("src/c.rs", "//! C.\n")]),
        [(1, "module-doc"), (1, "module-doc")]
    );
    assert_eq!(read_crate(&[("src/a.rs", "// A comment.\nfn a() {}\n")]), [(1, "module-doc")]);
}

#[test]
fn text_that_is_no_rust_is_named() {
    assert_eq!(read("fn (\n"), [(2, "not-rust")]);
    assert_eq!(read("fn a() { let = 1; }\n"), [(2, "not-rust")]);
}

#[test]
fn a_branch_varies() {
    finds(
        "constant-condition",
        &[
            "fn f() { if true {} }",
            "fn f() { if !(USE_DRAFT) {} }",
            "fn f() { if HIDDEN % 8 == 0 {} }",
            "fn f(x: usize) { if x > 1 && shape::N_HEADS as u32 > 1 {} }",
            "fn f(x: usize) { if x > 1 || (false) {} }",
            "fn f() { while true {} }",
            "fn f() { if cfg!(debug_assertions) {} }",
            "fn f(x: usize) { match x { 1 if EXACT => {} _ => {} } }",
            "fn f() { match N_LAYERS { 1 => {} _ => {} } }",
            "fn f() { if let Some(limit) = LIMIT {} }",
            "fn f() { if STOPS.contains(&EOS) {} }",
            "fn f() { if STOPS[0] == (0..N).len() {} }",
            "const A: usize = if B > C { 1 } else { 2 };",
            "fn f() -> Vec<u8> { vec![if N > 1 { 1 } else { 2 }] }",
        ],
    );
    passes(&[
        "fn f(x: usize) { if x > N_HEADS {} }",
        "fn f() { loop {} }",
        "fn f() { if STOPS.contains(&token()) {} }",
        "static STOPPED: AtomicBool = AtomicBool::new(false); fn f() { if STOPPED.get() {} }",
        "thread_local! { static SCRATCH: Cell<u8> = Cell::new(0); } fn f() { if SCRATCH.get() > 1 {} }",
        "fn f<const K: usize>() { if K % 8 != 0 {} }",
        "struct S<const K: usize>; impl<const K: usize> S<K> { fn f(&self) { if K > 1 {} } }",
        "fn f<T: Element>() { if T::BITS == 16 {} }",
        "fn f(x: Option<u8>) { while let Some(1) = x {} }",
        "fn f(x: usize) { match x { A => {} n if n > B => {} _ => {} } }",
    ]);
}

#[test]
fn nothing_is_left_open() {
    finds(
        "cfg-feature",
        &[
            "#[cfg(feature = \"fast\")] fn f() {}",
            "fn f() { let _ = cfg!(feature = \"fast\"); }",
            "#[cfg_attr(all(unix, feature = \"x\"), inline)] fn f() {}",
        ],
    );
    finds(
        "environment",
        &[
            "fn f() { let _ = std::env::var(\"X\"); }",
            "fn f() { let _ = env::var_os(\"X\"); }",
            "use std::env::{args, var};",
            "use std::env::*;",
            "const X: Option<&str> = option_env!(\"X\");",
        ],
    );
    finds(
        "bool-parameter",
        &[
            "fn f(fast: bool) {}",
            "impl S { fn f(&self, fast: &bool) {} }",
            "fn f<F>(a: usize, b: bool) -> bool { b }",
        ],
    );
    finds(
        "type-name",
        &[
            "struct EngineConfig;",
            "enum Options { A }",
            "type BlockManager = u8;",
            "union KernelFactory { a: u8 }",
        ],
    );
    passes(&[
        "#[target_feature(enable = \"avx2\")] fn f() {}",
        "#[cfg(target_arch = \"x86_64\")] fn f() {}",
        "use std::env; fn f() { env::args(); }",
        "fn f() -> bool { let done: bool = g(); done }",
        "impl Visitor for S { fn visit_bool(self, value: bool) {} }",
        "struct Configured; struct Optional;",
    ]);
}

#[test]
fn an_abstraction_has_two_sides() {
    finds("dyn", &["fn f(x: &dyn Fn()) {}", "type E = Box<dyn Error>;", "fn f() { g!(x => dyn Error); }"]);
    finds("lonely-trait", &["trait T {}", "trait T {} impl T for u8 {}"]);
    passes(&["trait T {} impl T for u8 {} impl T for u16 {}", "impl Drop for S { fn drop(&mut self) {} }"]);
    let elsewhere = [
        ("src/a.rs", "//! A.\ntrait T {}\nimpl T for u8 {}\n"),
        ("src/b.rs", "//! B.\nimpl a::T for u16 {}\n"),
    ];
    assert_eq!(read_crate(&elsewhere), []);
}

#[test]
fn a_constant_of_the_shape_has_a_reason() {
    let constants = "pub const A: usize = 1;\n/// Heads\npub const B: usize = 2;\n/// One head reads 64 floats.\npub const C: usize = 3;\n";
    assert_eq!(read_at("src/shape.rs", constants), [(2, "shape-reason"), (4, "shape-reason")]);
    assert_eq!(read_at("src/kv.rs", constants), []);
    assert_eq!(read_at("src/shape.rs", "const _: () = assert!(A < B);"), []);
}

#[test]
fn a_danger_is_argued_for() {
    finds(
        "unsafe-safety",
        &[
            "fn f() { unsafe { g() } }",
            "unsafe impl Send for S {}",
            "unsafe fn f() {}",
            "unsafe extern \"C\" {}",
            "impl S { unsafe fn f() {} }",
            "fn f() { m!(a => unsafe { g() }); }",
            "fn f() { assert_eq!(1, unsafe { g() }); }",
            "fn f() { let text = \"// SAFETY: no comment\"; unsafe { g() } }",
        ],
    );
    assert_eq!(read("// SAFETY: far away.\n\nunsafe impl Send for S {}\n"), [(4, "unsafe-safety")]);
    assert_eq!(read("fn f() {\n    g(); // SAFETY: of g.\n    unsafe { h() }\n}\n"), [(4, "unsafe-safety")]);
    assert_eq!(read("// SAFETY: S owns no pointer.\n#[cfg(unix)]\nunsafe impl Send for S {}\n"), []);
    assert_eq!(
        read("/// Runs.\n///\n/// # Safety\n/// The CPU has AVX2.\n#[inline]\npub unsafe fn f() {}\n"),
        []
    );
    assert_eq!(
        read("fn f() {\n    // SAFETY: the row is ours.\n    let x =\n        g(unsafe { h() });\n}\n"),
        []
    );
    assert_eq!(read("fn f() {\n    /* SAFETY: the row\n       is ours. */\n    unsafe { h() }\n}\n"), []);
}

#[test]
fn nothing_is_unfinished() {
    finds(
        "unfinished",
        &["// TODO: later.", "fn f() { todo!() }", "fn f() { unimplemented!(\"x\") }", "/* FIXME */"],
    );
    assert_eq!(read_crate(&[("Cargo.toml", "# XXX\n")]), [(1, "unfinished")]);
    passes(&["// A todo list is not a promise.", "const XXXL: u8 = 1;"]);
}

#[test]
fn lints_are_obeyed() {
    finds(
        "allow-attribute",
        &[
            "#[allow(dead_code)] fn f() {}",
            "#[cfg_attr(unix, allow(dead_code))] fn f() {}",
            "#[expect(dead_code)] fn f() {}",
            "fn f() { #[allow(unused)] let x = 1; }",
        ],
    );
    assert_eq!(read("#![allow(dead_code)]\n"), [(2, "allow-attribute")]);
    passes(&["#[expect(clippy::too_many_arguments, reason = \"one per tensor\")] fn f() {}"]);
}

#[test]
fn only_the_readme_speaks_of_generation() {
    finds("word-generated", &["// Generated code.", "/// A generated number.\nconst X: u32 = 1;"]);
    assert_eq!(
        read_crate(&[("Cargo.toml", "# generated\n"), ("README.md", "Generated.\n")]),
        [(1, "word-generated")]
    );
    passes(&["let_generated!();", "// The generation of tokens."]);
}

#[test]
fn what_users_and_models_bring_is_not_ours_to_word() {
    passes(&[
        "const NAME: &str = \"generated-text\";",
        "const DIR: &str = \"models/TODO\";",
        "const EOS: &str = r#\"XXX\"#;",
    ]);
    assert_eq!(
        read_crate(&[
            ("Cargo.toml", "name = \"generated\"\nrt = { path = \"/generated/rt\" }\n"),
            ("src/chat_template.jinja", "{# TODO: generated #}\n"),
        ]),
        []
    );
}

#[test]
fn a_panic_cannot_happen() {
    finds(
        "panic",
        &[
            "fn f() { g().unwrap(); }",
            "fn f() { g().expect(\"a block\"); }",
            "fn f() { panic!(\"no block\"); }",
            "fn f() { unreachable!() }",
            "fn f() { write!(s, \"{}\", g().unwrap()); }",
            "fn f() { matches!(g().unwrap(), Some(x) if x); }",
        ],
    );
    passes(&[
        "fn f() { g().unwrap_or(1); g().unwrap_or_else(|_| 2); }",
        "fn f() { g().expect(\"writing to a String cannot fail\"); }",
        "fn f() { unreachable!(\"a sequence always has a block\"); }",
        "fn f() { g().unwrap(); } // The lock is never poisoned.",
        "#[cfg(test)] mod tests { #[test] fn f() { g().unwrap(); println!(); } }",
    ]);
    assert_eq!(
        read("fn f() {\n    // The lock is never poisoned.\n    let x = g()\n        .unwrap();\n}\n"),
        []
    );
}

#[test]
fn only_main_speaks_to_the_terminal() {
    finds("printing", &["fn f() { println!(); }", "fn f() { eprintln!(\"x\"); }"]);
    assert_eq!(read_at("src/main.rs", "fn main() { println!(); }"), []);
    assert_eq!(read_at("src/main.rs", "fn main() { dbg!(1); }"), [(2, "printing")]);
}

#[test]
fn a_comment_is_no_code() {
    finds(
        "commented-out-code",
        &["// let x = 1;", "// self.blocks.push(x);", "// if x > 1 {", "//return x;"],
    );
    passes(&[
        "// Blocks are pushed in order; the last one is free.",
        "// done;",
        "// One row per token: {a, b}",
        "/// let x = 1;\nfn f() {}",
        "// (rows, cols)",
    ]);
}

#[test]
fn every_finding_is_reported_with_its_place_and_cure() {
    let mut tree = SourceTree::new();
    tree.insert("src/main.rs", "fn f(a: bool) {\n    if true {}\n}\n").unwrap();
    let printed: Vec<String> = check(&tree).iter().map(Finding::to_string).collect();
    assert_eq!(
        printed,
        [
            "src/main.rs:1: bool-parameter: a caller's `true` says nothing: write two functions, or an enum with two names",
            "src/main.rs:1: module-doc: this file does not say what it is for: open it with a `//!` sentence",
            "src/main.rs:2: constant-condition: this `if` always goes the same way: emit only the branch that is taken",
        ]
    );
}

#[test]
fn clean_code_passes() {
    let text = r#"
use crate::{kv::BlockPool, sequence::Sequence};

/// Everything one step touches.
pub struct Engine {
    blocks: BlockPool,
}

impl Engine {
    /// Runs one step and returns how many tokens it made.
    pub fn step(&mut self, batch: &mut [Sequence]) -> usize {
        // 1340 of 1800 prompt tokens are shared, so their prefill is paid once.
        self.blocks.lookup(batch);
        let n_rows = batch.len();
        if n_rows > MAX_ROWS {
            return 0;
        }
        // SAFETY: main refuses to start without AVX2, and `batch` is not empty.
        unsafe { forward(batch) }
    }
}
"#;
    assert_eq!(read(text), []);
}

#[test]
fn committed_crates_pass() {
    let generated = Path::new(env!("CARGO_MANIFEST_DIR")).join("../generated");
    let mut findings = Vec::new();
    for entry in fs::read_dir(&generated).into_iter().flatten() {
        let folder = entry.unwrap().path();
        let mut tree = SourceTree::new();
        add_sources(&mut tree, &folder, "src");
        findings.extend(check(&tree).iter().map(|finding| format!("{}/{finding}", folder.display())));
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

fn add_sources(tree: &mut SourceTree, folder: &Path, path: &str) {
    for entry in fs::read_dir(folder.join(path)).into_iter().flatten() {
        let entry = entry.unwrap();
        let path = format!("{path}/{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => add_sources(tree, folder, &path),
            false => tree.insert(&path, fs::read_to_string(folder.join(&path)).unwrap()).unwrap(),
        }
    }
}

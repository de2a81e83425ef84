//! Renders what the macro has checked, so the delimiters of both sides are the same ones.

use serde::Serialize;
use synth_macros::Template;

#[derive(Serialize)]
struct Stage {
    reason: &'static str,
    code: &'static str,
}

#[derive(Template)]
#[template("tests/templates/steps.rs.tera")]
struct Steps<'a> {
    title: &'a str,
    stages: &'a [Stage],
    closing: Option<&'a str>,
}

#[derive(Template)]
#[template("tests/templates/steps.rs.tera")]
struct GenericSteps<T: Serialize> {
    title: T,
    stages: Vec<T>,
    r#closing: bool,
}

#[test]
fn loops_conditions_and_filters_render() {
    let stages =
        [Stage { reason: "First.", code: "a()" }, Stage { reason: "Then \"<&>\".", code: "b(x as Vec<_>)" }];
    let text = Steps { title: "Steps.", stages: &stages, closing: None }.render();
    assert_eq!(
        text.unwrap(),
        "//! Steps.\n\nfn step() {\n    // 1. First.\n    a();\n    // 2. Then \"<&>\".\n    b(x as Vec<_>);\n}\n"
    );
    let text = Steps { title: "Steps.", stages: &[], closing: Some("end") }.render();
    assert_eq!(text.unwrap(), "//! Steps.\n\nfn step() {\n    format!(\"{{}} {x}\", \"END\");\n}\n");
}

#[test]
fn an_error_names_the_line_of_the_template() {
    let error =
        GenericSteps { title: "Steps.", stages: vec!["no fields"], closing: false }.render().unwrap_err();
    assert!(error.to_string().starts_with("tests/templates/steps.rs.tera:6:"), "{error}");
}

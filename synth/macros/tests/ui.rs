//! One pair of files per mistake a user can make: the folder listing is the whole error surface.
//!
//! What compiles is tested where its other half lives: templates in `synth`, weights beside this file.

use std::{fs, io, path::Path};

#[test]
fn mistakes_are_explained() {
    lay_out_templates().expect("the templates of the tests can be copied");
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}

/// trybuild compiles the cases as a package of its own, so the templates have to lie in that package's folder.
fn lay_out_templates() -> io::Result<()> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("..");
    let folder = target.join("tests/trybuild/synth-macros/templates");
    fs::create_dir_all(&folder)?;
    for template in fs::read_dir("tests/ui/templates")? {
        let template = template?;
        fs::copy(template.path(), folder.join(template.file_name()))?;
    }
    Ok(())
}

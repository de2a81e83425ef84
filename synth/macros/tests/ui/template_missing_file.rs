use synth_macros::Template;

#[derive(Template)]
#[template("templates/absent.rs.tera")]
struct Page {
    title: String,
}

fn main() {}

use synth_macros::Template;

// The template also uses `stages`, `depth` and `late`; it never uses `stage` or `comment`.
#[derive(Template)]
#[template("templates/holes.rs.tera")]
struct Page {
    title: String,
    stage: String,
    comment: String,
}

fn main() {}

use synth_macros::Template;

#[derive(Template)]
#[template("templates/broken.rs.tera")]
struct Page {
    title: String,
}

fn main() {}

use synth_macros::Template;

#[derive(Template)]
#[template("templates/unknown_filter.rs.tera")]
struct Page {
    title: String,
}

fn main() {}

use synth_macros::Template;

#[derive(Template)]
#[template("templates/holes.rs.tera")]
enum Page {
    Title(String),
}

#[derive(Template)]
#[template("templates/holes.rs.tera")]
struct Tuple(String);

fn main() {}

use synth_macros::Template;

#[derive(Template)]
struct Unnamed {
    title: String,
}

#[derive(Template)]
#[template(path = "templates/holes.rs.tera")]
struct Keyed {
    title: String,
}

#[derive(Template)]
#[template("templates/holes.rs.tera")]
#[template("templates/holes.rs.tera")]
struct Twice {
    title: String,
}

fn main() {}

use synth_macros::Weights;

struct Panels<T>(T);

#[derive(Weights)]
struct Layer(Vec<f32>);

#[derive(Weights)]
struct Generic<T> {
    /// (ROWS, COLS)
    #[weight("q", rows = ROWS, cols = COLS)]
    q: Panels<T>,
}

#[derive(Weights)]
enum Either {
    Left,
    Right,
}

fn main() {}

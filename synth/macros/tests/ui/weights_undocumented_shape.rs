use synth_macros::Weights;

struct Panels<T>(T);

#[derive(Weights)]
struct Layer {
    #[weight("q.weight", rows = ROWS, cols = COLS)]
    q: Panels<f32>,
    /// (COLS, ROWS)
    #[weight("k.weight", rows = ROWS, cols = 2 * COLS)]
    k: Panels<f32>,
    /// One per column.
    #[weight("norm.weight", len = COLS)]
    norm: Vec<f32>,
}

fn main() {}

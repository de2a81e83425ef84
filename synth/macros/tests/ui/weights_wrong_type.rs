use synth_macros::Weights;

struct Panels<T>(T);

#[derive(Weights)]
struct Layer {
    /// (ROWS, COLS)
    #[weight("q.weight", rows = ROWS, cols = COLS)]
    q: Vec<f32>,
    /// (COLS)
    #[weight("norm.weight", len = COLS)]
    norm: Panels<f32>,
    /// (COLS)
    #[weight("bias", len = COLS)]
    bias: Vec<f64>,
    #[weight(each = 2)]
    layers: [Panels<f32>; 2],
}

fn main() {}

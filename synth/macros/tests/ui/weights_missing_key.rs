use synth_macros::Weights;

struct Panels<T>(T);

#[derive(Weights)]
struct Layer {
    /// (ROWS, COLS)
    #[weight("q.weight", rows = ROWS)]
    q: Panels<f32>,
    #[weight("norm.weight")]
    norm: Vec<f32>,
    /// (COLS)
    #[weight(len = COLS)]
    bias: Vec<f32>,
    #[weight("layers", each = 2)]
    layers: Vec<Layer>,
}

fn main() {}

use synth_macros::Weights;

struct Panels<T>(T);

#[derive(Weights)]
struct Layer {
    /// (ROWS, COLS)
    #[weight("q.weight", row = ROWS, columns = COLS)]
    q: Panels<f32>,
    /// (COLS)
    #[weight(norm.weight, len = COLS)]
    norm: Vec<f32>,
    /// (COLS)
    #[weight("bias", "bias", len = COLS, len = COLS)]
    bias: Vec<f32>,
}

fn main() {}

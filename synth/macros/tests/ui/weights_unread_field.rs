use synth_macros::Weights;

struct Panels<T>(T);

#[derive(Weights)]
struct Layer {
    /// (1)
    #[weight("a", len = 1)]
    #[weight("b", len = 1)]
    norm: Vec<f32>,
    scratch: Vec<f32>,
}

fn main() {}

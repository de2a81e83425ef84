use synth_macros::Weights;

struct Panels<T>(T);

#[derive(Weights)]
struct Layer {
    /// (1)
    #[weight("layers.{}.norm", len = 1)]
    norm: Vec<f32>,
    /// (1)
    #[weight("final_norm", len = 1)]
    final_norm: Vec<f32>,
    #[weight(each = 2)]
    experts: Vec<Layer>,
}

fn main() {}

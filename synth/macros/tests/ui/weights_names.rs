use synth_macros::Weights;

struct Panels<T>(T);

#[derive(Weights)]
struct Layer {
    /// (1)
    #[weight("layers.{}.a.{}", len = 1)]
    two_indices: Vec<f32>,
    /// (1)
    #[weight("layers.{layer}.a", len = 1)]
    named_index: Vec<f32>,
    /// (1)
    #[weight("", len = 1)]
    empty: Vec<f32>,
    /// (1)
    #[weight("a", len = 1)]
    first: Vec<f32>,
    /// (1)
    #[weight("a", len = 1)]
    again: Vec<f32>,
}

fn main() {}

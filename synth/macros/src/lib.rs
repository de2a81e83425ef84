//! Proc macros that check that two artefacts agree. They check, they never decide.
//!
//! [`Template`] holds a template against the struct that fills it, [`Weights`] holds a struct of weights
//! against the names and shapes it is read by. Both report every disagreement at once, each at the line that
//! is wrong, and both write only what a reader would skip: the code between the two artefacts.

mod problems;
mod template;
mod weights;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Checks a template against the struct that fills it, and writes `render`.
///
/// ```text
/// #[derive(Template)]
/// #[template("skeleton/engine.rs.tera")]
/// struct Engine<'a> {
///     stages: &'a [Stage],
/// }
///
/// let text: Result<String, synth::template::TemplateError> = Engine { stages: &stages }.render();
/// ```
///
/// The path is relative to the folder of the crate's `Cargo.toml`. Values stand in `@{ stage.code }@`, blocks
/// in `@% for stage in stages %@`, comments in `@# … #@`. Every name that the template uses needs a field and
/// every field a use; Tera itself says which names those are, so loop variables, `loop` and `set` are known.
/// Field types implement `serde::Serialize`.
#[proc_macro_derive(Template, attributes(template))]
pub fn template(input: TokenStream) -> TokenStream {
    expand(template::expand, parse_macro_input!(input as DeriveInput))
}

/// Checks a struct of weights against its own description, and writes `load`.
///
/// ```text
/// #[derive(Weights)]
/// pub struct Layer {
///     /// (Q_ROWS, HIDDEN)
///     #[weight("model.layers.{}.self_attn.q_proj.weight", rows = Q_ROWS, cols = HIDDEN)]
///     pub q: Panels<bf16>,
///     /// (HIDDEN)
///     #[weight("model.layers.{}.input_layernorm.weight", len = HIDDEN)]
///     pub attention_norm: Vec<f32>,
/// }
///
/// #[derive(Weights)]
/// pub struct Model {
///     #[weight(each = N_LAYERS)]
///     pub layers: Vec<Layer>,
/// }
/// ```
///
/// A matrix states `rows` and `cols`, a vector of `f32` states `len`, and both repeat their shape in the doc
/// comment, where the reader looks for it. `{}` stands for the index of the layer: with it in every name, `load` takes
/// that index; with it in none, `load` takes the image alone. `each` loads one struct per index.
#[proc_macro_derive(Weights, attributes(weight))]
pub fn weights(input: TokenStream) -> TokenStream {
    expand(weights::expand, parse_macro_input!(input as DeriveInput))
}

fn expand(
    derive: fn(&DeriveInput) -> syn::Result<proc_macro2::TokenStream>,
    input: DeriveInput,
) -> TokenStream {
    derive(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

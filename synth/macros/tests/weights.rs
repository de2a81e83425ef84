//! Reads a struct of layers from an image that records what it was asked for.

extern crate self as rt;

use std::{cell::RefCell, marker::PhantomData};

use image::{Image, Panels, Rows};
use synth_macros::Weights;

mod image {
    //! As much of `rt::image` as the macro names.
    use super::*;

    #[derive(Default)]
    pub struct Image(pub RefCell<Vec<String>>);

    #[derive(Debug)]
    pub struct ImageError;

    pub struct Panels<T>(pub (usize, usize), PhantomData<T>);

    pub struct Rows<T>(pub (usize, usize), PhantomData<T>);

    impl Image {
        pub fn panels<T>(&self, name: &str, rows: usize, cols: usize) -> Result<Panels<T>, ImageError> {
            self.0.borrow_mut().push(format!("{name} in panels ({rows}, {cols})"));
            Ok(Panels((rows, cols), PhantomData))
        }

        pub fn rows<T>(&self, name: &str, rows: usize, cols: usize) -> Result<Rows<T>, ImageError> {
            self.0.borrow_mut().push(format!("{name} in rows ({rows}, {cols})"));
            Ok(Rows((rows, cols), PhantomData))
        }

        pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ImageError> {
            self.0.borrow_mut().push(format!("{name} ({len})"));
            if name == "absent" { Err(ImageError) } else { Ok(vec![0.0; len]) }
        }
    }
}

const HIDDEN: usize = 4;
const N_HEADS: usize = 3;
const HEAD_DIM: usize = 2;

#[derive(Weights)]
struct Layer {
    /// The query projection, (N_HEADS * HEAD_DIM, HIDDEN).
    #[weight("layers.{}.q_proj.weight", rows = N_HEADS * HEAD_DIM, cols = HIDDEN)]
    pub q: Panels<u16>,
    /// (HIDDEN)
    #[weight("layers.{}.norm.weight", len = HIDDEN)]
    pub norm: Vec<f32>,
}

#[derive(Weights)]
struct Model {
    #[weight(each = 2)]
    pub layers: Vec<Layer>,
    /// (8, HIDDEN)
    #[weight("embed.weight", rows = 8, cols = HIDDEN)]
    pub embed: Rows<f32>,
}

#[derive(Weights)]
struct Incomplete {
    /// (1)
    #[weight("absent", len = 1)]
    pub absent: Vec<f32>,
}

#[test]
fn every_weight_is_asked_for_by_its_name_and_shape() {
    let image = Image::default();
    let model = Model::load(&image).unwrap();
    assert_eq!(model.layers.len(), 2);
    assert_eq!(model.layers[1].norm, [0.0; HIDDEN]);
    assert_eq!((model.layers[0].q.0, model.embed.0), ((6, 4), (8, 4)));
    let asked = [
        "layers.0.q_proj.weight in panels (6, 4)",
        "layers.0.norm.weight (4)",
        "layers.1.q_proj.weight in panels (6, 4)",
        "layers.1.norm.weight (4)",
        "embed.weight in rows (8, 4)",
    ];
    assert_eq!(image.0.into_inner(), asked);
}

#[test]
fn the_first_error_of_the_image_is_handed_on() {
    let absent = Incomplete::load(&Image::default()).map(|weights| weights.absent);
    assert!(absent.is_err());
}

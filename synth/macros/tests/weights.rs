//! Reads a struct of layers from a checkpoint that records what it was asked for.

extern crate self as rt;

use std::{cell::RefCell, marker::PhantomData};

use checkpoint::{Checkpoint, Matrix};
use synth_macros::Weights;

mod checkpoint {
    //! As much of `rt::checkpoint` as the macro names.
    use super::*;

    #[derive(Default)]
    pub struct Checkpoint(pub RefCell<Vec<String>>);

    #[derive(Debug)]
    pub struct CheckpointError;

    pub struct Matrix<T>(pub (usize, usize), PhantomData<T>);

    impl Checkpoint {
        pub fn matrix<T>(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix<T>, CheckpointError> {
            self.0.borrow_mut().push(format!("{name} ({rows}, {cols})"));
            Ok(Matrix((rows, cols), PhantomData))
        }

        pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
            self.0.borrow_mut().push(format!("{name} ({len})"));
            if name == "absent" { Err(CheckpointError) } else { Ok(vec![0.0; len]) }
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
    pub q: Matrix<u16>,
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
    pub embed: Matrix<f32>,
}

#[derive(Weights)]
struct Incomplete {
    /// (1)
    #[weight("absent", len = 1)]
    pub absent: Vec<f32>,
}

#[test]
fn every_weight_is_asked_for_by_its_name_and_shape() {
    let checkpoint = Checkpoint::default();
    let model = Model::load(&checkpoint).unwrap();
    assert_eq!(model.layers.len(), 2);
    assert_eq!(model.layers[1].norm, [0.0; HIDDEN]);
    assert_eq!((model.layers[0].q.0, model.embed.0), ((6, 4), (8, 4)));
    let asked = [
        "layers.0.q_proj.weight (6, 4)",
        "layers.0.norm.weight (4)",
        "layers.1.q_proj.weight (6, 4)",
        "layers.1.norm.weight (4)",
        "embed.weight (8, 4)",
    ];
    assert_eq!(checkpoint.0.into_inner(), asked);
}

#[test]
fn the_first_error_of_the_checkpoint_is_handed_on() {
    let absent = Incomplete::load(&Checkpoint::default()).map(|weights| weights.absent);
    assert!(absent.is_err());
}

//! Images of a fixture: made, found again, and never trusted when stale.

use std::path::PathBuf;

use synth::image::Source;

use super::*;

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("savile-lay-out-{name}-{}", std::process::id())))
    }

    fn image(&self) -> PathBuf {
        self.0.join("images/x.weights")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// What else the images here hold.
const FILE: &[u8] = b"a file";
const FILES: Files<'static> = &[("file", FILE)];

fn model() -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/quickstart");
    Model::read(&folder).expect("the fixture is sound")
}

fn recipe(model: &Model, layout: Layout) -> Recipe {
    let dims = &model.dims;
    let halves = ["gate", "up"]
        .map(|it| Source { name: format!("model.layers.0.mlp.{it}_proj.weight"), rows: dims.intermediate });
    Recipe {
        tensors: vec![
            Tensor::matrix("embed", "model.embed_tokens.weight", (dims.vocab, dims.hidden), layout),
            Tensor {
                name: "gate_up".into(),
                sources: halves.into(),
                join: synth::image::Join::Halves,
                cols: dims.hidden,
                layout,
            },
            Tensor::vector("norm", "model.norm.weight", dims.hidden),
        ],
    }
}

/// Element (row, k) of a tensor of an image, as the layout's own words say where it is.
fn element(bytes: &[u8], n_cols: usize, (row, k): (usize, usize)) -> f32 {
    let tiles_of_panel = 2 * n_cols.div_ceil(32);
    let tile = row / 32 * tiles_of_panel + k / 32 * 2 + row % 32 / 16;
    let at = tile * 1024 + k % 32 / 2 * 64 + row % 16 * 4 + k % 2 * 2;
    bf16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

#[test]
fn every_weight_is_where_the_layout_says() {
    let (folder, model) = (Folder::new("place"), model());
    let recipe = recipe(&model, Layout::Bf16Panels);
    assert_eq!(ensure(&model, &recipe, FILES, &folder.image(), &|_, _| ()).expect("made"), Image::Made);
    let bytes = fs::read(folder.image()).expect("it is there");
    let checkpoint = Checkpoint::open(&model).expect("the fixture is sound");
    for (tensor, name) in recipe.tensors[..2].iter().zip(["embed", "gate_up"]) {
        let begin = begin(&folder.image(), name).expect("it has the tensor") as usize;
        assert!(begin.is_multiple_of(ALIGNMENT));
        let sources = checkpoint.sources(tensor).expect("the checkpoint has them");
        for row in 0..tensor.rows() {
            let Some((source, inner)) = tensor.origin(row) else { continue };
            let (file, fact) = sources[source];
            let values =
                load(file, fact, inner * tensor.cols..(inner + 1) * tensor.cols).expect("it can be read");
            for (k, value) in values.iter().enumerate() {
                assert_eq!(element(&bytes[begin..], tensor.cols, (row, k)), *value, "{name} ({row}, {k})");
            }
        }
    }
    let file = begin(&folder.image(), "file").expect("it has the file") as usize;
    assert_eq!(bytes[file..], *FILE);
}

#[test]
fn a_stale_image_is_made_anew_and_a_sound_one_is_left_alone() {
    let (folder, model) = (Folder::new("stale"), model());
    let path = folder.image();
    let ensure_with = |layout, files| {
        ensure(&model, &recipe(&model, layout), files, &path, &|_, _| ()).expect("it can be made")
    };
    let ensure = |layout| ensure_with(layout, FILES);
    assert_eq!(ensure(Layout::Bf16Panels), Image::Made);
    let first = fs::read(&path).expect("it is there");
    assert_eq!(ensure(Layout::Bf16Panels), Image::Stands);
    assert_eq!(ensure_with(Layout::Bf16Panels, &[("file", b"another")]), Image::Made);
    assert_eq!(ensure(Layout::Bf16Panels), Image::Made);
    assert!(is_whole(&path));
    for at in [3, 40, first.len() / 2, first.len() - 1] {
        let mut broken = first.clone();
        broken[at] ^= 1;
        fs::write(&path, broken).expect("it can be written");
        assert!(!is_whole(&path) || at == 40, "a flipped bit at {at} shows");
        assert_eq!(ensure(Layout::Bf16Panels), Image::Made, "byte {at}");
        assert_eq!(fs::read(&path).expect("it is there"), first);
    }
    fs::write(&path, &first[..first.len() - 1]).expect("it can be written");
    assert_eq!(ensure(Layout::Bf16Panels), Image::Made, "a byte is missing");
    assert_eq!(ensure(Layout::F32Panels), Image::Made, "another layout");
    assert_ne!(fs::read(&path).expect("it is there"), first);
}

#[test]
fn a_tensor_that_is_not_there_is_named() {
    let (folder, model) = (Folder::new("missing"), model());
    let recipe = Recipe { tensors: vec![Tensor::vector("x", "model.no.such", 4)] };
    let error =
        ensure(&model, &recipe, FILES, &folder.image(), &|_, _| ()).expect_err("there is none").to_string();
    assert!(error.contains("model.no.such"), "{error}");
    assert!(!folder.image().exists(), "half an image is none");
}

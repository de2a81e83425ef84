//! Images as they should be, and as they should be refused.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;

const EXPECTED: Expected = Expected { weights: "w", recipe: "r" };

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("savile-image-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder can be made");
        Self(path)
    }

    fn open(&self, bytes: &[u8]) -> Result<Image, String> {
        let path = self.0.join("x.weights");
        fs::write(&path, bytes).expect("a file can be written");
        Image::open(&path, EXPECTED).map_err(|error| error.to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// An image with this header, then `content`.
fn image(header: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = [&MAGIC, (header.len() as u64).to_le_bytes().as_slice(), header.as_bytes()].concat();
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes.extend_from_slice(content);
    bytes
}

fn header(entries: &str) -> String {
    format!(r#"{{"weights":"w","recipe":"r","content":"","entries":[{entries}]}}"#)
}

fn entry(name: &str, layout: &str, (rows, cols): (usize, usize), offset: u64, len: u64) -> String {
    format!(
        r#"{{"name":"{name}","layout":{layout},"rows":{rows},"cols":{cols},"offset":{offset},"len":{len}}}"#
    )
}

/// 33 columns of 5 k: two panels of one step, cell (column, k) counted up.
fn panels_of_f32() -> Vec<u8> {
    let mut tiles = vec![0.0f32; 2 * 2 * 256];
    for column in 0..33 {
        for k in 0..5 {
            let tile = column / 32 * 2 + column % 32 / 16;
            tiles[tile * 256 + k * 16 + column % 16] = (column * 5 + k) as f32;
        }
    }
    tiles.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn rows_of_a_matrix_come_back_from_its_panels() {
    let folder = Folder::new("panels");
    let tiles = panels_of_f32();
    let text = header(&entry("w", r#""f32_panels""#, (33, 5), 0, tiles.len() as u64));
    let image = folder.open(&image(&text, &tiles)).expect("a whole image");
    image.populate(3);
    let w = image.panels::<f32>("w", 33, 5).expect("it is there");
    assert_eq!((w.rows(), w.count(), w.tiles(1..2).len()), (33, 2, 512));
    for column in 0..33 {
        let row: Vec<f32> = w.row(column).flatten().copied().collect();
        assert_eq!(row, (0..5).map(|k| (column * 5 + k) as f32).collect::<Vec<_>>());
    }
}

#[test]
fn rows_vectors_and_files_are_what_was_written() {
    let folder = Folder::new("rows");
    let content: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let entries = [
        entry("rows", r#""f32_rows""#, (2, 3), 0, 24),
        entry("vector", r#""f32_plain""#, (1, 6), 0, 24),
        entry("file", "null", (1, 4), 4, 4),
    ];
    let image = folder.open(&image(&header(&entries.join(",")), &content)).expect("a whole image");
    assert_eq!(
        image.rows::<f32>("rows", 2, 3).map(|rows| rows.row(1).to_vec()).ok(),
        Some(vec![3.0, 4.0, 5.0])
    );
    assert_eq!(image.vector("vector", 6).ok(), Some(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    let file = image.file("file").map(|(map, bytes)| map[bytes].to_vec());
    assert_eq!(file.ok(), Some(1.0f32.to_le_bytes().to_vec()));
    for refused in [
        image.rows::<f32>("rows", 3, 2).map(drop),
        image.rows::<bf16>("rows", 2, 3).map(drop),
        image.panels::<f32>("rows", 2, 3).map(drop),
        image.vector("vector", 5).map(drop),
        image.vector("none", 5).map(drop),
        image.file("vector").map(drop),
    ] {
        let error = refused.expect_err("another tensor was asked for").to_string();
        assert!(error.contains("expected") && error.contains("found"), "{error}");
    }
}

#[test]
fn what_is_no_image_is_refused_with_its_place_and_cure() {
    let folder = Folder::new("hostile");
    let tiles = panels_of_f32();
    let sound = |entries: &str| image(&header(entries), &tiles);
    let whole = sound(&entry("w", r#""f32_panels""#, (33, 5), 0, tiles.len() as u64));
    let mut other = whole.clone();
    other[7] = 9;
    let mut endless = whole.clone();
    endless[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("a few bytes", MAGIC[..5].to_vec()),
        ("another version", other),
        ("a header without end", endless),
        ("half a header", whole[..20].to_vec()),
        ("no JSON", image("{]", &tiles)),
        ("another object", image("{}", &tiles)),
        ("half the tiles", whole[..whole.len() - 100].to_vec()),
        ("a tensor past the end", sound(&entry("w", r#""f32_panels""#, (33, 5), 1 << 40, 4))),
        ("an offset past all numbers", sound(&entry("w", r#""f32_panels""#, (33, 5), u64::MAX, u64::MAX))),
    ];
    for (what, bytes) in cases {
        let error = folder.open(&bytes).err().unwrap_or_else(|| panic!("{what} is taken for an image"));
        assert!(error.contains("x.weights"), "{what}: {error}");
        assert!(error.contains("cargo xtask synth"), "{what}: {error}");
    }
    for (from, to) in [(r#""weights":"w""#, r#""weights":"v""#), (r#""recipe":"r""#, r#""recipe":"s""#)] {
        let text = header(&entry("w", r#""f32_panels""#, (33, 5), 0, tiles.len() as u64)).replace(from, to);
        let error = folder.open(&image(&text, &tiles)).err().expect("another image is refused");
        assert!(error.contains("this binary was built for"), "{error}");
    }
    let error = Image::open(Path::new("/nowhere/x.weights"), EXPECTED).err().expect("no file").to_string();
    assert!(error.contains("/nowhere/x.weights"), "{error}");
}

//! Written folders read back by a reader of their own, against a plain computation from the folder they were made of.

use super::*;

fn fixture(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name);
    Model::read(&folder).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A tensor of a safetensors file: kind, shape, bytes.
fn read(folder: &Path, name: &str) -> Option<(String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(folder.join("model.safetensors")).expect("the file");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let tensor = header.get(name)?;
    let offset = |idx: usize| 8 + length + tensor["data_offsets"][idx].as_u64().expect("an offset") as usize;
    let shape = serde_json::from_value(tensor["shape"].clone()).expect("a shape");
    Some((tensor["dtype"].as_str().expect("a kind").to_owned(), shape, bytes[offset(0)..offset(1)].to_vec()))
}

fn stored(model: &Model, name: &str) -> (Vec<usize>, Vec<f32>) {
    let (shard, fact) = facts(model).find(|(_, fact)| fact.name == name).expect("the tensor");
    let file = File::open(model.folder.join(shard)).expect("the shard");
    (fact.shape.clone(), load(&file, fact, 0..fact.shape.iter().product()).expect("its elements"))
}

fn written(model: &Model, scheme: Scheme, test: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("savile-{}-ct-{test}", std::process::id()));
    drop(fs::remove_dir_all(&folder));
    let last = std::cell::Cell::new((0, 0));
    write(model, scheme, &folder, &|done, all| last.set((done, all))).expect("a folder");
    assert_eq!(last.get().0, last.get().1, "progress ends at the total");
    folder
}

const NAME: &str = "model.layers.1.mlp.down_proj.weight";

#[test]
fn eight_bits_times_their_channels_scale_are_the_weights_to_half_a_step() {
    let model = fixture("quickstart");
    let folder = written(&model, Scheme::Int8, "int8");
    let (shape, weights) = stored(&model, NAME);
    let (kind, sizes, numbers) = read(&folder, NAME).expect("numbers");
    assert_eq!((kind.as_str(), &sizes), ("I8", &shape));
    let (kind, sizes, scales) = read(&folder, &format!("{NAME}_scale")).expect("scales");
    assert_eq!((kind.as_str(), sizes), ("F32", vec![shape[0], 1]));
    for (row, (weights, numbers)) in weights.chunks(shape[1]).zip(numbers.chunks(shape[1])).enumerate() {
        let scale = f32::from_le_bytes(scales[row * 4..][..4].try_into().expect("4 bytes"));
        let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        assert!((scale - largest / 127.5).abs() <= largest * 1e-6);
        for (weight, number) in weights.iter().zip(numbers) {
            let back = f32::from(*number as i8) * scale;
            assert!((weight - back).abs() <= scale * 0.5001, "{weight} came back as {back}");
        }
    }
}

#[test]
fn four_bits_unpack_to_the_weights_of_their_group_to_half_a_step() {
    let model = fixture("quickstart");
    let scheme = Scheme::int4(&model).expect("a group that divides");
    let Scheme::Int4 { group } = scheme else { panic!("{scheme:?}") };
    let folder = written(&model, scheme, "int4");
    let (shape, weights) = stored(&model, NAME);
    let (kind, sizes, words) = read(&folder, &format!("{NAME}_packed")).expect("numbers");
    assert_eq!((kind.as_str(), sizes), ("I32", vec![shape[0], shape[1] / 8]));
    let (kind, sizes, scales) = read(&folder, &format!("{NAME}_scale")).expect("scales");
    assert_eq!((kind.as_str(), sizes), ("BF16", vec![shape[0], shape[1] / group]));
    let (_, _, sizes) = read(&folder, &format!("{NAME}_shape")).expect("a shape");
    assert_eq!(sizes, [shape[0] as u64, shape[1] as u64].map(u64::to_le_bytes).concat());
    for (idx, weight) in weights.iter().enumerate() {
        let word = u32::from_le_bytes(words[idx / 8 * 4..][..4].try_into().expect("4 bytes"));
        let number = (word >> (idx % 8 * 4) & 15) as i32 - 8;
        let scale = bf16::from_le_bytes(scales[idx / group * 2..][..2].try_into().expect("2 bytes")).to_f32();
        // A scale rounded to bf16 may lie an eighth of a per cent under what the largest weight needs.
        let bound = scale * 0.5 + weight.abs() * 0.005;
        assert!((weight - number as f32 * scale).abs() <= bound, "{weight} came back as {number} × {scale}");
    }
}

#[test]
fn both_ends_of_the_range_are_used_and_nothing_is_beyond_them() {
    let (scale, numbers) = round(&[7.5, -7.5, 0.0, 3.75], 4, |scale| scale);
    assert!((scale - 1.0).abs() < 1e-7);
    assert_eq!(numbers, [7, -8, 0, 4], "7.5 would be 8, and is clamped");
    assert_eq!(round(&[0.0; 3], 8, |scale| scale), (0.0, vec![0; 3]), "a row of nothing has no scale");
}

#[test]
fn the_first_of_eight_is_in_the_lowest_bits() {
    let word = pack(&[-8, -7, 0, 1, 2, 3, 6, 7]);
    assert_eq!(u32::from_le_bytes(word.try_into().expect("a word")), 0xFEBA_9810);
}

#[test]
fn what_is_not_rounded_is_there_bit_by_bit_and_the_config_says_what_is() {
    let model = fixture("quickstart");
    let folder = written(&model, Scheme::Int8, "rest");
    for name in ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "model.norm.weight"] {
        let (shard, fact) = facts(&model).find(|(_, fact)| fact.name == name).expect("the tensor");
        let bytes = fs::read(model.folder.join(shard)).expect("the shard");
        let (_, shape, copied) = read(&folder, name).expect("a copy");
        assert_eq!(copied, bytes[fact.begin as usize..fact.end as usize], "{name}");
        assert_eq!(shape, fact.shape);
        assert_eq!(read(&folder, &format!("{name}_scale")), None);
    }
    let config: Value =
        serde_json::from_slice(&fs::read(folder.join("config.json")).expect("a config")).expect("JSON");
    let said = &config["quantization_config"];
    assert_eq!(said["quant_method"], "compressed-tensors");
    assert_eq!(said["config_groups"]["group_0"]["weights"]["strategy"], "channel");
    assert_eq!(said["config_groups"]["group_0"]["input_activations"]["dynamic"], true);
    assert_eq!(config["hidden_size"], model.dims.hidden, "the rest is the folder's own");
    assert!(folder.join("tokenizer.json").is_file());
}

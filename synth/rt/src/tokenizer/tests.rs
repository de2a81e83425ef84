use std::time::{Duration, Instant};

use super::*;
use crate::chat::{ChatTemplate, Message};

const VARIANTS: [&str; 5] = ["llama", "llama_tied", "mistral", "qwen2", "qwen3"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn open(variant: &str) -> Tokenizer {
    Tokenizer::open(fixtures().join("models").join(variant).join("tokenizer.json")).expect("well-formed")
}

fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).expect("fixture")).expect("JSON")
}

fn golden(variant: &str) -> Value {
    read_json(fixtures().join("goldens").join(format!("{variant}.json")))
}

fn ids_of(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("id") as u32).collect()
}

/// A tokenizer written to a file of its own, and read back.
fn made(name: &str, json: &Value) -> Result<Tokenizer, TokenizerError> {
    let path = std::env::temp_dir().join(format!("rt-tokenizer-{}-{name}.json", std::process::id()));
    fs::write(&path, json.to_string()).expect("temporary file");
    let opened = Tokenizer::open(&path);
    let _ = fs::remove_file(path);
    opened
}

/// A SentencePiece-style tokenizer: `▁` for space, all bytes, and a few words.
fn sentencepiece() -> Tokenizer {
    made("sentencepiece", &sentencepiece_json()).expect("well-formed")
}

fn sentencepiece_json() -> Value {
    let mut words: Vec<String> = vec!["<unk>".into(), "<s>".into(), "</s>".into()];
    words.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    words.extend(["▁", "a", "b", "▁a", "▁ab", "é"].map(String::from));
    let vocab: serde_json::Map<String, Value> =
        words.iter().cloned().zip((0..).map(|id: u32| id.into())).collect();
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": ["▁ a", "▁a b"]}
    })
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A text of words, signs, special tokens and characters that no vocabulary has.
fn some_text(state: &mut u64) -> String {
    const PARTS: [&str; 24] = [
        "the",
        " and",
        "ing",
        " ",
        "  ",
        "\n",
        "a",
        "b",
        "ab",
        "tokeniser",
        " 1234",
        "é",
        "e\u{301}",
        "世界",
        "🙂",
        "\u{0}",
        "'s",
        "—",
        "<|im_end|>",
        "</s>",
        "<unk>",
        "▁",
        "\t",
        "Ünïcödé",
    ];
    let n = random(state) % 30;
    let part = |state: &mut u64| match random(state) % 8 {
        0 => char::from_u32(random(state) as u32 % 0x3000).unwrap_or('x').to_string(),
        _ => PARTS[random(state) as usize % PARTS.len()].to_owned(),
    };
    (0..n).map(|_| part(state)).collect()
}

/// The library's own tokens for a text.
fn theirs(hub: &tokenizers::Tokenizer, text: &str, add_special: bool) -> Vec<u32> {
    hub.encode_fast(text, add_special).expect("encodes").get_ids().to_vec()
}

#[test]
fn any_text_becomes_the_librarys_tokens() {
    let mut state = 1;
    for variant in VARIANTS {
        let path = fixtures().join("models").join(variant).join("tokenizer.json");
        let mut hub = tokenizers::Tokenizer::from_file(&path).expect("well-formed");
        hub.with_padding(None).with_truncation(None).expect("it can be unset");
        let tokenizer = Tokenizer::open(&path).expect("well-formed");
        assert_eq!(tokenizer.n_ids(), hub.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1));
        for id in 0..tokenizer.n_ids() as u32 + 2 {
            assert_eq!(tokenizer.0.hub.id_to_token(id), hub.id_to_token(id), "{variant}: {id}");
        }
        for _ in 0..400 {
            let (text, add_special) = (some_text(&mut state), random(&mut state).is_multiple_of(2));
            let ids = tokenizer.encode(&text, add_special).expect("encodes");
            assert_eq!(ids, theirs(&hub, &text, add_special), "{variant}: {text:?}");
        }
    }
}

#[test]
fn every_rule_for_what_is_unknown_is_the_librarys() {
    let mut state = 2;
    for (unknown, fuse, fallback, ignore) in [
        ("\"<unk>\"", true, true, false),
        ("\"<unk>\"", true, false, false),
        ("\"<unk>\"", false, false, true),
        ("null", false, false, false),
        ("null", false, true, true),
    ] {
        let mut json = sentencepiece_json();
        json["model"]["unk_token"] = serde_json::from_str(unknown).expect("JSON");
        json["model"]["fuse_unk"] = fuse.into();
        json["model"]["byte_fallback"] = fallback.into();
        json["model"]["ignore_merges"] = ignore.into();
        // Some bytes have no token, so that falling back to them fails for some characters.
        if fallback {
            json["model"]["vocab"].as_object_mut().expect("a map").remove("<0xB8>");
        }
        let hub = tokenizers::Tokenizer::from_bytes(json.to_string()).expect("well-formed");
        let tokenizer = made("rules", &json).expect("well-formed");
        for _ in 0..400 {
            let text = some_text(&mut state);
            let ids = tokenizer.encode(&text, false).expect("encodes");
            assert_eq!(ids, theirs(&hub, &text, false), "{unknown} {fuse} {fallback} {ignore}: {text:?}");
        }
    }
}

#[test]
fn what_tables_cannot_hold_is_refused_by_name() {
    for (key, value) in [("dropout", serde_json::json!(0.1)), ("end_of_word_suffix", "</w>".into())] {
        let mut json = sentencepiece_json();
        json["model"][key] = value;
        if key == "end_of_word_suffix" {
            json["model"]["merges"] = serde_json::json!([]);
        }
        let error = made(key, &json).err().expect("refused").to_string();
        assert!(error.contains(&format!("model.{key}")), "{error}");
    }
}

#[test]
fn broken_tables_are_refused_or_answer_without_a_panic() {
    let packed = pack(fixtures().join("models/llama/tokenizer.json")).expect("well-formed");
    let again = pack(fixtures().join("models/llama/tokenizer.json")).expect("well-formed");
    assert!(packed == again, "the same tables each time");
    for len in [0, 3, 24, packed.len() / 2, packed.len() - 1] {
        assert!(Tables::of_bytes(&packed[..len]).is_none(), "{len} bytes are no whole tables");
    }
    for step in 0..300 {
        let mut broken = packed.clone();
        let at = step * packed.len() / 300;
        broken[at] ^= 1 << (step % 8);
        if let Some(Ok(tokenizer)) = Tables::of_bytes(&broken).map(Tokenizer::of_tables) {
            let ids = tokenizer.encode("some text, and more of it", true).unwrap_or_default();
            tokenizer.decode(&ids);
        }
    }
}

#[test]
fn encodes_and_decodes_as_the_goldens() {
    for variant in VARIANTS {
        let tokenizer = open(variant);
        for row in golden(variant)["texts"].as_array().expect("rows") {
            let text = row["text"].as_str().expect("text");
            let add_special = row["add_special_tokens"].as_bool().expect("flag");
            let ids = tokenizer.encode(text, add_special).expect("encodes");
            assert_eq!(ids, ids_of(&row["ids"]), "{variant}: {text:?}");
            assert_eq!(tokenizer.decode(&ids), row["decoded"].as_str().expect("text"), "{variant}: {text:?}");
        }
    }
}

#[test]
fn chat_prompts_are_those_of_the_goldens() {
    for variant in VARIANTS {
        let tokenizer = open(variant);
        let folder = fixtures().join("models").join(variant);
        let config = read_json(folder.join("tokenizer_config.json"));
        let source = match fs::read_to_string(folder.join("chat_template.jinja")) {
            Ok(source) => source,
            Err(_) => config["chat_template"].as_str().unwrap_or_default().to_owned(),
        };
        let token = |key: &str| {
            let token = config[key]["content"].as_str().or(config[key].as_str()).unwrap_or_default();
            &*token.to_owned().leak()
        };
        let template =
            ChatTemplate::new(source.leak(), token("bos_token"), token("eos_token")).expect("compiles");
        for row in golden(variant)["chats"].as_array().expect("rows") {
            let messages: Vec<Message> =
                row["messages"].as_array().expect("messages").iter().map(to_message).collect();
            let add_generation_prompt = row["add_generation_prompt"].as_bool().expect("flag");
            let text = template.render(&messages, add_generation_prompt).expect("renders");
            assert_eq!(text, row["text"].as_str().expect("text"), "{variant}");
            assert_eq!(
                tokenizer.encode(&text, false).expect("encodes"),
                ids_of(&row["ids"]),
                "{variant}: {text:?}"
            );
        }
    }
}

fn to_message(message: &Value) -> Message {
    let role = match message["role"].as_str().expect("role") {
        "system" => "system",
        "user" => "user",
        "assistant" => "assistant",
        other => panic!("the goldens hold no role {other}"),
    };
    Message { role, content: message["content"].as_str().expect("content").to_owned(), name: None }
}

#[test]
fn decoding_equals_the_librarys_for_any_ids() {
    let mut state = 7_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    for variant in VARIANTS {
        let tokenizer = open(variant);
        let path = fixtures().join("models").join(variant).join("tokenizer.json");
        let hub = tokenizers::Tokenizer::from_file(path).expect("well-formed");
        let n_ids = tokenizer.n_ids() as u32 + 2;
        for _ in 0..300 {
            let ids: Vec<u32> = (0..random() % 24).map(|_| random() % n_ids).collect();
            let theirs = hub.decode(&ids, true).expect("decodes");
            assert_eq!(tokenizer.decode(&ids), theirs, "{variant}: {ids:?}");
            let spelled = hub.decode(&ids, false).expect("decodes");
            assert_eq!(tokenizer.decode_with_special(&ids), spelled, "{variant}: {ids:?}");
            stream_adds_up(&tokenizer, &ids);
        }
    }
}

/// The pieces of a stream add up to the whole, and no piece but the last was cut inside a character.
fn stream_adds_up(tokenizer: &Tokenizer, ids: &[u32]) {
    let whole: Vec<u8> =
        ids.iter().filter(|&&id| !is_special(tokenizer, id)).flat_map(|&id| tokenizer.piece(id)).collect();
    let mut stream = tokenizer.stream();
    let mut text = String::new();
    for &id in ids {
        text += &stream.push(id);
        // Everything is out but at most three bytes: no character waits for longer than it must.
        assert!(stream.pending.len() <= 3);
    }
    text += &stream.finish();
    assert_eq!(text, tokenizer.decode(ids));
    assert_eq!(text.trim_start_matches(' '), String::from_utf8_lossy(&whole).trim_start_matches(' '));
}

fn is_special(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.special(id).is_some()
}

#[test]
fn sentencepiece_spaces_and_bytes() {
    let tokenizer = sentencepiece();
    for text in ["a ab", "ab é 世 a", " a", "🙂"] {
        let ids = tokenizer.encode(text, false).expect("encodes");
        assert_eq!(tokenizer.decode(&ids), text);
        assert_eq!(tokenizer.0.hub.decode(&ids, true).expect("decodes"), text);
        stream_adds_up(&tokenizer, &ids);
        let mut continued = tokenizer.continuation();
        let text_after: String = ids.iter().map(|&id| continued.push(id)).collect();
        assert_eq!(text_after, format!(" {text}"), "a continuation keeps its leading space");
    }
}

#[test]
fn a_character_waits_for_its_last_byte() {
    let tokenizer = sentencepiece();
    let byte = |byte: u8| 3 + u32::from(byte);
    let mut stream = tokenizer.continuation();
    assert_eq!(stream.push(byte(0xe4)), "");
    assert_eq!(stream.push(byte(0xb8)), "");
    assert_eq!(stream.push(byte(0x96)), "世");
    assert_eq!(stream.push(byte(0xf0)), "");
    assert_eq!(stream.push(byte(b'x')), "\u{fffd}x");
    assert_eq!(stream.push(byte(0xc3)), "");
    assert_eq!(stream.finish(), "\u{fffd}");
}

#[test]
fn a_megabyte_of_anything_is_encoded_or_refused_in_bounded_time() {
    let tokenizer = open("qwen3");
    for word in ["a", " ", "é", "<|im_start|>"] {
        let text = word.repeat((1 << 20) / word.len());
        let start = Instant::now();
        if let Ok(ids) = tokenizer.encode(&text, true) {
            assert!(!ids.is_empty());
        }
        // A second at most when optimised; quadratic work would take hours.
        let took = start.elapsed();
        assert!(took < Duration::from_secs(120), "{word:?} took {took:?}");
    }
}

#[test]
fn malformed_files_are_refused_with_their_name() {
    let whole = fs::read(fixtures().join("models/qwen3/tokenizer.json")).expect("fixture");
    let path = std::env::temp_dir().join(format!("rt-tokenizer-{}-malformed.json", std::process::id()));
    for bytes in
        [&whole[..whole.len() / 2], b"", b"{}", b"\xff\xfe", b"[1]", b"{\"model\":{\"type\":\"BPE\"}}"]
    {
        fs::write(&path, bytes).expect("temporary file");
        let error = Tokenizer::open(&path).err().expect("refused");
        assert!(error.to_string().contains("malformed.json: "), "{error}");
    }
    let _ = fs::remove_file(&path);
    let error = Tokenizer::open(&path).err().expect("refused");
    assert!(matches!(error, TokenizerError::Io { .. }));
}

#[test]
fn an_unknown_decoder_is_refused_by_name() {
    let mut json = read_json(fixtures().join("models/qwen3/tokenizer.json"));
    json["decoder"] = serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let error = made("wordpiece", &json).err().expect("refused").to_string();
    assert!(error.contains("decoder: expected ByteLevel") && error.contains("WordPiece"), "{error}");
    json["decoder"] = Value::Null;
    assert!(made("none", &json).is_err());
}

#[test]
fn truncation_and_padding_of_the_file_are_not_obeyed() {
    let mut json = read_json(fixtures().join("models/qwen3/tokenizer.json"));
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    let tokenizer = made("truncation", &json).expect("well-formed");
    assert!(tokenizer.encode("one two three four five six", true).expect("encodes").len() > 3);
}

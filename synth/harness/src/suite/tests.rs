use std::collections::BTreeMap;
use std::path::PathBuf;

use synth::{held::Held, model::Model};

use super::run::tests::entrant;
use super::*;
use crate::bench::{Depth, Host, tests::comparison, tests::proof};
use crate::ledger::{Provenance, SuiteRace, append_race, append_refusal, read_suite};
use crate::probe::{Ceiling, Dot, DotRate};
use crate::prove::Verdict as Proven;
use crate::reference::Format;
use crate::stats::Verdict;

fn ceilings() -> Ceilings {
    let dots = vec![DotRate { dot: Dot::AmxBf16, gops: 2000.0 }, DotRate { dot: Dot::AmxInt8, gops: 4000.0 }];
    Ceilings { threads: 2, read_gb_s: 40.0, fma_gflops: 200.0, dots }
}

fn quickstart() -> Model {
    let folder =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/quickstart");
    Model::read(&folder).unwrap_or_else(|errors| panic!("{errors}"))
}

fn figure(quantity: Quantity, mid: f64, verdict: Verdict) -> Figure {
    Figure { quantity, ratio: [mid - 0.01, mid, mid + 0.01], own: mid, peer: 1.0, verdict }
}

#[test]
fn names_lead_back_to_their_rows() {
    for row in Row::ALL {
        assert_eq!(Row::by_name(row.name()), Some(row));
        assert_eq!(serde_json::to_value(row).expect("JSON"), row.name());
        assert!(BARS.iter().any(|(of, ..)| *of == row), "{} asks for nothing", row.name());
    }
    assert_eq!(Row::by_name("prefill"), None);
}

#[test]
fn a_bar_is_missed_by_little_by_luck_and_by_what_was_not_measured() {
    let judge = |ahead: &[Figure], share| judge(("m", Format::Bf16, Row::DecodeB1), ahead, &[], share);
    let tpot = |mid, verdict| [figure(Quantity::TpotP50, mid, verdict)];
    assert_eq!(judge(&tpot(0.8, Verdict::Faster), Some(0.95)), (Standing::Pass, vec![]));
    for (ahead, share, why) in [
        (&tpot(0.9, Verdict::Faster)[..], Some(0.95), "1.11 × of 1.15 ×"),
        (&tpot(0.5, Verdict::NoEvidence)[..], Some(0.95), "may be luck"),
        (&[][..], Some(0.95), "was not compared"),
        (&tpot(0.8, Verdict::Faster)[..], Some(0.85), "85 % of the limit, 90 % asked"),
        (&tpot(0.8, Verdict::Faster)[..], None, "unknown"),
    ] {
        let (standing, misses) = judge(ahead, share);
        assert_eq!(standing, Standing::Miss);
        assert!(misses.len() == 1 && misses[0].contains(why), "{misses:?}");
    }
}

#[test]
fn a_bar_of_one_model_asks_nothing_of_another() {
    let start = |model, ms| {
        let ahead = [figure(Quantity::FirstTokenMs, 0.2, Verdict::Faster)];
        judge((model, Format::Bf16, Row::Start), &ahead, &[(Quantity::FirstTokenMs, ms)], None).0
    };
    assert_eq!([start("qwen3-0.6b", 149.0), start("qwen3-0.6b", 151.0)], [Standing::Pass, Standing::Miss]);
    assert_eq!(start("llama-100m", 151.0), Standing::Pass);
    let memory =
        |bytes| judge(("m", Format::Int8, Row::Memory), &[], &[(Quantity::BesideBytes, bytes)], None).0;
    assert_eq!([memory(5e7), memory(7e7)], [Standing::Pass, Standing::Miss]);
}

#[test]
fn the_limit_is_bytes_for_decoding_and_operations_for_reading() {
    let model = quickstart();
    let reads = Reads::of(&model, Held::as_stored(&model), 1000);
    assert!(reads.weights > 2 * model.n_matrix_weights());
    let of = |row| Bound::of((row, Format::Bf16), &model, reads, &ceilings());
    let at = |row| of(row).expect("a bound");
    let alone = at(Row::DecodeB1);
    assert_eq!(alone.by, Ceiling::Read);
    assert!((alone.amount - (reads.weights + 48 * 1000) as f64).abs() < 1.0);
    // Eight share the weights and not the keys.
    assert!((at(Row::DecodeB8).amount - (reads.weights as f64 / 8.0 + 48e3)).abs() < 1.0);
    let reading = at(Row::Prefill512);
    assert_eq!(reading.by, Ceiling::Dot(Dot::AmxBf16));
    assert!(at(Row::Prefill4096).amount > 8.0 * reading.amount, "attention grows with the square");
    assert_eq!(ceilings().multiply(Format::Int4), Ceiling::Dot(Dot::AmxInt8));
    assert_eq!(ceilings().multiply(Format::F32), Ceiling::Fma);
    assert_eq!(Ceilings { dots: vec![], ..ceilings() }.multiply(Format::Int8), Ceiling::Fma);
    assert!(of(Row::Served).is_none());
}

#[test]
fn a_share_of_the_limit_is_of_what_the_machine_reached_in_that_round() {
    let bound = Bound { by: Ceiling::Read, amount: 40e6 };
    // The machine slows to half and own with it; in one round something else disturbed own.
    let limit = bound.limit(&[(40.0, 1.25), (20.0, 2.5), (40.0, 4.0)]).expect("a limit");
    assert_eq!((limit.by.as_str(), limit.peak, limit.floor_ms), ("read", 40.0, 1.0));
    assert!((limit.share - 0.8).abs() < 1e-9, "{limit:?}");
    assert_eq!(bound.limit(&[]), None);
}

fn raced(row: Row, peers: Vec<Entrant>) -> Raced {
    let noise = comparison().noise;
    let best = Some(0);
    let own = vec![(Quantity::TpotP50, 8.0)];
    Raced {
        row,
        what: "1 in flight".into(),
        rounds: 8,
        own,
        peers,
        best,
        limit: Some(Limit { by: "read".into(), amount: 1.0, peak: 40.0, floor_ms: 7.6, share: 0.95 }),
        void: None,
        host: Host::read(),
        noise,
    }
}

fn fresh(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("savile-{}-suite-{name}.jsonl", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn add(path: &std::path::Path, depth: Depth, verdict: Proven, raced: &Raced) -> Result<(), String> {
    let race = SuiteRace {
        suite: "cpu",
        model: "llama-100m",
        format: Format::Bf16,
        plan: BTreeMap::from([("kernels".to_owned(), "amx_bf16_kernels".to_owned())]),
        raced,
        proof: &proof("aa", verdict),
        ceilings: &ceilings(),
        reads: Reads { weights: 1, kv_per_position: 1 },
        depth,
        seed: 1,
    };
    append_race(path, &race, &Provenance::default()).map(drop).map_err(|error| error.to_string())
}

#[test]
fn the_table_shows_the_newest_full_cell_with_its_peers_and_runs() {
    let path = fresh("table");
    let near = raced(Row::DecodeB1, vec![entrant("openvino", 0.9)]);
    let absent =
        Entrant { absent: Some("4.0 × the best peer's time in the heat".into()), ..entrant("candle", 0.2) };
    let ahead = raced(Row::DecodeB1, vec![entrant("openvino", 0.8), absent]);
    for (depth, raced) in
        [(Depth::Full, &near), (Depth::Full, &ahead), (Depth::Full, &ahead), (Depth::Quick, &near)]
    {
        add(&path, depth, Proven::Pass, raced).expect("recorded");
    }
    let refuse = |why| {
        append_refusal(&path, "cpu", ("llama-100m", Format::Int4), why, &Provenance::default())
            .expect("recorded")
    };
    assert!(refuse("no kernels for int4").is_some());
    assert!(refuse("no kernels for int4").is_none(), "said already");
    let entries = read_suite(&path).expect("a ledger");
    let text = markdown(&entries);
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| llama")).collect();
    assert_eq!(rows.len(), 2, "{text}");
    for told in
        ["125 tok/s", "openvino 100 tok/s", "1.25 × [1.23 … 1.28]", "95 % of read", "| pass |", "2 in 1 h"]
    {
        assert!(rows[0].contains(told), "{told}: {}", rows[0]);
    }
    assert!(
        rows[1].contains("int4: no own binary") && rows[1].contains("no kernels for int4"),
        "{}",
        rows[1]
    );
    assert!(text.contains("candle (4.0 × the best"), "{text}");
    assert!(text.contains("30 of 32 answers"), "{text}");
    // A look is shown only where there is nothing better, and never in a document.
    assert!(!terminal(&entries).contains("a look") && markdown(&entries[3..4]).is_empty());
    assert!(terminal(&[entries[3].clone()]).contains("a look"));
}

#[test]
fn a_cell_without_a_proof_is_not_recorded() {
    let path = fresh("proven");
    let error = add(&path, Depth::Full, Proven::Fail, &raced(Row::DecodeB1, vec![])).expect_err("refused");
    assert!(error.contains("has not passed"), "{error}");
    assert_eq!(read_suite(&path).expect("empty"), []);
}

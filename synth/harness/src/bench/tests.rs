//! Races between scripted servers of known pace, and between records made by hand.

use std::path::Path;

use serde_json::Value;

use super::cell::{BlockRun, CellPlan};
use super::*;
use crate::load::{Chunk, Finish, Outcome, Record};
use crate::random::Random;
use crate::scripted::Script;
use crate::stats::Verdict;

fn slo() -> Slo {
    Slo { minimise: Metric::TpotP50, keep: BTreeMap::new() }
}

/// A block of one request whose tokens come at this pace, microseconds.
fn block(first_us: f64, next_us: f64, n_tokens: usize) -> BlockRun {
    let at = |idx: usize| Duration::from_nanos(((first_us + next_us * idx as f64) * 1e3) as u64);
    let chunks: Vec<Chunk> = (0..n_tokens).map(|idx| Chunk { at: at(idx), n_tokens: 1 }).collect();
    let record = Record {
        prompt_tokens: 8,
        wanted_tokens: 20,
        scheduled: Duration::ZERO,
        sent: Duration::ZERO,
        ended: chunks.last().map_or(Duration::ZERO, |chunk| chunk.at),
        chunks,
        outcome: Outcome::Complete(Finish::Length),
    };
    BlockRun { records: vec![record], is_open: false }
}

/// A cell of blocks whose pace is multiplied by what `own` and `reference` return.
fn cell(n_pairs: usize, mut own: impl FnMut() -> f64, mut reference: impl FnMut() -> f64) -> Cell {
    let pairs: Vec<_> = (0..n_pairs)
        .map(|_| {
            let (own, reference) = (own(), reference());
            (block(5000.0 * own, 1000.0 * own, 20), block(5000.0 * reference, 1000.0 * reference, 20))
        })
        .collect();
    Cell::of_pairs("decode_c1".into(), String::new(), &pairs, &slo(), 1)
}

#[test]
fn a_reference_of_half_the_pace_makes_the_own_server_faster_in_every_latency() {
    let cell = cell(6, || 1.0, || 2.0);
    assert_eq!(cell.void, None);
    for (metric, measured) in &cell.metrics {
        assert_eq!(measured.ratio.verdict, Verdict::Faster, "{metric:?}");
        assert!((measured.ratio.mid - 0.5).abs() < 1e-3, "{metric:?}: {:?}", measured.ratio);
        assert!((measured.own_ms * 2.0 - measured.reference_ms).abs() < 1e-2);
    }
    assert!((cell.metrics[&Metric::TpotP50].own_ms - 1.0).abs() < 1e-3);
    assert!((cell.metrics[&Metric::TtftP50].own_ms - 5.0).abs() < 1e-3);
    let cost = cell.ms_per_token.expect("a closed loop has a cost per token");
    assert!((cost.ratio.mid - 0.5).abs() < 1e-3 && (cost.own_ms - 24.0 / 20.0).abs() < 1e-3);
}

#[test]
fn equal_servers_on_a_noisy_machine_give_no_evidence() {
    let trials = 100;
    let quiet = (0..trials)
        .filter(|&seed| {
            let (mut a, mut b) = (Random::new(seed), Random::new(seed + 10_000));
            let cell = cell(6, || (0.05 * a.normal()).exp(), || (0.05 * b.normal()).exp());
            cell.metrics[&Metric::TpotP50].ratio.verdict == Verdict::NoEvidence
        })
        .count();
    assert!(quiet >= 95, "{quiet} of {trials}");
}

#[test]
fn a_side_that_sends_fewer_tokens_voids_the_cell() {
    let pairs = vec![(block(1.0, 1.0, 20), block(1.0, 1.0, 19))];
    let cell = Cell::of_pairs("traffic".into(), String::new(), &pairs, &slo(), 1);
    assert!(cell.void.as_deref().is_some_and(|why| why.starts_with("reference: 19 tokens came where 20")));
    assert!(cell.metrics.is_empty() && cell.ms_per_token.is_none());
}

#[test]
fn a_failed_request_voids_the_cell_whatever_the_others_say() {
    let mut broken = block(1.0, 1.0, 20);
    broken.records[0].outcome = Outcome::Rejected(429);
    let pairs = vec![(block(1.0, 1.0, 20), block(1.0, 1.0, 20)), (broken, block(1.0, 1.0, 20))];
    let cell = Cell::of_pairs("traffic".into(), String::new(), &pairs, &slo(), 1);
    assert!(cell.void.as_deref().is_some_and(|why| why.starts_with("own: 1 of 1") && why.contains("429")));
    assert_eq!(cell.own.n_rejected, 1);
}

#[test]
fn a_late_generator_leaves_out_what_counts_from_the_schedule() {
    let late = || {
        let mut run = block(20_000.0, 1000.0, 20);
        run.records[0].sent = Duration::from_millis(6);
        run
    };
    let cell = Cell::of_pairs("traffic".into(), String::new(), &[(late(), late())], &slo(), 1);
    assert!(cell.late.as_deref().is_some_and(|why| why.contains("up to 6.00 ms late")), "{:?}", cell.late);
    assert_eq!(cell.void, None);
    let kept: Vec<_> = cell.metrics.keys().copied().collect();
    assert!(kept.contains(&Metric::TpotP50) && !kept.contains(&Metric::TtftP50), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripted_servers_are_told_apart() {
    // Far enough apart that a machine which runs other tests meanwhile cannot close the gap.
    let own = Script::pace(4, 4).target().await;
    let reference = Script::pace(60, 60).target().await;
    let request = Request { prompt: vec![1, 2], max_tokens: 3 };
    let work = Work::Closed { concurrency: 1, requests: vec![request; 2] };
    let plan = CellPlan { name: "decode_c1".into(), what: String::new(), works: vec![work; 5] };
    let cell = race(plan, &own, &reference, &slo(), Duration::from_secs(5), 3).await;
    assert_eq!(cell.void, None);
    let tpot = cell.metrics[&Metric::TpotP50];
    assert_eq!(tpot.ratio.verdict, Verdict::Faster);
    assert!(tpot.reference_ms >= 59.0 && tpot.ratio.hi < 1.0, "{tpot:?}");
    assert_eq!((cell.own.n_requests, cell.own.output_tokens), (10, 30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_stops_at_the_first_pair_that_is_void() {
    let own = Script::pace(1, 1).target().await;
    let reference = Script { missing: 1, ..Script::pace(1, 1) }.target().await;
    let work = Work::Closed { concurrency: 1, requests: vec![Request { prompt: vec![1], max_tokens: 4 }] };
    let plan = CellPlan { name: "decode_c1".into(), what: String::new(), works: vec![work; 9] };
    let cell = race(plan, &own, &reference, &slo(), Duration::from_secs(5), 3).await;
    assert!(cell.void.is_some_and(|why| why.contains("3 tokens came where 4")));
    assert_eq!(cell.own.n_requests, 1);
}

#[test]
fn the_headline_is_against_the_strongest_and_falls_back_to_one_sequence() {
    let against = |name: &str, pace: f64, void: Option<String>| {
        let decode = cell(5, || 1.0, || pace);
        let traffic = Cell { name: "traffic".into(), void: void.clone(), ..decode.clone() };
        let traffic = if void.is_some() { Cell { metrics: BTreeMap::new(), ..traffic } } else { traffic };
        Versus { reference: side(name), cells: vec![decode, traffic], curve: vec![] }
    };
    let races =
        vec![against("candle", 3.0, None), against("llama.cpp", 1.2, None), against("other", 2.0, None)];
    assert_eq!(strongest(&races, Metric::TpotP50), 1);
    let headline = races[1].headline(Metric::TpotP50).expect("a headline");
    assert_eq!((headline.cell.name.as_str(), headline.reference.name.as_str()), ("traffic", "llama.cpp"));

    let races = vec![against("candle", 3.0, Some("late".into())), against("llama.cpp", 1.2, None)];
    assert_eq!(strongest(&races, Metric::TpotP50), 1, "compared where both have a number");
    assert_eq!(races[0].headline(Metric::TpotP50).expect("a headline").cell.name, "decode_c1");
}

fn side(name: &str) -> Side {
    Side {
        name: name.into(),
        version: "1".into(),
        flags: vec!["--threads 2".into()],
        ready_ms: vec![12.0],
        first_token_ms: vec![15.0],
        peak_rss_bytes: 30 << 20,
    }
}

/// A whole comparison made of scripted paces: for the tests of what is written about one.
pub(crate) fn comparison() -> Comparison {
    let (mut a, mut b) = (Random::new(1), Random::new(2));
    let mut versus = |name: &str, pace: f64| {
        let mut noisy = |name: &str| Cell {
            name: name.into(),
            ..cell(6, || (0.03 * a.normal()).exp(), || pace * (0.03 * b.normal()).exp())
        };
        let cells = vec![noisy("decode_c1"), noisy("traffic")];
        let point = |concurrency: usize, factor: f64| OperatingPoint {
            output_tokens_per_s: 900.0 * (concurrency as f64).sqrt() / factor,
            latency_ms: [
                (Metric::TpotP50, factor * (concurrency as f64).sqrt()),
                (Metric::TtftP99, 5.0 * factor),
            ]
            .into(),
        };
        let curve = [1, 2, 4, 8]
            .map(|concurrency| CurvePoint {
                concurrency,
                own: point(concurrency, 1.0),
                reference: point(concurrency, pace),
            })
            .to_vec();
        Versus { reference: side(name), cells, curve }
    };
    let references = vec![versus("candle", 2.5), versus("llama.cpp", 1.3)];
    let noise = Noise {
        load: [0.2, 1.7],
        steal_share: Some(0.004),
        foreign_share: Some(0.21),
        spread: Some(0.02),
        lateness_p99_ms: 0.3,
    };
    Comparison {
        version: VERSION,
        workload: "quickstart".into(),
        minimise: Metric::TpotP50,
        keep_ms: [(Metric::TtftP99, 800.0)].into(),
        proven: proof("aa", prove::Verdict::Pass).digests,
        own: side("quickstart"),
        strongest: strongest(&references, Metric::TpotP50),
        references,
        roofline: Roofline { bytes_per_token: 10 << 20, read_gb_s: 20.0 }.fraction(1.0),
        host: Host::read(),
        noise,
        seed: 1,
        budget: Budget::quick(),
    }
}

/// The same JSON with numbers as f32: reading a decimal may cost the last bit of an f64.
fn blunt(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::from(number.as_f64().unwrap_or(0.0) as f32),
        Value::Array(items) => items.into_iter().map(blunt).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, blunt(value))).collect(),
        other => other,
    }
}

#[test]
fn a_comparison_survives_json_and_refuses_what_it_does_not_know() {
    let there = serde_json::to_value(comparison()).expect("JSON");
    let back: Comparison = serde_json::from_str(&there.to_string()).expect("a comparison");
    let back = serde_json::to_value(&back).expect("JSON");
    assert!(blunt(back) == blunt(there.clone()), "something is lost on the way");
    let mut unknown = there;
    unknown["winner"] = Value::from("own");
    assert!(serde_json::from_value::<Comparison>(unknown).is_err());
}

#[test]
fn weak_company_void_cells_and_noise_are_told() {
    let mut comparison = comparison();
    comparison.references.truncate(1);
    comparison.strongest = 0;
    comparison.references[0].cells[1].void = Some("the generator was late".into());
    let caveats = comparison.caveats().join("; ");
    for told in
        ["candle is the only reference", "traffic against candle is void", "other processes used 21 %"]
    {
        assert!(caveats.contains(told), "{caveats}");
    }
}

/// A proof of the binary with this digest.
pub(crate) fn proof(binary: &str, verdict: prove::Verdict) -> Proof {
    Proof {
        version: prove::VERSION,
        name: "quickstart".into(),
        verdict,
        digests: Digests {
            binary: binary.into(),
            spec: "5bec".into(),
            plan: "91a4".into(),
            weights: "3e16".into(),
        },
        surfaces: vec![],
        held_out: None,
        measures: prove::Measures::default(),
        n_cases: 12,
        n_oracle_tokens: 480,
    }
}

/// The binary with this digest.
pub(crate) fn artifact(binary: &str) -> Artifact {
    Artifact {
        name: "quickstart".into(),
        crate_dir: "generated/quickstart".into(),
        binary: "/nowhere/quickstart".into(),
        binary_digest: binary.into(),
        model_dir: "/nowhere/model".into(),
        weights: "/nowhere/weights".into(),
        spec_digest: "5bec".into(),
        plan_digest: "91a4".into(),
        weights_digest: "3e16".into(),
        threads: 2,
    }
}

#[test]
fn only_the_binary_that_passed_is_raced() {
    use prove::Verdict::{Fail, Pass};
    assert!(check_proof(&artifact("aa"), &proof("aa", Pass)).is_ok());
    let failed = check_proof(&artifact("aa"), &proof("aa", Fail)).expect_err("a failed proof");
    assert!(matches!(failed, BenchError::ProofFailed { .. }));
    let other = check_proof(&artifact("aa"), &proof("bb", Pass)).expect_err("another binary");
    assert!(matches!(other, BenchError::OtherBinary { .. }));
}

/// The process that the next test starts is this test binary, asked by its environment for one test only: this one,
/// which then serves. Asked for nothing it is done at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_where_the_environment_says_so() {
    let Ok(asked) = std::env::var("SAVILE_TEST_SERVES") else { return };
    let (listen, pace_ms) = asked.split_once(' ').expect("an address and a pace");
    let pace_ms = pace_ms.parse().expect("milliseconds");
    let listener = tokio::net::TcpListener::bind(listen).await.expect("the address is free");
    Script::pace(pace_ms, pace_ms).accept(listener).await;
}

/// A contender that is a process of its own, with this pace.
fn contender(name: &str, pace_ms: u64) -> Contender {
    let listen = crate::process::free_port().expect("a port");
    let log = std::env::temp_dir().join(format!("savile-{}-{name}.log", std::process::id()));
    let program = std::env::current_exe().expect("this program");
    let args = ["--exact", "bench::tests::serves_where_the_environment_says_so", "--nocapture"];
    Contender {
        name: name.into(),
        version: "1".into(),
        flags: vec![],
        wire: Wire::OpenAi { model: name.into() },
        launch: Launch {
            program,
            args: args.map(Into::into).to_vec(),
            env: vec![("SAVILE_TEST_SERVES".into(), format!("{listen} {pace_ms}"))],
            listen,
            ready_path: "/health",
            timeout: Duration::from_secs(20),
            log,
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_are_started_raced_and_stopped() {
    let spec = "name: scripted\nmodel: { path: tests/fixtures/models/qwen2 }\ntarget: { cpu: { isa: native, threads: 1, memory: 1GiB } }\n\
         traffic:\n  arrivals: { poisson: 20 }\n  concurrency: 4\n  prompt: { p50: 8, p99: 20, max: 24 }\n  \
         output: { p50: 4, p99: 8, max: 8 }\noutput: text\napi: [completions]\n\
         slo: { minimise: tpot_p50, keep: { ttft_p99: 2s } }\ntolerance: { tokens: exact }\n";
    let workload = Workload::parse(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripted.yaml"), spec)
        .expect("a workload");
    let roofline = Some(Roofline { bytes_per_token: 1 << 20, read_gb_s: 10.0 });
    let job = Job { workload: &workload, context: 64, vocab: 100, avoid: vec![0], roofline, seed: 5 };
    let own = contender("scripted", 3);
    let references = [contender("slow", 40), contender("slower", 80)];
    let budget = Budget { pairs: 4, schedule: Duration::from_millis(100), n_starts: 2, ..Budget::quick() };
    let mut heard = Vec::new();
    let comparison = bench(
        &job,
        &own,
        (&artifact("aa"), &proof("aa", prove::Verdict::Pass)),
        &references,
        &budget,
        &mut |line| heard.push(line.to_owned()),
    )
    .await
    .expect("a comparison");

    let headline = comparison.headline().expect("a headline");
    assert_eq!(
        (headline.reference.name.as_str(), headline.measured.ratio.verdict),
        ("slow", Verdict::Faster)
    );
    assert_eq!((comparison.own.ready_ms.len(), comparison.references[0].reference.ready_ms.len()), (2, 1));
    for side in [&comparison.own, &comparison.references[1].reference] {
        assert!(side.peak_rss_bytes > 1 << 20);
        assert!(
            side.ready_ms
                .iter()
                .zip(&side.first_token_ms)
                .all(|(ready, first)| 0.0 < *ready && ready < first)
        );
    }
    let reached = comparison.roofline.expect("a roofline");
    assert!(reached.measured_ms >= 3.0 && reached.fraction < 0.1);
    assert!(
        heard.iter().any(|line| line.starts_with("racing traffic: open loop, Poisson 20/s")),
        "{heard:?}"
    );
    for contender in [&own, &references[0], &references[1]] {
        let addr = contender.launch.listen;
        assert!(std::net::TcpStream::connect(addr).is_err(), "{} was not stopped", contender.name);
    }
}

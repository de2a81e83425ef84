//! The descent against costs that are known, and the handling of references that do not work.

use super::*;

fn knob(name: &'static str, values: &[&str]) -> Knob {
    Knob { name, values: values.iter().map(|value| (*value).to_owned()).collect() }
}

fn measured(tpot_ms: f64, ttft_ms: f64) -> Tried {
    Tried::Measured { tpot_ms, ttft_ms }
}

#[tokio::test]
async fn the_best_value_of_every_independent_knob_is_found() {
    let knobs = [knob("a", &["2", "1", "3"]), knob("b", &["5", "7"]), knob("c", &["9", "6", "8"])];
    let mut n_tried = 0;
    let (chosen, best) = descend(&knobs, async |settings: &Settings| {
        n_tried += 1;
        measured(settings.0.values().map(|value| value.parse::<f64>().expect("a number")).sum(), 1.0)
    })
    .await;
    assert_eq!(chosen.to_string(), "a=1 b=5 c=6");
    assert_eq!(best, measured(12.0, 1.0));
    assert_eq!(n_tried, 1 + 2 + 1 + 2, "each value once");
}

#[tokio::test]
async fn a_start_that_fails_is_left_by_the_first_move_that_works() {
    let knobs = [knob("format", &["bf16", "f32"])];
    let (chosen, best) = descend(&knobs, async |settings: &Settings| match settings.get("format") {
        "bf16" => Tried::Failed("no bf16".to_owned()),
        _ => measured(1.0, 1.0),
    })
    .await;
    assert_eq!((chosen.to_string().as_str(), best), ("format=f32", measured(1.0, 1.0)));
}

#[test]
fn moves_are_kept_for_clear_gains_only() {
    let usual = measured(10.0, 100.0);
    assert!(is_better(&measured(9.0, 500.0), &usual), "time per token comes first");
    assert!(!is_better(&measured(9.9, 100.0), &usual), "one per cent is noise");
    assert!(is_better(&measured(10.1, 90.0), &usual), "time to first token decides among equals");
    assert!(!is_better(&measured(11.0, 10.0), &usual), "and not against a slower token");
    assert!(!is_better(&Tried::Failed("x".into()), &usual));
    assert!(!is_better(&usual, &usual));
}

#[test]
fn recorded_flags_name_no_machine() {
    let args = [
        "/x/server.py",
        "--model",
        "models/x",
        "--threads",
        "2",
        "--host",
        "::1",
        "--port",
        "9",
        "--offline",
    ];
    let launch = Launch {
        program: "/x/python".into(),
        args: args.map(Into::into).into(),
        env: vec![("SPACE".into(), "2".into()), ("PRELOAD".into(), "/x/lib/y.so".into())],
        listen: "[::1]:9".parse().expect("an address"),
        ready_path: "/health",
        timeout: Duration::ZERO,
        log: "log".into(),
    };
    assert_eq!(flags(&launch), ["SPACE=2", "PRELOAD=y.so", "server.py", "--threads", "2", "--offline"]);
}

#[test]
fn a_record_reads_back_and_refuses_what_it_does_not_know() {
    let settings = Settings::first(&[knob("a", &["1"])]);
    let trial = |outcome| Trial { settings: settings.clone(), flags: vec!["--a".into()], outcome };
    let sweep = Sweep {
        version: VERSION,
        reference: "r".into(),
        reference_version: "1".into(),
        probe: Probe { prompt: 1, output: 2, concurrency: 3 },
        trials: vec![trial(measured(1.5, 2.5)), trial(Tried::Failed("no".into()))],
        chosen: settings.clone(),
    };
    let text = serde_json::to_string(&sweep).expect("JSON");
    assert_eq!(serde_json::from_str::<Sweep>(&text).expect("a sweep"), sweep);
    let strange = text.replacen("\"probe\"", "\"mood\":1,\"probe\"", 1);
    assert!(serde_json::from_str::<Sweep>(&strange).is_err());
}

//! The descent against costs that are known, and what is recorded of it.

use super::*;

fn knob(name: &'static str, values: &[&str]) -> Knob {
    Knob { name, values: values.iter().map(|value| (*value).to_owned()).collect() }
}

#[tokio::test]
async fn the_best_value_of_every_independent_knob_is_found() {
    let knobs = [knob("a", &["2", "1", "3"]), knob("b", &["5", "7"]), knob("c", &["9", "6", "8"])];
    let cost =
        |settings: &Settings| settings.0.values().map(|value| value.parse::<i32>().expect("a number")).sum();
    let mut best: i32 = cost(&Settings::first(&knobs));
    let mut n_tried = 0;
    let chosen = descend(&knobs, async |settings: &Settings| {
        n_tried += 1;
        let is_better = cost(settings) < best;
        best = best.min(cost(settings));
        is_better
    })
    .await;
    assert_eq!(chosen.to_string(), "a=1 b=5 c=6");
    assert_eq!(n_tried, 2 + 1 + 2, "each value that is not usual once");
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
        timeout: std::time::Duration::ZERO,
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
        depends_on: "0".into(),
        cpu: "c".into(),
        reference: "r".into(),
        reference_version: "1".into(),
        probe: Probe { prompt: 1, output: 2, concurrency: 3 },
        trials: vec![
            trial(Tried::Measured {
                tpot_ms: 1.5,
                ttft_ms: 2.5,
                tpot_ratios: vec![0.5],
                ttft_ratios: vec![0.75],
            }),
            trial(Tried::Failed("no".into())),
        ],
        chosen: settings.clone(),
    };
    let text = serde_json::to_string(&sweep).expect("JSON");
    assert_eq!(serde_json::from_str::<Sweep>(&text).expect("a sweep"), sweep);
    let path = std::env::temp_dir().join(format!("savile-{}-sweep.json", std::process::id()));
    assert_eq!(kept(&path, "0"), None);
    fs::write(&path, &text).expect("written");
    assert_eq!(kept(&path, "0"), Some(sweep));
    assert_eq!(kept(&path, "1"), None, "made for another version, model, job or processor");
    fs::remove_file(&path).expect("removed");
    let strange = text.replacen("\"probe\"", "\"mood\":1,\"probe\"", 1);
    assert!(serde_json::from_str::<Sweep>(&strange).is_err());
}

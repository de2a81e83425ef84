use std::io::Write;

use super::*;

fn counted() -> Counters {
    Counters {
        allocations_per_token: Ok(0.0),
        system_calls_per_token: Ok(1.0),
        switches_per_token: Ok(0.0),
        instructions_per_token: Ok(1e6),
        multiplications_per_token: Ok(3e5),
        instructions_per_prompt_token: Ok(5e5),
        weight_bytes_per_token: Ok(10_100_000.0),
        kv_bytes_per_position: Ok(4096.0),
        reserved_bytes: Ok(5e7),
    }
}

const PLANNED: (u64, u64) = (10_000_000, 4096);

#[test]
fn what_was_counted_keeps_its_own_bounds_through_json() {
    let bounds = Bounds::of(&counted(), PLANNED);
    let path = std::env::temp_dir().join(format!("savile-{}-bounds.json", std::process::id()));
    fs::write(&path, bounds.to_json()).expect("written");
    let back = Bounds::read(&path).expect("bounds");
    assert_eq!(back, bounds);
    assert_eq!(back.check(&counted(), PLANNED), Findings::default());
    fs::write(&path, bounds.to_json().replace("\"version\": 1", "\"version\": 2")).expect("written");
    assert!(Bounds::read(&path).is_err_and(|error| error.to_string().contains("version 2")));
}

#[test]
fn each_bound_is_broken_by_its_own_count() {
    let bounds = Bounds::of(&counted(), PLANNED);
    let broken = |counted: Counters, planned| {
        let findings = bounds.check(&counted, planned);
        findings.broken.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    };
    let all = counted();
    assert_eq!(
        broken(Counters { allocations_per_token: Ok(1.0), ..all.clone() }, PLANNED),
        ["allocations_per_token"]
    );
    assert_eq!(
        broken(Counters { system_calls_per_token: Ok(2.0), ..all.clone() }, PLANNED),
        ["system_calls_per_token"]
    );
    let twice =
        Counters { instructions_per_token: Ok(1.9e6), instructions_per_prompt_token: Ok(9e5), ..all.clone() };
    assert_eq!(broken(twice, PLANNED), ["instructions_per_token", "instructions_per_prompt_token"]);
    // The plan reads more than was committed, and the server touches other than its plan says.
    assert_eq!(broken(all.clone(), (10_200_000, 4096)), ["weight_bytes_per_token"]);
    let other = Counters { weight_bytes_per_token: Ok(2e7), ..all.clone() };
    assert_eq!(broken(other, PLANNED), ["weight_bytes_per_token"]);
    // A compiler may move instructions a little.
    assert!(broken(Counters { instructions_per_token: Ok(1.015e6), ..all }, PLANNED).is_empty());
}

#[test]
fn what_cannot_be_counted_is_named_and_breaks_nothing() {
    let refused = Counters { instructions_per_token: Err("no permission".into()), ..counted() };
    let findings = Bounds::of(&counted(), PLANNED).check(&refused, PLANNED);
    assert!(findings.broken.is_empty());
    assert_eq!(findings.uncounted, [("instructions_per_token", "no permission".to_owned())]);
}

/// A thread of a process of ours, followed while it does a known number of calls.
#[test]
fn the_system_calls_of_a_thread_are_all_counted() {
    let mut child = Command::new("/bin/sh")
        .args(["-c", "read line; for n in 1 2 3 4 5 6 7 8 9 10; do echo x >/dev/null; done; read line"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("a shell");
    // It waits for a line by then.
    std::thread::sleep(Duration::from_millis(200));
    let tracer = Tracer::begin(What::SystemCalls, child.id() as i32, vec![]).expect("it can be followed");
    child.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("it reads");
    std::thread::sleep(Duration::from_millis(1500));
    let [n, _] = tracer.count();
    tracer.end().expect("it is let go");
    // Each line is at least opened, written and closed.
    assert!((30..1000).contains(&n), "{n}");
    drop(child.stdin.take());
    assert!(child.wait().is_ok_and(|status| status.code().is_some()), "it ended by itself");
}

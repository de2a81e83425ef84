use std::{
    panic,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::*;

#[test]
fn every_task_of_every_region_is_done_exactly_once() {
    for (n_threads, n_tasks) in [(1, 3), (2, 1), (2, 2), (2, 7), (3, 16), (5, 4)] {
        let pool = Pool::new(n_threads);
        let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
        // Half a million on a quiet machine; fewer where other processes want the cores.
        let start = Instant::now();
        let mut n_regions = 0;
        while n_regions < 500_000 && start.elapsed() < Duration::from_secs(1) {
            pool.run(n_tasks, |thread, task| {
                assert!(thread < n_threads);
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            n_regions += 1;
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == n_regions));
        }
    }
}

#[test]
fn no_thread_does_two_tasks_at_once() {
    let pool = Pool::new(4);
    let busy: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
    for _ in 0..200 {
        pool.run(16, |thread, _| {
            assert_eq!(busy[thread].fetch_add(1, Ordering::SeqCst), 0);
            thread::yield_now();
            assert_eq!(busy[thread].fetch_sub(1, Ordering::SeqCst), 1);
        });
    }
}

#[test]
fn nobody_waits_for_a_worker_that_has_not_come() {
    let pool = Pool::new(2);
    let start = Instant::now();
    let held_up = AtomicUsize::new(0);
    // Whoever is the worker sleeps in its first task; the caller does the rest meanwhile, and waits for that one alone.
    pool.run(64, |thread, _| {
        if thread == 1 && held_up.fetch_add(1, Ordering::SeqCst) == 0 {
            thread::sleep(Duration::from_millis(50));
        } else {
            thread::sleep(Duration::from_micros(100));
        }
    });
    assert!(start.elapsed() < Duration::from_millis(150), "{:?}", start.elapsed());
    assert!(held_up.load(Ordering::SeqCst) < 40, "the caller did its part");
}

#[test]
fn writes_of_a_region_are_seen_after_it() {
    let pool = Pool::new(2);
    let mut values = vec![0.0_f32; 64];
    for region in 0..5_000 {
        let columns = crate::columns::Columns::new(&mut values, 64);
        pool.spread(64, 8, |piece| {
            // SAFETY: pieces are disjoint.
            unsafe { columns.row_mut(0, piece) }.fill(region as f32);
        });
        assert!(values.iter().all(|&value| value == region as f32));
    }
}

#[test]
fn regions_after_a_pause_wake_parked_workers() {
    let pool = Pool::new(3);
    let count = AtomicUsize::new(0);
    for pause_us in [0, 50, 90, 100, 110, 150, 1000, 3000] {
        for _ in 0..50 {
            thread::sleep(Duration::from_micros(pause_us));
            pool.run(3, |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
    }
    assert_eq!(count.load(Ordering::Relaxed), 8 * 50 * 3);
}

#[test]
fn pieces_tile_the_range_in_groups_of_eight() {
    for n_threads in 1..9 {
        let pool = Pool::new(n_threads);
        for n in [0, 1, 7, 8, 9, 63, 64, 65, 1000, 4096] {
            let pieces = Mutex::new(vec![]);
            pool.spread(n, 8, |piece| pieces.lock().unwrap().push(piece));
            let mut pieces = pieces.into_inner().unwrap();
            pieces.sort_by_key(|piece| piece.start);
            let mut next = 0;
            for piece in &pieces {
                assert!(piece.start == next && piece.end > next);
                assert!(piece.start.is_multiple_of(8));
                next = piece.end;
            }
            assert_eq!(next, n);
        }
    }
}

#[test]
fn a_thread_alone_takes_its_share_in_order_and_then_the_others_from_their_ends() {
    let shares = [Share::default(), Share::default()];
    shares[0].set(0..10);
    shares[1].set(10..14);
    let of_own = std::iter::from_fn(|| shares[0].take_first(PART)).collect::<Vec<_>>();
    assert_eq!(of_own, [0..3, 3..5, 5..7, 7..8, 8..9, 9..10]);
    let of_others = std::iter::from_fn(|| shares[1].take_last(PART)).collect::<Vec<_>>();
    assert_eq!(of_others, [13..14, 12..13, 11..12, 10..11]);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(2);
    for culprit in [0, 1] {
        let caught = panic::catch_unwind(AssertUnwindSafe(|| {
            pool.run(64, |thread, _| {
                if thread == culprit {
                    panic!("thread {thread} fails");
                }
                // Leaves the other one time to come.
                thread::sleep(Duration::from_millis(1));
            });
        }));
        let payload = caught.expect_err("the panic must propagate");
        assert_eq!(payload.downcast_ref::<String>(), Some(&format!("thread {culprit} fails")));
        let count = AtomicUsize::new(0);
        pool.run(8, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 8);
    }
}

#[test]
fn a_nested_region_is_refused() {
    let pool = Pool::new(2);
    let caught = panic::catch_unwind(AssertUnwindSafe(|| pool.run(1, |_, _| pool.run(1, |_, _| ()))));
    assert!(caught.is_err());
    pool.run(2, |_, _| ());
}

#[test]
fn an_idle_pool_uses_no_processor_time() {
    let pool = Pool::new(2);
    pool.run(2, |_, _| ());
    thread::sleep(Duration::from_millis(20));
    let busy = || -> u64 {
        // Fields 14 and 15 of a thread's stat are its user and system ticks of 10 ms.
        std::fs::read_dir("/proc/self/task")
            .expect("tasks of this process")
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
            .filter(|stat| stat.contains("(pool-"))
            .filter_map(|stat| {
                let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
                Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
            })
            .sum()
    };
    // Other tests run pools at the same time, so measure this one in a process of its own.
    if std::env::var_os("RT_IDLE_POOL").is_none() {
        let status = std::process::Command::new(std::env::current_exe().expect("test binary"))
            .args(["--exact", "pool::tests::an_idle_pool_uses_no_processor_time"])
            .env("RT_IDLE_POOL", "1")
            .stdout(std::process::Stdio::null())
            .status()
            .expect("test binary runs");
        assert!(status.success());
        return;
    }
    let before = busy();
    thread::sleep(Duration::from_millis(500));
    assert!(busy() - before <= 1, "a parked worker must not run");
}

#[test]
fn dropping_joins_spinning_and_parked_workers() {
    for pause_ms in [0, 2] {
        let pool = Pool::new(4);
        pool.run(2, |_, _| ());
        thread::sleep(Duration::from_millis(pause_ms));
        let start = Instant::now();
        drop(pool);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn an_errand_is_done_whoever_has_time() {
    for n_threads in [1, 2, 4] {
        let n_done = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(n_threads);
        let counter = n_done.clone();
        pool.set_errand(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        for round in 1..=300 {
            pool.send();
            // Between regions, while workers spin, and after they have parked.
            match round % 3 {
                0 => pool.run(4, |_, _| ()),
                1 => {}
                _ if round % 50 == 2 => thread::sleep(Duration::from_millis(2)),
                _ => thread::yield_now(),
            }
            let asked = Instant::now();
            while n_done.load(Ordering::Relaxed) < round {
                assert!(asked.elapsed() < Duration::from_secs(10), "{n_threads} threads, round {round}");
                thread::yield_now();
            }
            assert_eq!(n_done.load(Ordering::Relaxed), round, "once");
        }
    }
}

#[test]
fn what_is_next_is_fetched_once_and_to_its_end() {
    let (long, other) = (vec![0_u8; 5000], vec![0_u8; 64]);
    let next = Next::default();
    assert!(!next.fetch_on(), "nothing was announced");
    next.set(&long);
    let n_looks = std::iter::from_fn(|| next.fetch_on().then_some(())).count();
    assert_eq!(n_looks, long.len().div_ceil(LINES_PER_LOOK * LINE_BYTES));
    assert_eq!(next.fetched.load(Ordering::Relaxed), long.as_ptr_range().end.addr());
    next.set(&other);
    assert!(next.fetch_on() && !next.fetch_on());
    next.set(&long);
    assert!(next.fetch_on(), "announced again after something else");
}

#[test]
fn each_thread_is_told_of_the_beginning_of_its_own_share() {
    let pool = Pool::new(2);
    let matrix = vec![0_u8; 3 * NEXT_BYTES];
    let row = matrix.len() / 3;
    pool.announce(3, |rows| &matrix[rows.start * row..rows.end * row]);
    let told = pool.shared.next.iter().map(|next| {
        let [start, end] = [&next.0.start, &next.0.end].map(|it| it.load(Ordering::Relaxed));
        start - matrix.as_ptr().addr()..end - matrix.as_ptr().addr()
    });
    assert!(told.eq([0..NEXT_BYTES, 2 * row..2 * row + NEXT_BYTES]), "two rows are the first thread's");
}

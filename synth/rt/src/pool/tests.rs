use std::{
    panic,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::*;

#[test]
fn every_thread_runs_every_region_exactly_once() {
    for n_threads in [1, 2, 3, 5] {
        let pool = Pool::new(n_threads);
        let counts: Vec<AtomicUsize> = (0..n_threads).map(|_| AtomicUsize::new(0)).collect();
        // A million on a quiet machine; fewer where other processes want the cores.
        let start = Instant::now();
        let mut n_regions = 0;
        while n_regions < 1_000_000 && start.elapsed() < Duration::from_secs(2) {
            pool.run(|thread| {
                counts[thread].fetch_add(1, Ordering::Relaxed);
            });
            n_regions += 1;
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == n_regions));
        }
    }
}

#[test]
fn writes_of_a_region_are_seen_after_it() {
    let pool = Pool::new(2);
    let mut values = vec![0.0_f32; 64];
    for region in 0..5_000 {
        let columns = crate::columns::Columns::new(&mut values, 64);
        pool.run(|thread| {
            // SAFETY: shares are disjoint.
            let mine = unsafe { columns.row_mut(0, pool.share(64, thread)) };
            mine.fill(region as f32);
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
            pool.run(|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
    }
    assert_eq!(count.load(Ordering::Relaxed), 8 * 50 * 3);
}

#[test]
fn shares_tile_the_range_in_groups_of_eight() {
    for n_threads in 1..9 {
        let pool = Pool::new(n_threads);
        for n in [0, 1, 7, 8, 9, 63, 64, 65, 1000, 4096] {
            let mut next = 0;
            for thread in 0..n_threads {
                let share = pool.share(n, thread);
                assert_eq!(share.start, next.min(share.start));
                assert_eq!(share.start, next);
                assert!(share.start.is_multiple_of(8) || share.start == n);
                next = share.end;
            }
            assert_eq!(next, n);
        }
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(2);
    for culprit in [0, 1] {
        let done = AtomicUsize::new(0);
        let caught = panic::catch_unwind(AssertUnwindSafe(|| {
            pool.run(|thread| {
                if thread == culprit {
                    panic!("thread {thread} fails");
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        let payload = caught.expect_err("the panic must propagate");
        assert_eq!(payload.downcast_ref::<String>(), Some(&format!("thread {culprit} fails")));
        assert_eq!(done.load(Ordering::Relaxed), 1, "the other thread finished first");
        pool.run(|_| ());
    }
}

#[test]
fn a_nested_region_is_refused() {
    let pool = Pool::new(2);
    let caught = panic::catch_unwind(AssertUnwindSafe(|| pool.run(|_| pool.run(|_| ()))));
    assert!(caught.is_err());
    pool.run(|_| ());
}

#[test]
fn an_idle_pool_uses_no_processor_time() {
    let pool = Pool::new(2);
    pool.run(|_| ());
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
        pool.run(|_| ());
        thread::sleep(Duration::from_millis(pause_ms));
        let start = Instant::now();
        drop(pool);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

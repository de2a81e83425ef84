//! What a step of the engine calls of this library takes no memory: every allocation of the engine's thread is counted.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rt::{
    metrics::{CacheShape, Metrics},
    pool::Pool,
    request::{Event, Finish, QueueBound, Sampling, queue},
};

/// The system's allocator, which counts.
struct Counting;

thread_local! {
    static N_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N_ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn n_allocations() -> u64 {
    N_ALLOCATIONS.with(Cell::get)
}

#[test]
fn a_step_allocates_nothing_and_every_token_arrives() {
    const N_TOKENS: usize = 2000;
    let metrics = Arc::new(Metrics::new("m", 4096, CacheShape { block_size: 16, n_blocks: 1 }));
    let bound = QueueBound { n_requests: 8, n_prompt_tokens: 100 };
    let (outbox, inbox) = queue(bound, metrics.clone());
    let choices = vec![(Arc::from([1_u32, 2, 3]), Sampling::greedy(N_TOKENS)); 2];
    let mut events = outbox.submit(choices, 0).expect("room");
    let reader = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        runtime.block_on(async {
            let mut answers = [const { Vec::new() }; 2];
            while let Some((choice, event)) = events.recv().await {
                if let Event::Token { id, .. } = event {
                    answers[choice].push(id);
                }
            }
            answers
        })
    });
    let pool = Pool::new(2);
    let herald = inbox.herald();
    pool.set_errand(move || herald.tell());
    let mut running: Vec<_> = (0..2).map(|_| inbox.try_recv().expect("it waits")).collect();
    let work = AtomicU64::new(0);
    let some_work = |_: usize, task: usize| {
        work.fetch_add(task as u64, Ordering::Relaxed);
    };
    // Before it counts: what a thread's first use of the library takes.
    pool.run(4, some_work);
    let before = n_allocations();
    for step in 0..N_TOKENS {
        assert!(inbox.try_recv_if(|_| true).is_none());
        for _ in 0..8 {
            pool.run(4, some_work);
        }
        for (choice, request) in running.iter_mut().enumerate() {
            request.events.send(Event::Token { id: (2 * step + choice) as u32, logprobs: None });
        }
        metrics.kv_cache_usage.set(0.5);
        metrics.step(Duration::from_micros(100), 2);
        pool.send();
    }
    assert_eq!(n_allocations() - before, 0, "allocations of {N_TOKENS} steps");
    running.iter_mut().for_each(|request| request.events.send(Event::Done(Finish::Length)));
    let answers = reader.join().expect("no panic");
    for (choice, ids) in answers.iter().enumerate() {
        let expected: Vec<u32> = (0..N_TOKENS).map(|step| (2 * step + choice) as u32).collect();
        assert_eq!(*ids, expected, "choice {choice}");
    }
}

#[test]
fn an_allocation_shows() {
    let before = n_allocations();
    drop(std::hint::black_box(vec![1]));
    assert_eq!(n_allocations() - before, 1);
}

//! A pool of pinned threads for parallel regions of a few microseconds.
//!
//! A decode step of a small model holds hundreds of regions, so starting one must cost about a microsecond.
//! Workers therefore spin between regions, and park when none comes for `SPIN`, so that an idle process
//! uses no processor time.

use std::{
    any::Any,
    cell::UnsafeCell,
    hint,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How long a thread spins before it parks: longer than the serial work between two regions of one step.
const SPIN: Duration = Duration::from_micros(100);
/// Spins between two looks at the clock: about two microseconds.
const SPINS_PER_LOOK: u32 = 64;
/// Between two looks passed this long: another process took the core, so spinning only keeps it from others.
const PREEMPTED: Duration = Duration::from_micros(50);

/// Threads that run one closure together. The caller of [`Pool::run`] is thread 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// The closure of a region, its lifetime erased.
type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Counts regions; a worker that sees it move has a job. Alone in its cache line, as it is spun upon.
    epoch: Line<AtomicU64>,
    /// Workers that have not finished the current region.
    n_running: Line<AtomicUsize>,
    /// The closure of the current region, null to end the workers. Written only between regions.
    job: UnsafeCell<Option<Job>>,
    /// Whether a region runs: regions neither nest nor overlap.
    entered: AtomicBool,
    /// Per worker: whether it parked and must be woken.
    parked: Vec<Line<AtomicBool>>,
    /// The caller's thread while it is parked at the end of a region.
    caller: Mutex<Option<Thread>>,
    caller_parked: AtomicBool,
    /// The first panic of a worker in this region.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Keeps a value from sharing cache lines (two, as lines are fetched in pairs) with its neighbours.
#[repr(align(128))]
struct Line<T>(T);

// SAFETY: `job` is written by the thread that holds `entered` while no worker runs, and read by workers only
// after they saw the epoch of that write; everything else is synchronised by its own type.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is never followed outside a region.
unsafe impl Send for Shared {}

impl Pool {
    /// Starts `n_threads - 1` workers, each pinned to a core of its own when the system allows it.
    ///
    /// The caller is not pinned: it may be any thread, and threads that it starts would inherit the mask.
    pub fn new(n_threads: usize) -> Pool {
        let n_workers = n_threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: Line(AtomicU64::new(0)),
            n_running: Line(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            entered: AtomicBool::new(false),
            parked: (0..n_workers).map(|_| Line(AtomicBool::new(false))).collect(),
            caller: Mutex::new(None),
            caller_parked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let cores = allowed_cores();
        let workers = (1..=n_workers)
            .map_while(|thread| {
                let shared = shared.clone();
                let core = cores.get(thread).copied();
                // A system that is out of threads gives a smaller pool, which `n_threads` reports.
                thread::Builder::new()
                    .name(format!("pool-{thread}"))
                    .spawn(move || work(&shared, thread, core))
                    .ok()
            })
            .collect();
        Pool { shared, workers }
    }

    /// Number of threads that run a region, the caller included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The part of `0..n` that `thread` should work on: contiguous, a multiple of 8 long except at the end,
    /// possibly empty. The parts of all threads tile `0..n`.
    pub fn share(&self, n: usize, thread: usize) -> Range<usize> {
        let n_groups = n.div_ceil(8);
        let bound = |thread: usize| (n_groups * thread / self.n_threads() * 8).min(n);
        bound(thread)..bound(thread + 1)
    }

    /// Runs `f(thread)` once on every thread and returns when all are done.
    ///
    /// A panic in any of them reaches the caller, after all have ended. Panics when called while a region
    /// of this pool runs.
    pub fn run(&self, f: impl Fn(usize) + Sync) {
        let shared = &*self.shared;
        assert!(
            !shared.entered.swap(true, Ordering::Acquire),
            "a parallel region of this pool is already running"
        );
        let job: *const (dyn Fn(usize) + Sync + '_) = &f;
        // SAFETY: only the lifetime changes. `f` lives until the end of this function, which first waits for
        // every worker to finish with it.
        let job: Job = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job) };
        self.start(Some(job));
        let own = panic::catch_unwind(AssertUnwindSafe(|| f(0)));
        shared.wait_for_workers();
        let theirs = lock(&shared.panic).take();
        shared.entered.store(false, Ordering::Release);
        if let Some(payload) = own.err().or(theirs) {
            panic::resume_unwind(payload);
        }
    }

    /// Publishes a job to all workers and wakes those that parked.
    fn start(&self, job: Option<Job>) {
        let shared = &*self.shared;
        // SAFETY: the caller holds `entered` and no worker runs, so nobody else reads or writes the job.
        unsafe { *shared.job.get() = job };
        shared.n_running.0.store(self.workers.len(), Ordering::Relaxed);
        // SeqCst orders this before the loads of `parked`: a worker either sees the epoch or is woken.
        shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        for (worker, parked) in self.workers.iter().zip(&shared.parked) {
            if parked.0.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.start(None);
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a job, so it can only end by returning.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn wait_for_workers(&self) {
        let done = || self.n_running.0.load(Ordering::Acquire) == 0;
        if spin_until(done) {
            return;
        }
        *lock(&self.caller) = Some(thread::current());
        self.caller_parked.store(true, Ordering::SeqCst);
        while self.n_running.0.load(Ordering::SeqCst) != 0 {
            thread::park();
        }
        self.caller_parked.store(false, Ordering::Relaxed);
    }

    /// Marks one worker as finished; the last one wakes the caller if it parked.
    fn finish(&self) {
        if self.n_running.0.fetch_sub(1, Ordering::SeqCst) == 1
            && self.caller_parked.load(Ordering::SeqCst)
            && let Some(caller) = &*lock(&self.caller)
        {
            caller.unpark();
        }
    }
}

/// The life of worker `thread`.
fn work(shared: &Shared, thread: usize, core: Option<usize>) {
    if let Some(core) = core {
        let mut set = CpuSet::new();
        set.set(core);
        // Pinning is a help, not a need: a container may forbid it.
        let _ = sched_setaffinity(None, &set);
    }
    let mut seen = 0;
    loop {
        let moved = || shared.epoch.0.load(Ordering::Acquire) != seen;
        if !spin_until(moved) {
            let parked = &shared.parked[thread - 1].0;
            parked.store(true, Ordering::SeqCst);
            while shared.epoch.0.load(Ordering::SeqCst) == seen {
                thread::park();
            }
            parked.store(false, Ordering::Relaxed);
        }
        // No epoch is skipped: the next region starts only after this worker has finished this one.
        seen += 1;
        // SAFETY: the epoch moved after the job was written, and it is written again only after `finish`.
        let Some(job) = (unsafe { *shared.job.get() }) else { return };
        // SAFETY: `run` keeps the closure alive until `finish` has been called.
        let job = unsafe { &*job };
        if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| job(thread))) {
            lock(&shared.panic).get_or_insert(payload);
        }
        shared.finish();
    }
}

/// Spins until `done`, for [`SPIN`] at most; gives up sooner when other processes want the core.
fn spin_until(done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    let mut last_look = start;
    loop {
        for _ in 0..SPINS_PER_LOOK {
            if done() {
                return true;
            }
            hint::spin_loop();
        }
        let now = Instant::now();
        if now - start > SPIN || now - last_look > PREEMPTED {
            return done();
        }
        last_look = now;
    }
}

/// The cores this process may use, in order.
fn allowed_cores() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect(),
        Err(_) => Vec::new(),
    }
}

/// Locks a mutex whose holders do not panic.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

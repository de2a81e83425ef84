//! A pool of threads for parallel regions of a few microseconds.
//!
//! A decode step of a small model holds hundreds of regions, so starting one must cost about a microsecond.
//! Workers therefore spin between regions, and park when none comes for 0.1 ms, so that an idle process
//! uses no processor time.
//!
//! A region is a number of tasks, each taken by whichever thread is free. Nobody waits for a worker that has not come:
//! where other processes want the cores too, a worker may be away for milliseconds, and the others do its tasks.
//!
//! Between regions a worker has nothing to do while the caller does what only one thread can. An *errand* is for it then:
//! system calls that the caller must not wait for.

use std::{
    any::Any,
    cell::UnsafeCell,
    hint,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// How long a thread spins before it parks: longer than the serial work between two regions of one step.
const SPIN: Duration = Duration::from_micros(100);
/// Spins between two looks at the clock: about two microseconds.
const SPINS_PER_LOOK: u32 = 64;
/// Between two looks passed this long: another process took the core, so spinning only keeps it from others.
const PREEMPTED: Duration = Duration::from_micros(50);
/// Stack of a thread that runs kernels: they copy a few rows of activations there.
pub const STACK_BYTES: usize = 8 << 20;
/// Pieces of a range for each thread: what a thread that is held up leaves to the others.
const PIECES_PER_THREAD: usize = 2;

/// Threads that work on the tasks of a region together. The caller of [`Pool::run`] is thread 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// The closure of a region, its lifetime erased: it is called with a thread and a task.
type Job = *const (dyn Fn(usize, usize) + Sync);

/// What the gate is opened for.
#[derive(Clone, Copy)]
struct Region {
    /// `None` ends the workers.
    job: Option<Job>,
    n_tasks: usize,
}

struct Shared {
    /// Which region this is, whether it is open, and how many workers are in it. Alone in its cache line, as it is spun
    /// upon.
    gate: Line<AtomicU64>,
    /// The first task that nobody has taken.
    next_task: Line<AtomicUsize>,
    /// Written only while the gate is closed and nobody is inside.
    region: UnsafeCell<Region>,
    /// Whether a region runs: regions neither nest nor overlap.
    entered: AtomicBool,
    /// Per worker: whether it parked and must be woken.
    parked: Vec<Line<AtomicBool>>,
    /// The caller's thread while it is parked at the end of a region.
    caller: Mutex<Option<Thread>>,
    caller_parked: AtomicBool,
    /// The first panic of a worker in this region, and whether there was one.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    has_panicked: AtomicBool,
    /// What a worker does between regions when it is asked to.
    errand: OnceLock<Errand>,
    /// Spun upon like the gate, so it is alone in its cache line too.
    is_errand_due: Line<AtomicBool>,
}

/// Done by any thread.
type Errand = Box<dyn Fn() + Send + Sync>;

/// One worker inside; the bits below [`OPEN`] count them.
const WORKER: u64 = 1;
/// Set while workers may come in.
const OPEN: u64 = 1 << 16;
/// One region; the bits above [`OPEN`] count them.
const EPOCH: u64 = 1 << 17;

/// The region's number.
fn epoch(gate: u64) -> u64 {
    gate / EPOCH
}

/// How many workers are in it.
fn n_inside(gate: u64) -> u64 {
    gate % OPEN
}

/// Keeps a value from sharing cache lines (two, as lines are fetched in pairs) with its neighbours.
#[repr(align(128))]
struct Line<T>(T);

// SAFETY: `region` is written by the thread that holds `entered` while the gate is closed and nobody is inside, and read
// by workers that came in through the gate; everything else is synchronised by its own type.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `region` is never followed outside a region.
unsafe impl Send for Shared {}

/// A range cut into pieces, to be tasks of a region.
#[derive(Clone, Copy)]
pub struct Pieces {
    n: usize,
    len: usize,
}

impl Pieces {
    /// How many pieces there are.
    pub fn count(self) -> usize {
        self.n.div_ceil(self.len)
    }

    /// A piece; `None` behind the last.
    pub fn get(self, idx: usize) -> Option<Range<usize>> {
        let start = idx * self.len;
        (start < self.n).then(|| start..self.n.min(start + self.len))
    }
}

impl Pool {
    /// Starts `n_threads - 1` workers.
    ///
    /// They are not pinned: where a core is wanted by another process too, the system may then move what waits for it.
    pub fn new(n_threads: usize) -> Pool {
        let n_workers = n_threads.clamp(1, OPEN as usize) - 1;
        let shared = Arc::new(Shared {
            gate: Line(AtomicU64::new(0)),
            next_task: Line(AtomicUsize::new(0)),
            region: UnsafeCell::new(Region { job: None, n_tasks: 0 }),
            entered: AtomicBool::new(false),
            parked: (0..n_workers).map(|_| Line(AtomicBool::new(false))).collect(),
            caller: Mutex::new(None),
            caller_parked: AtomicBool::new(false),
            panic: Mutex::new(None),
            has_panicked: AtomicBool::new(false),
            errand: OnceLock::new(),
            is_errand_due: Line(AtomicBool::new(false)),
        });
        let workers = (1..=n_workers)
            .map_while(|thread| {
                let shared = shared.clone();
                // A system that is out of threads gives a smaller pool, which `n_threads` reports.
                thread::Builder::new()
                    .name(format!("pool-{thread}"))
                    .stack_size(STACK_BYTES)
                    .spawn(move || work(&shared, thread))
                    .ok()
            })
            .collect();
        Pool { shared, workers }
    }

    /// Number of threads that run a region, the caller included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// `0..n` in a few pieces for each thread, multiples of `grain` long except the last.
    pub fn pieces(&self, n: usize, grain: usize) -> Pieces {
        let n_pieces = if self.workers.is_empty() { 1 } else { PIECES_PER_THREAD * self.n_threads() };
        Pieces { n, len: n.div_ceil(n_pieces).next_multiple_of(grain).max(grain) }
    }

    /// Runs `f(thread, task)` once for every task of `0..n_tasks`, on whichever thread takes it, and returns when all
    /// are done. No thread does two tasks at once.
    ///
    /// A panic in any of them reaches the caller, after all that began have ended. Panics when called while a region
    /// of this pool runs.
    pub fn run(&self, n_tasks: usize, f: impl Fn(usize, usize) + Sync) {
        let shared = &*self.shared;
        assert!(
            !shared.entered.swap(true, Ordering::Acquire),
            "a parallel region of this pool is already running"
        );
        let job: *const (dyn Fn(usize, usize) + Sync + '_) = &f;
        // SAFETY: only the lifetime changes. `f` lives until the end of this function, which first closes the gate and
        // waits until nobody is inside.
        let job: Job = unsafe { std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync + '_), Job>(job) };
        self.open(Region { job: Some(job), n_tasks });
        let own = panic::catch_unwind(AssertUnwindSafe(|| shared.take_tasks(n_tasks, |task| f(0, task))));
        shared.close();
        // Nobody who looked for it while the region ran may have found the time.
        shared.run_errand();
        let theirs = shared.has_panicked.load(Ordering::Relaxed).then(|| shared.take_panic()).flatten();
        shared.entered.store(false, Ordering::Release);
        if let Some(payload) = own.err().or(theirs) {
            panic::resume_unwind(payload);
        }
    }

    /// Sets what [`Pool::send`] has done; once.
    pub fn set_errand(&self, errand: impl Fn() + Send + Sync + 'static) {
        // It is set once, when a server is made.
        let _ = self.shared.errand.set(Box::new(errand));
    }

    /// Has the errand done by a worker that waits for a region, without a system call of the caller's. Where all workers
    /// have parked the caller does it; where they are away it is done after the next region.
    pub fn send(&self) {
        let shared = &*self.shared;
        // SeqCst orders this before the loads of `parked`: a worker either sees it or has parked.
        shared.is_errand_due.0.store(true, Ordering::SeqCst);
        if shared.parked.iter().all(|parked| parked.0.load(Ordering::SeqCst)) {
            shared.run_errand();
        }
    }

    /// Opens the gate for a region, and wakes the workers that parked.
    fn open(&self, region: Region) {
        let shared = &*self.shared;
        // SAFETY: the caller holds `entered`, and the gate was closed until nobody was inside.
        unsafe { *shared.region.get() = region };
        shared.next_task.0.store(0, Ordering::Relaxed);
        let closed = shared.gate.0.load(Ordering::Relaxed);
        // SeqCst orders this before the loads of `parked`: a worker either sees the gate open or is woken.
        shared.gate.0.store(closed + EPOCH + OPEN, Ordering::SeqCst);
        for (worker, parked) in self.workers.iter().zip(&shared.parked) {
            if parked.0.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.open(Region { job: None, n_tasks: 0 });
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a job, so it can only end by returning.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Takes tasks until none is left.
    fn take_tasks(&self, n_tasks: usize, f: impl Fn(usize)) {
        loop {
            let task = self.next_task.0.fetch_add(1, Ordering::Relaxed);
            if task >= n_tasks {
                return;
            }
            f(task);
        }
    }

    /// What a worker panicked with.
    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.has_panicked.store(false, Ordering::Relaxed);
        lock(&self.panic).take()
    }

    /// Does the errand if it is due.
    fn run_errand(&self) {
        if self.is_errand_due.0.load(Ordering::Relaxed)
            && self.is_errand_due.0.swap(false, Ordering::AcqRel)
            && let Some(errand) = self.errand.get()
        {
            errand();
        }
    }

    /// Whether a worker that saw region `seen` has something to do.
    fn is_called(&self, seen: u64) -> bool {
        self.is_open_anew(seen) || self.is_errand_due.0.load(Ordering::SeqCst)
    }

    /// Whether a region is open that is not the one of number `seen`.
    fn is_open_anew(&self, seen: u64) -> bool {
        let gate = self.gate.0.load(Ordering::SeqCst);
        gate & OPEN != 0 && epoch(gate) != seen
    }

    /// Lets a worker in, unless the gate is closed; returns the region's number.
    fn enter(&self) -> Option<u64> {
        let step_in = |gate: u64| (gate & OPEN != 0).then_some(gate + WORKER);
        self.gate.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, step_in).ok().map(epoch)
    }

    /// Lets a worker out; the last one wakes the caller if it parked.
    fn leave(&self) {
        let before = self.gate.0.fetch_sub(WORKER, Ordering::SeqCst);
        if n_inside(before) == 1
            && self.caller_parked.load(Ordering::SeqCst)
            && let Some(caller) = &*lock(&self.caller)
        {
            caller.unpark();
        }
    }

    /// Closes the gate and waits until nobody is inside.
    fn close(&self) {
        let is_empty = || n_inside(self.gate.0.load(Ordering::SeqCst)) == 0;
        self.gate.0.fetch_and(!OPEN, Ordering::SeqCst);
        if spin_until(is_empty) {
            return;
        }
        *lock(&self.caller) = Some(thread::current());
        self.caller_parked.store(true, Ordering::SeqCst);
        while !is_empty() {
            thread::park();
        }
        self.caller_parked.store(false, Ordering::Relaxed);
    }
}

/// The life of worker `thread`.
fn work(shared: &Shared, thread: usize) {
    let mut seen = 0;
    loop {
        if !spin_until(|| shared.is_called(seen)) {
            let parked = &shared.parked[thread - 1].0;
            parked.store(true, Ordering::SeqCst);
            while !shared.is_called(seen) {
                thread::park();
            }
            parked.store(false, Ordering::Relaxed);
        }
        if !shared.is_open_anew(seen) {
            shared.run_errand();
        }
        // It may have closed meanwhile: the others were done.
        let Some(epoch) = shared.enter() else { continue };
        seen = epoch;
        // SAFETY: the region is not written while this worker is inside.
        let Region { job, n_tasks } = unsafe { *shared.region.get() };
        let Some(job) = job else { return };
        // SAFETY: `run` keeps the closure alive until nobody is inside.
        let job = unsafe { &*job };
        let done =
            panic::catch_unwind(AssertUnwindSafe(|| shared.take_tasks(n_tasks, |task| job(thread, task))));
        if let Err(payload) = done {
            lock(&shared.panic).get_or_insert(payload);
            shared.has_panicked.store(true, Ordering::Relaxed);
        }
        shared.leave();
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

/// Locks a mutex whose holders do not panic.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

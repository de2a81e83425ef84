//! A pool of threads for parallel regions of a few microseconds.
//!
//! A decode step of a small model holds hundreds of regions, so starting one must cost about a microsecond.
//! Workers therefore spin between regions, and park when none comes for 0.1 ms, so that an idle process
//! uses no processor time.
//!
//! A region is a number of tasks, of which each thread has a share: neighbours, so that it reads on where it was. It
//! takes from the others' what is left when its own is done, and nobody waits for a worker that has not come: where other
//! processes want the cores too, a worker may be away for milliseconds, and the others do its tasks.
//!
//! Between regions a worker has nothing to do while the caller does what only one thread can. An *errand* is for it then:
//! system calls that the caller must not wait for. Whoever waits, the caller at the end of a region as well, fetches the
//! beginning of what it was told it reads next.

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

use crate::fetch::{fetch, in_turn};

/// How long a thread spins before it parks: longer than the serial work between two regions of one step.
const SPIN: Duration = Duration::from_micros(100);
/// Spins between two looks at the clock: about two microseconds.
const SPINS_PER_LOOK: u32 = 64;
/// Between two looks passed this long: another process took the core, so spinning only keeps it from others.
const PREEMPTED: Duration = Duration::from_micros(50);
/// What a processor fetches at once.
const LINE_BYTES: usize = 64;
/// Lines that a waiting thread fetches between two looks at what it waits for: about as many as can be under way at once.
const LINES_PER_LOOK: usize = 8;
/// Pages from which it fetches them in turn: [`in_turn`] has the reason.
const PAGES: usize = 8;
/// How much of what is next a waiting thread fetches at most: a quarter of the L2 of a server's core.
const NEXT_BYTES: usize = 512 << 10;
/// Stack of a thread that runs kernels: they copy a few rows of activations there.
pub const STACK_BYTES: usize = 8 << 20;
/// A thread that is given a range takes this part of what is left of a share: few pieces, and small ones where the next
/// piece is the last.
const PART: u64 = 4;

/// Threads that work on the tasks of a region together. The caller of [`Pool::run`] is thread 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// The closure of a region, its lifetime erased: it is called with a thread and some tasks.
type Job = *const (dyn Fn(usize, Range<usize>) + Sync);

/// What the gate is opened for.
#[derive(Clone, Copy)]
struct Region {
    /// `None` ends the workers.
    job: Option<Job>,
    /// How many of the tasks left in a share are taken at once: one of so many parts.
    part: u64,
}

struct Shared {
    /// Which region this is, whether it is open, and how many workers are in it. Alone in its cache line, as it is spun
    /// upon.
    gate: Line<AtomicU64>,
    /// Per thread: the tasks of its share that nobody has taken.
    shares: Vec<Line<Share>>,
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
    /// Per thread: what it reads next.
    next: Vec<Line<Next>>,
}

/// Memory that a thread reads next, and how much of it the thread has fetched while it waited.
#[derive(Default)]
struct Next {
    start: AtomicUsize,
    end: AtomicUsize,
    fetched: AtomicUsize,
}

impl Next {
    fn set(&self, bytes: &[u8]) {
        let Range { start, end } = bytes.as_ptr_range();
        self.start.store(start.addr(), Ordering::Relaxed);
        self.end.store(end.addr(), Ordering::Relaxed);
    }

    /// Fetches some more of it; whether anything was left. Only the thread that it is of does that.
    fn fetch_on(&self) -> bool {
        let all = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        let fetched = self.fetched.load(Ordering::Relaxed);
        // What was fetched before was of something else, unless it lies in this.
        let first = if (all.start..=all.end).contains(&fetched) { fetched } else { all.start };
        let some = first..all.end.min(first + LINES_PER_LOOK * LINE_BYTES);
        some.clone().step_by(LINE_BYTES).map(in_turn::<PAGES>).for_each(fetch);
        self.fetched.store(some.end, Ordering::Relaxed);
        !some.is_empty()
    }
}

/// A range of tasks that is taken from both ends: its first task in the lower half, its end in the upper.
#[derive(Default)]
struct Share(AtomicU64);

impl Share {
    fn set(&self, tasks: Range<usize>) {
        self.0.store((tasks.end as u64) << 32 | tasks.start as u64, Ordering::Relaxed);
    }

    /// Takes the first of the tasks left, one of so many parts of them.
    fn take_first(&self, part: u64) -> Option<Range<usize>> {
        self.take(|left| left.start + (left.end - left.start).div_ceil(part)..left.end)
            .map(|(left, rest)| left.start..rest.start)
    }

    /// Takes the last of them.
    fn take_last(&self, part: u64) -> Option<Range<usize>> {
        self.take(|left| left.start..left.end - (left.end - left.start).div_ceil(part))
            .map(|(left, rest)| rest.end..left.end)
    }

    /// Leaves the rest of what is left, if anything is; returns both.
    fn take(&self, rest: impl Fn(Range<u64>) -> Range<u64>) -> Option<(Range<usize>, Range<usize>)> {
        let unpack = |tasks: u64| tasks & u64::from(u32::MAX)..tasks >> 32;
        let rest = |tasks| Some(unpack(tasks)).filter(|left| !left.is_empty()).map(&rest);
        let pack = |tasks: Range<u64>| tasks.end << 32 | tasks.start;
        let whole = |tasks: Range<u64>| tasks.start as usize..tasks.end as usize;
        let before =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tasks| rest(tasks).map(pack)).ok()?;
        Some((whole(unpack(before)), whole(rest(before)?)))
    }
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

impl Pool {
    /// Starts `n_threads - 1` workers.
    ///
    /// They are not pinned: where a core is wanted by another process too, the system may then move what waits for it.
    pub fn new(n_threads: usize) -> Pool {
        let n_workers = n_threads.clamp(1, OPEN as usize) - 1;
        let shared = Arc::new(Shared {
            gate: Line(AtomicU64::new(0)),
            shares: (0..=n_workers).map(|_| Line(Share::default())).collect(),
            region: UnsafeCell::new(Region { job: None, part: 1 }),
            entered: AtomicBool::new(false),
            parked: (0..n_workers).map(|_| Line(AtomicBool::new(false))).collect(),
            caller: Mutex::new(None),
            caller_parked: AtomicBool::new(false),
            panic: Mutex::new(None),
            has_panicked: AtomicBool::new(false),
            errand: OnceLock::new(),
            is_errand_due: Line(AtomicBool::new(false)),
            next: (0..=n_workers).map(|_| Line(Next::default())).collect(),
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

    /// Runs `f(thread, task)` once for every task of `0..n_tasks`, on whichever thread takes it, and returns when all
    /// are done. No thread does two tasks at once.
    ///
    /// A panic in any of them reaches the caller, after all that began have ended. Panics when called while a region
    /// of this pool runs.
    pub fn run(&self, n_tasks: usize, f: impl Fn(usize, usize) + Sync) {
        self.region(n_tasks, u64::MAX, |thread, tasks| tasks.for_each(|task| f(thread, task)));
    }

    /// Runs `f` for pieces of `0..n`, which are multiples of `grain` long except the last; otherwise like
    /// [`Pool::run`].
    pub fn spread(&self, n: usize, grain: usize, f: impl Fn(Range<usize>) + Sync) {
        self.region(n.div_ceil(grain), PART, |_, grains| f(grains.start * grain..n.min(grains.end * grain)));
    }

    fn region(&self, n_tasks: usize, part: u64, f: impl Fn(usize, Range<usize>) + Sync) {
        let shared = &*self.shared;
        assert!(
            !shared.entered.swap(true, Ordering::Acquire),
            "a parallel region of this pool is already running"
        );
        let job: *const (dyn Fn(usize, Range<usize>) + Sync + '_) = &f;
        // SAFETY: only the lifetime changes. `f` lives until the end of this function, which first closes the gate and
        // waits until nobody is inside.
        let job: Job =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize, Range<usize>) + Sync + '_), Job>(job) };
        self.open(Region { job: Some(job), part }, n_tasks);
        let own = panic::catch_unwind(AssertUnwindSafe(|| shared.take_tasks(0, part, |tasks| f(0, tasks))));
        shared.close();
        // Nobody who looked for it while the region ran may have found the time.
        shared.run_errand();
        let theirs = shared.has_panicked.load(Ordering::Relaxed).then(|| shared.take_panic()).flatten();
        shared.entered.store(false, Ordering::Release);
        if let Some(payload) = own.err().or(theirs) {
            panic::resume_unwind(payload);
        }
    }

    /// Says what the next region of `n_tasks` reads, `bytes(tasks)` of some of them: a thread that waits until then fetches
    /// the beginning of its share.
    pub fn announce<'a>(&self, n_tasks: usize, bytes: impl Fn(Range<usize>) -> &'a [u8]) {
        for (thread, next) in self.shared.next.iter().enumerate() {
            let bytes = bytes(self.shared.share(thread, n_tasks));
            next.0.set(&bytes[..bytes.len().min(NEXT_BYTES)]);
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
    fn open(&self, region: Region, n_tasks: usize) {
        let shared = &*self.shared;
        // SAFETY: the caller holds `entered`, and the gate was closed until nobody was inside.
        unsafe { *shared.region.get() = region };
        for (thread, share) in shared.shares.iter().enumerate() {
            share.0.set(shared.share(thread, n_tasks));
        }
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
        self.open(Region { job: None, part: 1 }, 0);
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a job, so it can only end by returning.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// The tasks that are a thread's unless others are done before it.
    fn share(&self, thread: usize, n_tasks: usize) -> Range<usize> {
        let len = n_tasks.div_ceil(self.shares.len());
        n_tasks.min(thread * len)..n_tasks.min((thread + 1) * len)
    }

    /// Takes the tasks of a thread's share in order, then those that others have not come to, from their ends.
    fn take_tasks(&self, thread: usize, part: u64, f: impl Fn(Range<usize>)) {
        while let Some(tasks) = self.shares[thread].0.take_first(part) {
            f(tasks);
        }
        for share in self.shares[thread + 1..].iter().chain(&self.shares[..thread]) {
            while let Some(tasks) = share.0.take_last(part) {
                f(tasks);
            }
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
        if spin_until(is_empty, &self.next[0].0) {
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
        if !spin_until(|| shared.is_called(seen), &shared.next[thread].0) {
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
        let Region { job, part } = unsafe { *shared.region.get() };
        let Some(job) = job else { return };
        // SAFETY: `run` keeps the closure alive until nobody is inside.
        let job = unsafe { &*job };
        let done = panic::catch_unwind(AssertUnwindSafe(|| {
            shared.take_tasks(thread, part, |tasks| job(thread, tasks))
        }));
        if let Err(payload) = done {
            lock(&shared.panic).get_or_insert(payload);
            shared.has_panicked.store(true, Ordering::Relaxed);
        }
        shared.leave();
    }
}

/// Spins until `done`, for [`SPIN`] at most, and fetches what is next meanwhile; gives up sooner when other processes want
/// the core.
fn spin_until(done: impl Fn() -> bool, next: &Next) -> bool {
    let start = Instant::now();
    let mut last_look = start;
    loop {
        for _ in 0..SPINS_PER_LOOK {
            if done() {
                return true;
            }
            if !next.fetch_on() {
                hint::spin_loop();
            }
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

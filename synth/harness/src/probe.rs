//! What this machine reaches: read bandwidth, f32 multiply-adds, and how quiet it is while that is measured.
//!
//! The planner's cost model and every distance to the roofline stand on these numbers, so the loops do nothing but
//! read or nothing but multiply, with the widest vectors there are, and the best of many short runs counts: a
//! ceiling is what the machine does when nobody disturbs it. How much it was disturbed is in [`Noise`].

mod dots;

use std::{
    arch::x86_64::*,
    fs, hint,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};
use synth::target::Isa;

use crate::clocks::{Clocks, disturbance, load_average};

pub use dots::{Dot, DotRate, dot_rates};

/// A machine as found: its name, its sizes and its ceilings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name for itself.
    pub cpu: String,
    /// Instruction sets that the catalogue's kernels can use here, from the plainest to the widest.
    pub isas: Vec<Isa>,
    /// Threads that measured the ceilings together.
    pub threads: usize,
    /// Cores that this process may use.
    pub n_cores: usize,
    /// Memory that this process may use: of the machine, or of its control group where that is less.
    pub memory_bytes: u64,
    /// The last cache before memory.
    pub cache_bytes: usize,
    /// Reading a buffer of four times that cache, all threads together, GB/s.
    pub read_gb_s: f64,
    /// f32 multiply-adds in the widest instruction set of `isas`, all threads together, GFLOP/s (two an FMA).
    pub fma_gflops: f64,
    /// What else went on meanwhile.
    pub noise: Noise,
}

/// How quiet the machine was during the probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Processes that wanted a core, mean of the last minute.
    pub load_average: f64,
    /// Share of all cores' time that the hypervisor gave to others during the probe, where the kernel says.
    pub steal: Option<f64>,
    /// Share of all cores' time that other processes used during the probe, where the kernel says.
    pub foreign: Option<f64>,
    /// Coefficient of variation of a loop that always does the same, 50 µs at a time: 0.01 is quiet.
    pub spin_variation: f64,
}

impl Noise {
    /// Who disturbed the probe, when somebody did: its ceilings may then be too low.
    #[must_use]
    pub fn disturbance(&self) -> Option<String> {
        disturbance(self.steal, self.foreign)
    }
}

/// Why a machine cannot be probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No threads, no measurement.
    #[error("a probe needs at least one thread")]
    NoThreads,
    /// The buffer to stream over does not fit.
    #[error("the probe streams over {needed} bytes, this process may use {memory}: give it more memory")]
    Memory {
        /// Bytes of the buffer.
        needed: usize,
        /// Bytes this process may use.
        memory: u64,
    },
}

/// Most runs of each loop; the best counts.
const MAX_RUNS: usize = 200;
/// No run of a loop begins this long after the first.
const TIME: Duration = Duration::from_millis(300);
/// Largest buffer to stream over: on machines with huge caches the probe must still be quick.
const MAX_BUFFER: usize = 1 << 30;

/// Something that the machine does at most so fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ceiling {
    /// Reading memory.
    Read,
    /// f32 multiply-adds in the widest instruction set.
    Fma,
    /// One of the instructions for dot products.
    Dot(Dot),
}

impl Ceiling {
    /// Its name, as reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Ceiling::Read => "read",
            Ceiling::Fma => "f32 multiply-add",
            Ceiling::Dot(dot) => dot.name(),
        }
    }

    /// What `n_threads` threads reach of it now, in some three tenths of a second: 10⁹ bytes or operations a second.
    #[must_use]
    pub fn reached(self, n_threads: usize) -> f64 {
        let widest = widest();
        match self {
            Ceiling::Read => read_gb_s(n_threads, buffer_bytes(), widest),
            Ceiling::Fma => fma_gflops(n_threads, widest),
            Ceiling::Dot(dot) => dots::gops(dot, n_threads),
        }
    }
}

/// Measures this machine with `n_threads` threads, or with one on each core if those are fewer, in about half a second.
///
/// # Errors
/// When `n_threads` is 0, or a buffer of four times the last cache does not fit into memory.
pub fn probe(n_threads: usize) -> Result<Machine, ProbeError> {
    if n_threads == 0 {
        return Err(ProbeError::NoThreads);
    }
    let n_cores = thread::available_parallelism().map_or(1, usize::from);
    // More threads than cores reach no more, and each would bring its buffer.
    let n_threads = n_threads.min(n_cores);
    let (memory_bytes, cache_bytes, buffer_bytes) = (memory_bytes(), cache_bytes(), buffer_bytes());
    if memory_bytes < 2 * buffer_bytes as u64 {
        return Err(ProbeError::Memory { needed: buffer_bytes, memory: memory_bytes });
    }
    let isas = isas();
    let widest = isas.iter().copied().max().unwrap_or(Isa::Scalar);
    let before = Clocks::read();
    let spin_variation = spin_variation();
    let read_gb_s = read_gb_s(n_threads, buffer_bytes, widest);
    let fma_gflops = fma_gflops(n_threads, widest);
    let shares = before.zip(Clocks::read()).and_then(|(before, after)| after.shares_since(before));
    Ok(Machine {
        cpu: cpu_name(),
        isas,
        threads: n_threads,
        n_cores,
        memory_bytes,
        cache_bytes,
        read_gb_s,
        fma_gflops,
        noise: Noise {
            load_average: load_average(),
            steal: shares.map(|it| it.steal),
            foreign: shares.map(|it| it.foreign),
            spin_variation,
        },
    })
}

/// The instruction sets whose kernels run here, with every feature those kernels are compiled for.
fn isas() -> Vec<Isa> {
    let mut isas = vec![Isa::Scalar];
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        isas.push(Isa::Avx2);
    }
    if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni") {
        isas.push(Isa::Avx512);
        if has_amx() {
            isas.push(Isa::Amx);
        }
    }
    isas
}

fn widest() -> Isa {
    isas().into_iter().max().unwrap_or(Isa::Scalar)
}

/// Whether the processor has AMX with bf16 and int8, and the kernel keeps its state: it then names it.
fn has_amx() -> bool {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    ["amx_tile", "amx_bf16", "amx_int8"].iter().all(|flag| flags.split_whitespace().any(|it| it == *flag))
}

// ---- ceilings --------------------------------------------------------------------------------------------------------

/// The rate of the best run of `work`, all threads at once, in `amount` of all of them per nanosecond.
///
/// Each thread first makes what it works on, on its core, so that memory lies near. Runs are shorter than the time
/// slice of a scheduler: on a busy machine some run undisturbed.
fn best_rate<T>(
    n_threads: usize,
    amount: f64,
    prepare: impl Fn() -> T + Sync,
    work: impl Fn(&T, usize) + Sync,
) -> f64 {
    let cores = cores();
    let (n_arrived, n_runs) = (AtomicUsize::new(0), AtomicUsize::new(MAX_RUNS));
    let epoch = Instant::now();
    let measure = |thread: usize| {
        pin(&cores, thread);
        let data = prepare();
        let mut spans: Vec<(Duration, Duration)> = vec![];
        for run in 0.. {
            // Thread 0 says that a run is not to be before the others can begin it.
            if thread == 0 && spans.first().is_some_and(|(begin, _)| epoch.elapsed() - *begin > TIME) {
                n_runs.fetch_min(run, Ordering::Relaxed);
            }
            n_arrived.fetch_add(1, Ordering::AcqRel);
            while n_arrived.load(Ordering::Acquire) < (run + 1) * n_threads {
                thread::yield_now();
            }
            if run >= n_runs.load(Ordering::Relaxed) {
                break;
            }
            let begin = epoch.elapsed();
            work(&data, run);
            spans.push((begin, epoch.elapsed()));
        }
        spans
    };
    let measure = &measure;
    let spans: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|thread| scope.spawn(move || measure(thread))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let elapsed = |run: usize| {
        let begin = spans.iter().map(|spans| spans[run].0).min().unwrap_or_default();
        let end = spans.iter().map(|spans| spans[run].1).max().unwrap_or_default();
        (end - begin).as_secs_f64()
    };
    let best = (0..spans[0].len()).map(elapsed).fold(f64::INFINITY, f64::min);
    amount / best / 1e9
}

/// Reads `buffer_bytes` round and round, a part to each thread, a window of the part each run.
fn read_gb_s(n_threads: usize, buffer_bytes: usize, isa: Isa) -> f64 {
    /// 8 MiB in whole steps of the widest loop.
    const WINDOW: usize = 1 << 21;
    let n_windows = (buffer_bytes / size_of::<f32>() / n_threads).div_ceil(WINDOW);
    let bytes = (WINDOW * size_of::<f32>() * n_threads) as f64;
    best_rate(
        n_threads,
        bytes,
        || vec![1.0f32; n_windows * WINDOW],
        |values, run| {
            read(&values[run % n_windows * WINDOW..][..WINDOW], isa);
        },
    )
}

/// Reads all values once, with the widest vectors of an instruction set that [`isas`] found.
fn read(values: &[f32], isa: Isa) {
    hint::black_box(match isa {
        // SAFETY: `isas` detected the features.
        Isa::Avx512 | Isa::Amx => unsafe { read_avx512(values) },
        // SAFETY: `isas` detected the features.
        Isa::Avx2 => unsafe { read_avx2(values) },
        Isa::Scalar | Isa::Native => read_scalar(values),
    });
}

/// How fast one thread reads each of some pieces of memory, GB/s: the best of three passes over all of them.
pub fn read_rates(pieces: &[&[f32]]) -> Vec<f64> {
    let isa = widest();
    let mut rates = vec![0.0_f64; pieces.len()];
    for _ in 0..3 {
        for (rate, piece) in rates.iter_mut().zip(pieces) {
            let start = Instant::now();
            read(piece, isa);
            *rate = rate.max(size_of_val(*piece) as f64 / 1e9 / start.elapsed().as_secs_f64());
        }
    }
    rates
}

/// Multiply-adds in registers.
fn fma_gflops(n_threads: usize, isa: Isa) -> f64 {
    const N_ROUNDS: usize = 10_000;
    let n_lanes = match isa {
        Isa::Avx512 | Isa::Amx => 16,
        Isa::Avx2 => 8,
        Isa::Scalar | Isa::Native => 4,
    };
    let flops = (2 * n_lanes * REGISTERS * N_ROUNDS * n_threads) as f64;
    best_rate(
        n_threads,
        flops,
        || hint::black_box(0.999_f32),
        |factor, _| {
            hint::black_box(match isa {
                // SAFETY: `isas` detected the features.
                Isa::Avx512 | Isa::Amx => unsafe { multiply_avx512(*factor, N_ROUNDS) },
                // SAFETY: `isas` detected the features.
                Isa::Avx2 => unsafe { multiply_avx2(*factor, N_ROUNDS) },
                Isa::Scalar | Isa::Native => multiply_scalar(*factor, N_ROUNDS),
            });
        },
    )
}

/// Chains of multiply-adds that run at once: enough to cover a latency of 4 at two a cycle, few enough for registers.
const REGISTERS: usize = 12;

fn read_scalar(values: &[f32]) -> f32 {
    let mut sums = [[0.0f32; 4]; STREAMS];
    let streams = streams(values);
    for at in (0..values.len() / STREAMS).step_by(4) {
        for (sums, stream) in sums.iter_mut().zip(streams) {
            sums.iter_mut().zip(&stream[at..]).for_each(|(sum, value)| *sum += value);
        }
    }
    sums.as_flattened().iter().sum()
}

#[target_feature(enable = "avx2,fma")]
fn read_avx2(values: &[f32]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); STREAMS];
    let streams = streams(values).map(|stream| stream.as_chunks::<8>().0);
    for at in 0..streams[0].len() {
        for (sum, stream) in sums.iter_mut().zip(streams) {
            // SAFETY: 8 values.
            *sum = _mm256_add_ps(*sum, unsafe { _mm256_loadu_ps(stream[at].as_ptr()) });
        }
    }
    _mm256_cvtss_f32(sums.into_iter().fold(_mm256_setzero_ps(), |a, b| _mm256_add_ps(a, b)))
}

#[target_feature(enable = "avx512f")]
fn read_avx512(values: &[f32]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); STREAMS];
    let streams = streams(values).map(|stream| stream.as_chunks::<16>().0);
    for at in 0..streams[0].len() {
        for (sum, stream) in sums.iter_mut().zip(streams) {
            // SAFETY: 16 values.
            *sum = _mm512_add_ps(*sum, unsafe { _mm512_loadu_ps(stream[at].as_ptr()) });
        }
    }
    _mm512_cvtss_f32(sums.into_iter().fold(_mm512_setzero_ps(), |a, b| _mm512_add_ps(a, b)))
}

/// Parts of memory that a thread reads side by side. A processor runs ahead in each page that is read, to its end: one part
/// after the other is less than memory hands over (`rt::fetch` has figures).
const STREAMS: usize = 8;

/// Equal parts of some values, but for what is left.
fn streams(values: &[f32]) -> [&[f32]; STREAMS] {
    let len = values.len() / STREAMS;
    std::array::from_fn(|stream| &values[stream * len..][..len])
}

fn multiply_scalar(factor: f32, n_rounds: usize) -> f32 {
    let mut sums = [[1.0f32; 4]; REGISTERS];
    for _ in 0..n_rounds {
        for sum in sums.as_flattened_mut() {
            *sum = *sum * factor + factor;
        }
    }
    sums.as_flattened().iter().sum()
}

#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(factor: f32, n_rounds: usize) -> f32 {
    let factor = _mm256_set1_ps(factor);
    let mut sums = [factor; REGISTERS];
    for _ in 0..n_rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, factor);
        }
    }
    _mm256_cvtss_f32(sums.into_iter().fold(factor, |a, b| _mm256_add_ps(a, b)))
}

#[target_feature(enable = "avx512f")]
fn multiply_avx512(factor: f32, n_rounds: usize) -> f32 {
    let factor = _mm512_set1_ps(factor);
    let mut sums = [factor; REGISTERS];
    for _ in 0..n_rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, factor);
        }
    }
    _mm512_cvtss_f32(sums.into_iter().fold(factor, |a, b| _mm512_add_ps(a, b)))
}

// ---- the machine -----------------------------------------------------------------------------------------------------

/// The cores this process may use; none where the system does not say.
fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect()
}

/// Keeps a thread on one core. Where that is refused the measurement stands, only noisier.
fn pin(cores: &[usize], thread: usize) {
    if let Some(core) = cores.get(thread % cores.len().max(1)) {
        let mut set = CpuSet::new();
        set.set(*core);
        sched_setaffinity(None, &set).ok();
    }
}

/// The processor's name for itself.
pub(crate) fn cpu_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown x86-64".into(), |(_, name)| name.trim().into())
}

/// Memory of the machine, or of the control group of this process.
fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    let machine = info.totalram as u64 * u64::from(info.mem_unit);
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|max| max.trim().parse().ok());
    group.map_or(machine, |group: u64| group.min(machine))
}

/// Size of the last cache, 32 MiB where the system does not say.
fn cache_bytes() -> usize {
    let size = |index: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        fs::read_to_string(path).ok()?.trim().strip_suffix('K')?.parse::<usize>().ok()
    };
    (0..8).filter_map(size).max().map_or(32 << 20, |kib| kib << 10)
}

/// What is read to measure reading: four times the last cache.
fn buffer_bytes() -> usize {
    (4 * cache_bytes()).min(MAX_BUFFER)
}

/// Times the same loop again and again.
fn spin_variation() -> f64 {
    let times: Vec<f64> = (0..200)
        .map(|_| {
            let start = Instant::now();
            hint::black_box(multiply_scalar(hint::black_box(0.999), 2_000));
            start.elapsed().as_secs_f64()
        })
        .collect();
    let n = times.len() as f64;
    let mean = times.iter().sum::<f64>() / n;
    let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (n - 1.0);
    variance.sqrt() / mean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_found_quickly_and_survives_json() {
        let start = Instant::now();
        let machine = probe(2).expect("two threads");
        // A debug build under load is many times slower than the 1.5 s that a release build keeps to.
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        assert!(machine.n_cores > 0 && machine.memory_bytes > 1 << 28 && machine.isas[0] == Isa::Scalar);
        assert!(machine.read_gb_s > 0.1 && machine.read_gb_s < 10_000.0, "{machine:?}");
        assert!(machine.fma_gflops > 0.01 && machine.fma_gflops < 1e6, "{machine:?}");
        let shares = [machine.noise.steal, machine.noise.foreign];
        assert!(shares.iter().all(|it| it.is_none_or(|share| (0.0..=1.0).contains(&share))), "{machine:?}");
        assert!(machine.noise.spin_variation > 0.0);
        let json = serde_json::to_string(&machine).expect("plain data");
        let back: Machine = serde_json::from_str(&json).expect("what was written");
        assert_eq!((back.cpu, back.isas, back.n_cores), (machine.cpu, machine.isas, machine.n_cores));
    }

    #[test]
    fn no_threads_is_an_error() {
        assert!(matches!(probe(0), Err(ProbeError::NoThreads)));
    }

    /// The loops read and multiply everything they are timed for.
    #[test]
    fn the_loops_do_their_work() {
        let values = vec![1.0; 1280];
        assert_eq!(read_scalar(&values), 1280.0);
        if isas().contains(&Isa::Avx2) {
            // SAFETY: detected.
            assert_eq!(unsafe { read_avx2(&values) }, 160.0);
        }
        if isas().contains(&Isa::Avx512) {
            // SAFETY: detected.
            assert_eq!(unsafe { read_avx512(&values) }, 80.0);
        }
        assert_eq!(multiply_scalar(0.0, 3), 0.0);
        assert_eq!(multiply_scalar(1.0, 3), 4.0 * REGISTERS as f32 * 4.0);
    }
}

//! What each kernel reaches, beside the ceilings that the probe finds on this machine:
//! `cargo run --release -p savile-tests --example kernels_speed [THREADS [NAME]]`, where NAME is part of a row's name.
//!
//! Every round times each kernel once, for less than a scheduler's time slice, so that what else runs on the machine
//! disturbs all alike. A row shows the median of the rounds and the best one; its share is of the ceiling, and of best
//! runs, because the ceiling is one too.

#[path = "../kernels/avx2.rs"]
mod avx2;
#[path = "../kernels/avx512.rs"]
mod avx512;
#[path = "../kernels/scalar.rs"]
mod scalar;

use std::cell::Cell;
use std::ops::Range;
use std::time::Instant;

use half::bf16;
use harness::probe::{Machine, probe};
use rt::columns::Columns;
use rt::pool::Pool;
use synth::target::Isa;

const N_ROUNDS: usize = 60;
/// Weights that no cache holds, as many as the probe streams over.
const BYTES: usize = 1 << 30;
/// Bytes of weights that one run reads.
const WINDOW: usize = 8 << 20;

/// What bounds a kernel.
enum Ceiling {
    Read,
    Multiply,
}

/// One kernel at one shape.
struct Row<'a> {
    name: String,
    ceiling: Ceiling,
    /// Bytes read or floating-point operations done by one run.
    amount: f64,
    run: Box<dyn FnMut() + 'a>,
    seconds: Vec<f64>,
}

impl<'a> Row<'a> {
    fn new(name: String, ceiling: Ceiling, amount: usize, run: impl FnMut() + 'a) -> Self {
        Row { name, ceiling, amount: amount as f64, run: Box::new(run), seconds: vec![] }
    }

    fn time(&mut self) {
        let start = Instant::now();
        (self.run)();
        self.seconds.push(start.elapsed().as_secs_f64());
    }

    fn print(&mut self, machine: &Machine) {
        self.seconds.sort_by(f64::total_cmp);
        let (best, median) = (self.seconds[0], self.seconds[self.seconds.len() / 2]);
        let (unit, ceiling) = match self.ceiling {
            Ceiling::Read => ("GB/s", machine.read_gb_s),
            Ceiling::Multiply => ("GFLOP/s", machine.fma_gflops),
        };
        let rate = |seconds: f64| self.amount / seconds / 1e9;
        let share = 100.0 * rate(best) / ceiling;
        println!("{:<58} {:>9.1} {:>9.1} {unit:<8} {share:>5.0} %", self.name, rate(median), rate(best));
    }
}

type Matmul<W> = fn(&[f32], &[W], Range<usize>, Columns<'_>);
type Attend = fn(&[f32], &[f32], &[f32], &[u32], usize, usize, Range<usize>, &mut [f32], &mut [f32]);

/// Values that no cache holds, handed out in windows: whoever reads one finds it in memory, as it was last read a whole
/// buffer ago, whichever rows run.
struct Stream<W> {
    values: Vec<W>,
    next: Cell<usize>,
}

impl<W: Copy> Stream<W> {
    fn new(value: W) -> Self {
        Stream { values: vec![value; BYTES / size_of::<W>()], next: Cell::new(0) }
    }

    fn window(&self, n: usize) -> &[W] {
        let start = if self.next.get() + n > self.values.len() { 0 } else { self.next.get() };
        self.next.set(start + n);
        &self.values[start..start + n]
    }
}

/// `n_rows` rows of K against windows of the weights.
fn streamed<'a, W: Copy + Sync>(
    name: &str,
    matmul: Matmul<W>,
    (n_rows, k): (usize, usize),
    w: &'a Stream<W>,
    pool: &'a Pool,
) -> Row<'a> {
    let n_cols = WINDOW / size_of::<W>() / k;
    let x = vec![0.5f32; n_rows * k];
    let mut y = vec![0.0f32; n_rows * n_cols];
    let run = move || {
        let (w, y) = (w.window(n_cols * k), Columns::new(&mut y, n_cols));
        each_piece(pool, n_cols, |cols| matmul(&x, w, cols, y));
    };
    let bytes = n_cols * k * size_of::<W>();
    Row::new(format!("{name} {n_rows} × {k}, weights from memory"), Ceiling::Read, bytes, run)
}

/// The columns in pieces, as an emitted crate's `linear` takes them.
fn each_piece(pool: &Pool, n_cols: usize, work: impl Fn(Range<usize>) + Sync) {
    let pieces = pool.pieces(n_cols);
    pool.run(pieces.count(), |_, task| pieces.get(task).into_iter().for_each(&work));
}

/// `n_rows` rows of K against weights that are read once for all of them.
fn reused<'a, W: Copy + Sync>(
    name: &str,
    matmul: Matmul<W>,
    (n_rows, k, n_cols): (usize, usize, usize),
    w: &'a Stream<W>,
    pool: &'a Pool,
) -> Row<'a> {
    let x = vec![0.5f32; n_rows * k];
    let mut y = vec![0.0f32; n_rows * n_cols];
    let w = &w.values[..n_cols * k];
    let run = move || {
        let y = Columns::new(&mut y, n_cols);
        each_piece(pool, n_cols, |cols| matmul(&x, w, cols, y));
    };
    Row::new(format!("{name} {n_rows} × {k} × {n_cols}"), Ceiling::Multiply, 2 * n_rows * k * n_cols, run)
}

/// Every head of a layer over `n_positions`, two query heads to a key head of 128, blocks of 16.
fn attention<'a>(
    name: &str,
    attend: Attend,
    n_positions: usize,
    cache: &'a Stream<f32>,
    pool: &'a Pool,
) -> Row<'a> {
    const N_KV_HEADS: usize = 8;
    let layer = n_positions * N_KV_HEADS * 128;
    let blocks: Vec<u32> = (0..n_positions as u32 / 16).rev().collect();
    let query = [0.1f32; 256];
    let run = move || {
        let (keys, values) = cache.window(2 * layer).split_at(layer);
        pool.run(N_KV_HEADS, |_, head| {
            let (mut scores, mut out) = (vec![0.0; 2 * n_positions], [0.0; 256]);
            let positions = 0..n_positions;
            attend(&query, keys, values, &blocks, head, N_KV_HEADS, positions, &mut scores, &mut out);
            std::hint::black_box(&out);
        });
    };
    Row::new(format!("{name} {n_positions} positions, cache from memory"), Ceiling::Read, 8 * layer, run)
}

/// An elementwise kernel on one thread, 64 rows of 1024 in cache.
fn elementwise<'a>(name: &str, bytes: usize, mut kernel: impl FnMut(&mut [f32], &[f32]) + 'a) -> Row<'a> {
    let (mut x, other) = (vec![0.5f32; 1024], vec![0.25f32; 1024]);
    let run = move || (0..64).for_each(|_| kernel(std::hint::black_box(&mut x), &other));
    Row::new(format!("{name}, from cache, one thread"), Ceiling::Read, 64 * 1024 * bytes, run)
}

/// One matrix product, decoding and prefilling.
macro_rules! products {
    ($isa:ident::$kernel:ident, $w:expr, $pool:expr) => {{
        use $isa::$kernel::matmul;
        let (name, w, pool) = (concat!(stringify!($isa), " ", stringify!($kernel)), $w, $pool);
        let mut rows = vec![];
        for n_rows in [1, 2, 4, 8] {
            rows.push(streamed(name, matmul::<1024>, (n_rows, 1024), w, pool));
        }
        rows.push(streamed(name, matmul::<3072>, (1, 3072), w, pool));
        for n_rows in [16, 64] {
            rows.push(reused(name, matmul::<1024>, (n_rows, 1024, 1024), w, pool));
            rows.push(reused(name, matmul::<3072>, (n_rows, 3072, 1024), w, pool));
        }
        rows
    }};
}

/// What is not a matrix product.
macro_rules! others {
    ($isa:ident, $cache:expr, $pool:expr) => {{
        let name = stringify!($isa);
        let mut out = vec![0.0; 1024];
        vec![
            attention(
                &format!("{name} attention"),
                $isa::attention::attend::<128, 2, 16>,
                1024,
                $cache,
                $pool,
            ),
            elementwise(&format!("{name} norm"), 12, move |x, weight| {
                $isa::norm::rms_norm(x, weight, 1e-6, &mut out);
            }),
            elementwise(&format!("{name} rope"), 12, |x, angles| {
                $isa::rope::rotate(x, &angles[..512], &angles[512..]);
            }),
            elementwise(&format!("{name} silu_mul"), 12, $isa::activation::silu_mul),
        ]
    }};
}

fn main() {
    let n_threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(2);
    let filter = std::env::args().nth(2).unwrap_or_default();
    let machine = match probe(n_threads) {
        Ok(machine) => machine,
        Err(error) => return println!("no probe: {error}"),
    };
    let pool = Pool::new(n_threads);
    let (f32s, bf16s) = (Stream::new(0.01f32), Stream::new(bf16::from_f32(0.01)));
    let mut rows = products!(scalar::matmul_bf16, &bf16s, &pool);
    rows.extend(products!(scalar::matmul_f32, &f32s, &pool));
    rows.extend(others!(scalar, &f32s, &pool));
    if machine.isas.contains(&Isa::Avx2) {
        rows.extend(products!(avx2::matmul_bf16, &bf16s, &pool));
        rows.extend(products!(avx2::matmul_f32, &f32s, &pool));
        rows.extend(others!(avx2, &f32s, &pool));
    }
    if machine.isas.contains(&Isa::Avx512) {
        rows.extend(products!(avx512::matmul_bf16, &bf16s, &pool));
        rows.extend(products!(avx512::matmul_bf16_dot, &bf16s, &pool));
        rows.extend(products!(avx512::matmul_f32, &f32s, &pool));
        rows.extend(others!(avx512, &f32s, &pool));
    }
    rows.retain(|row| row.name.contains(&filter));
    for _ in 0..N_ROUNDS {
        for row in &mut rows {
            row.time();
        }
    }
    println!(
        "{}, {n_threads} threads: {:.1} GB/s read, {:.0} GFLOP/s, load {:.1}{}",
        machine.cpu,
        machine.read_gb_s,
        machine.fma_gflops,
        machine.noise.load_average,
        machine.noise.disturbance().map_or(String::new(), |it| format!(", {it}"))
    );
    println!("{:<58} {:>9} {:>9} {:<8} {:>7}", "", "median", "best", "", "of peak");
    for row in &mut rows {
        row.print(&machine);
    }
}

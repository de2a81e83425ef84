//! What each kernel reaches, beside the ceilings that the probe finds on this machine:
//! `cargo run --release -p savile-tests --example kernels_speed [THREADS]`.
//!
//! Every round times each kernel once, for less than a scheduler's time slice, so that what else runs on the machine
//! disturbs all alike. A row shows the median of the rounds and the best one; its share is of the ceiling, and of best
//! runs, because the ceiling is one too.

#[path = "../kernels/avx2.rs"]
mod avx2;
#[path = "../kernels/scalar.rs"]
mod scalar;

use std::ops::Range;
use std::time::Instant;

use half::bf16;
use harness::probe::{Machine, probe};
use rt::columns::Columns;
use rt::pool::Pool;
use synth::target::Isa;

const N_ROUNDS: usize = 60;
/// Weights that no cache holds: 32 Mi of them.
const N_WEIGHTS: usize = 1 << 25;
/// Weights one run reads.
const WINDOW: usize = 1 << 21;

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
    run: Box<dyn FnMut(usize) + 'a>,
    seconds: Vec<f64>,
}

impl<'a> Row<'a> {
    fn new(name: String, ceiling: Ceiling, amount: usize, run: impl FnMut(usize) + 'a) -> Self {
        Row { name, ceiling, amount: amount as f64, run: Box::new(run), seconds: vec![] }
    }

    fn time(&mut self, round: usize) {
        let start = Instant::now();
        (self.run)(round);
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

/// `n_rows` rows of K against windows of the weights, which together no cache holds.
fn streamed<'a, W: Sync>(
    name: &str,
    matmul: Matmul<W>,
    (n_rows, k): (usize, usize),
    w: &'a [W],
    pool: &'a Pool,
) -> Row<'a> {
    let (n_cols, width) = (w.len() / k, WINDOW / k);
    let x = vec![0.5f32; n_rows * k];
    let mut y = vec![0.0f32; n_rows * n_cols];
    let run = move |round: usize| {
        let first = round * width % (n_cols - width);
        let y = Columns::new(&mut y, n_cols);
        pool.run(|thread| {
            let cols = pool.share(width, thread);
            matmul(&x, w, first + cols.start..first + cols.end, y);
        });
    };
    Row::new(
        format!("{name} {n_rows} × {k}, weights from memory"),
        Ceiling::Read,
        width * k * size_of::<W>(),
        run,
    )
}

/// `n_rows` rows of K against weights that are read once for all of them.
fn reused<'a, W: Sync>(
    name: &str,
    matmul: Matmul<W>,
    (n_rows, k, n_cols): (usize, usize, usize),
    w: &'a [W],
    pool: &'a Pool,
) -> Row<'a> {
    let x = vec![0.5f32; n_rows * k];
    let mut y = vec![0.0f32; n_rows * n_cols];
    let run = move |_| {
        let y = Columns::new(&mut y, n_cols);
        pool.run(|thread| matmul(&x, w, pool.share(n_cols, thread), y));
    };
    Row::new(format!("{name} {n_rows} × {k} × {n_cols}"), Ceiling::Multiply, 2 * n_rows * k * n_cols, run)
}

/// Every head of a layer over `n_positions`, two query heads to a key head of 128, blocks of 16.
fn attention<'a>(name: &str, attend: Attend, n_positions: usize, pool: &'a Pool) -> Row<'a> {
    const N_KV_HEADS: usize = 8;
    const N_LAYERS: usize = 12;
    let layer = n_positions * N_KV_HEADS * 128;
    let cache = vec![0.5f32; 2 * layer * N_LAYERS];
    let blocks: Vec<u32> = (0..n_positions as u32 / 16).rev().collect();
    let query = [0.1f32; 256];
    let run = move |round: usize| {
        let cache = &cache[round % N_LAYERS * 2 * layer..][..2 * layer];
        pool.run(|thread| {
            let (mut scores, mut out) = (vec![0.0; 2 * n_positions], [0.0; 256]);
            for head in (thread..N_KV_HEADS).step_by(pool.n_threads()) {
                let (keys, values) = cache.split_at(layer);
                attend(
                    &query,
                    keys,
                    values,
                    &blocks,
                    head,
                    N_KV_HEADS,
                    0..n_positions,
                    &mut scores,
                    &mut out,
                );
            }
            std::hint::black_box(&out);
        });
    };
    Row::new(format!("{name} {n_positions} positions, cache from memory"), Ceiling::Read, 8 * layer, run)
}

/// An elementwise kernel on one thread, 64 rows of 1024 in cache.
fn elementwise<'a>(name: &str, bytes: usize, mut kernel: impl FnMut(&mut [f32], &[f32]) + 'a) -> Row<'a> {
    let (mut x, other) = (vec![0.5f32; 1024], vec![0.25f32; 1024]);
    let run = move |_| (0..64).for_each(|_| kernel(std::hint::black_box(&mut x), &other));
    Row::new(format!("{name}, from cache, one thread"), Ceiling::Read, 64 * 1024 * bytes, run)
}

macro_rules! rows {
    ($isa:ident, $f32:expr, $bf16:expr, $pool:expr) => {{
        let (name, pool) = (stringify!($isa), $pool);
        let mut rows = vec![];
        for n_rows in [1, 2, 4, 8] {
            let title = format!("{name} matmul_bf16");
            rows.push(streamed(&title, $isa::matmul_bf16::matmul::<1024>, (n_rows, 1024), $bf16, pool));
        }
        for n_rows in [1, 4] {
            let title = format!("{name} matmul_f32");
            rows.push(streamed(&title, $isa::matmul_f32::matmul::<1024>, (n_rows, 1024), $f32, pool));
        }
        for n_rows in [16, 64] {
            let title = format!("{name} matmul_bf16");
            rows.push(reused(&title, $isa::matmul_bf16::matmul::<1024>, (n_rows, 1024, 1024), $bf16, pool));
            rows.push(reused(&title, $isa::matmul_bf16::matmul::<3072>, (n_rows, 3072, 1024), $bf16, pool));
            let title = format!("{name} matmul_f32");
            rows.push(reused(&title, $isa::matmul_f32::matmul::<1024>, (n_rows, 1024, 1024), $f32, pool));
            rows.push(reused(&title, $isa::matmul_f32::matmul::<3072>, (n_rows, 3072, 1024), $f32, pool));
        }
        rows.push(attention(&format!("{name} attention"), $isa::attention::attend::<128, 2, 16>, 1024, pool));
        let mut out = vec![0.0; 1024];
        rows.push(elementwise(&format!("{name} norm"), 12, move |x, weight| {
            $isa::norm::rms_norm(x, weight, 1e-6, &mut out);
        }));
        rows.push(elementwise(&format!("{name} rope"), 12, |x, angles| {
            $isa::rope::rotate(x, &angles[..512], &angles[512..]);
        }));
        rows.push(elementwise(&format!("{name} silu_mul"), 12, $isa::activation::silu_mul));
        rows
    }};
}

fn main() {
    let n_threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(2);
    let machine = match probe(n_threads) {
        Ok(machine) => machine,
        Err(error) => return println!("no probe: {error}"),
    };
    let pool = Pool::new(n_threads);
    let f32_weights = vec![0.01f32; N_WEIGHTS];
    let bf16_weights = vec![bf16::from_f32(0.01); N_WEIGHTS];
    let mut rows = rows!(scalar, &f32_weights, &bf16_weights, &pool);
    if machine.isas.contains(&Isa::Avx2) {
        rows.extend(rows!(avx2, &f32_weights, &bf16_weights, &pool));
    }
    for round in 0..N_ROUNDS {
        for row in &mut rows {
            row.time(round);
        }
    }
    println!(
        "{}, {n_threads} threads: {:.1} GB/s read, {:.0} GFLOP/s, load {:.1}, steal {:.0} %",
        machine.cpu,
        machine.read_gb_s,
        machine.fma_gflops,
        machine.noise.load_average,
        100.0 * machine.noise.steal
    );
    println!("{:<58} {:>9} {:>9} {:<8} {:>7}", "", "median", "best", "", "of peak");
    for row in &mut rows {
        row.print(&machine);
    }
}

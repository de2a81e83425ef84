//! What each kernel reaches, beside the ceilings that the probe finds on this machine:
//! `cargo run --release -p savile-tests --example kernels_speed [THREADS [NAME]]`, where NAME is part of a row's name.
//!
//! Every round times each kernel once, for less than a scheduler's time slice, so that what else runs on the machine
//! disturbs all alike. A row shows the median of the rounds and the best one; its share is of the ceiling, and of best
//! runs, because the ceiling is one too.

#[path = "../kernels/amx.rs"]
mod amx;
#[path = "../kernels/amx_int4.rs"]
mod amx_int4;
#[path = "../kernels/amx_int8.rs"]
mod amx_int8;
#[path = "../kernels/amx_int8_kv.rs"]
mod amx_int8_kv;
#[path = "../kernels/avx2.rs"]
mod avx2;
#[path = "../kernels/avx2_bf16.rs"]
mod avx2_bf16;
#[path = "../kernels/avx2_codes.rs"]
mod avx2_codes;
#[path = "../kernels/avx2_int8_kv.rs"]
mod avx2_int8_kv;
#[path = "../kernels/avx512.rs"]
mod avx512;
#[path = "../kernels/avx512_bf16.rs"]
mod avx512_bf16;
#[path = "../kernels/avx512_codes.rs"]
mod avx512_codes;
#[path = "../kernels/avx512_dot.rs"]
mod avx512_dot;
#[path = "../kernels/avx512_int8_kv.rs"]
mod avx512_int8_kv;
#[path = "../../templates/kernels/cpu/avx512/operand_int8.rs"]
mod avx512_operand_int8;
#[path = "../../templates/kernels/cpu/avx512/operand_bf16.rs"]
mod operand_bf16;
#[path = "../../templates/kernels/cpu/operand_f32.rs"]
mod operand_f32;
#[path = "../../templates/kernels/cpu/operand_int8.rs"]
mod operand_int8;
#[path = "../kernels/scalar.rs"]
mod scalar;
#[path = "../kernels/scalar_bf16.rs"]
mod scalar_bf16;
#[path = "../kernels/scalar_codes.rs"]
mod scalar_codes;
#[path = "../kernels/scalar_int8_kv.rs"]
mod scalar_int8_kv;
#[path = "../../templates/kernels/cpu/store_bf16.rs"]
#[expect(dead_code, reason = "the cache holds one number here")]
mod store_bf16;
#[path = "../../templates/kernels/cpu/store_f32.rs"]
#[expect(dead_code, reason = "the cache holds one number here")]
mod store_f32;
#[path = "../../templates/kernels/cpu/store_int8.rs"]
#[expect(dead_code, reason = "the cache holds one number here")]
mod store_int8;
#[path = "../../templates/kernels/cpu/strip.rs"]
mod strip;
#[path = "../kernels/tuned.rs"]
mod tuned;

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use half::bf16;
use harness::probe::{Machine, probe};
use memmap2::{Advice, Mmap, MmapMut};
use rt::columns::{Columns, Finish, PerRow};
use rt::image::{Int4, Int8, PANEL, Packed, Panels};
use rt::memory::Lines;
use rt::pool::Pool;
use synth::target::Isa;

use scalar_int8_kv::weigh;

const N_ROUNDS: usize = 60;
/// Weights that no cache holds, as many as the probe streams over.
const BYTES: usize = 512 << 20;
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

/// Keys and values of two query heads to a key head of 128, eight key heads, in blocks of 64: more than a cache holds, and
/// handed out in turn.
struct Cache<T> {
    keys: Lines<T>,
    values: Lines<T>,
    /// The blocks, in no order of theirs.
    blocks: Vec<u32>,
    next: Cell<usize>,
    n_cells: usize,
}

const N_HEADS: usize = 8;
const GROUP: usize = 2;
const CHANNELS: usize = 128;
const BLOCK: usize = 64;

impl<T: Copy + Default> Cache<T> {
    /// Where a position of a head has so many cells.
    fn new(value: T, n_cells: usize) -> Self {
        let n_blocks = BYTES / 2 / size_of::<T>() / (N_HEADS * BLOCK * n_cells);
        let cells = || {
            let mut cells = Lines::new(n_blocks * N_HEADS * BLOCK * n_cells);
            cells.fill(value);
            cells
        };
        let blocks = (0..n_blocks as u32).rev().collect();
        Self { keys: cells(), values: cells(), blocks, next: Cell::new(0), n_cells }
    }

    /// The blocks of a sequence that was last read a whole cache ago.
    fn sequence(&self, n_positions: usize) -> &[u32] {
        let n_blocks = n_positions / BLOCK;
        let start = if self.next.get() + n_blocks > self.blocks.len() { 0 } else { self.next.get() };
        self.next.set(start + n_blocks);
        &self.blocks[start..][..n_blocks]
    }
}

/// Weights of any format: every byte is this one, of which f32 and bf16 make 0.01 and codes no zeros.
const BYTE: u8 = 0x3C;

/// Matrices of one shape, a window's bytes each, together more than a cache holds; each asked for in turn.
struct Matrices<W> {
    all: Vec<Panels<W>>,
    next: Cell<usize>,
}

impl<W: Packed> Matrices<W> {
    fn new(map: &Arc<Mmap>, k: usize) -> Self {
        let n_panels = WINDOW / W::panel_bytes(k);
        let matrix = |window: usize| {
            let start = window * WINDOW;
            let bytes = start..start + n_panels * W::panel_bytes(k);
            Panels::of_map(map, bytes, n_panels * PANEL, k).expect("whole panels")
        };
        Self { all: (0..BYTES / WINDOW).map(matrix).collect(), next: Cell::new(0) }
    }

    /// Of K that the layers of Qwen3-0.6B have.
    fn both(map: &Arc<Mmap>) -> [Self; 2] {
        [1024, 3072].map(|k| Self::new(map, k))
    }

    fn next(&self) -> &Panels<W> {
        self.next.set((self.next.get() + 1) % self.all.len());
        &self.all[self.next.get()]
    }
}

/// Stores cells, as those of a product are that is not added to anything: in AVX-512's lanes wherever there are some, for what
/// is compared is the products.
#[derive(Clone, Copy)]
struct Stored<'a> {
    y: Columns<'a>,
    has_avx512: bool,
}

impl Finish for Stored<'_> {
    #[inline(always)]
    fn take(self, panel: usize, first_row: usize, cells: &[[f32; PANEL]]) {
        for (row, cells) in (first_row..).zip(cells) {
            // SAFETY: a panel is one task's.
            let y = unsafe { self.y.cells_mut(row, panel * PANEL) };
            if self.has_avx512 { avx512::cells::put(y, cells) } else { scalar::cells::put(y, cells) }
        }
    }
}

/// All panels in pieces, as an emitted crate's `linear` takes them; every cell is stored.
fn each_piece(pool: &Pool, n_rows: usize, n_panels: usize, work: impl Fn(Range<usize>) + Sync) {
    let grain = if n_rows <= 16 { 1 } else { n_panels.div_ceil(2 * pool.n_threads()) };
    pool.spread(n_panels, grain, work);
}

/// Attention of one layer: the last position of a sequence from memory, its ranges spread over threads; and the last rows of a
/// prompt, in strips. Operations are those at the positions that are seen.
macro_rules! attentions {
    ($isa:ident, $cache:expr, $pool:expr) => {{
        let (cache, pool) = ($cache, $pool);
        let found_len = strip::found_len(CHANNELS);
        let memory = || {
            let queries = vec![0.1f32; 128 * CHANNELS];
            (queries, vec![0.0f32; 128 * found_len], $isa::attend::Scratch::new(CHANNELS))
        };
        let (keys, values) = (&cache.keys[..], &cache.values[..]);
        let past = move |blocks, head| strip::Past { keys, values, blocks, head, n_heads: N_HEADS };
        let mut rows = vec![];
        for n_positions in [1024, 8192] {
            let n_ranges = n_positions / strip::RANGE;
            let mut threads: Vec<_> = (0..pool.n_threads()).map(|_| memory()).collect();
            let run = move || {
                let (blocks, threads) = (cache.sequence(n_positions), Columns::new(&mut threads, 1));
                pool.run(N_HEADS * n_ranges, |thread, task| {
                    // SAFETY: each thread takes its own.
                    let (queries, found, scratch) = unsafe { &mut threads.row_mut(thread, 0..1)[0] };
                    let found = &mut found[..GROUP * found_len];
                    found.chunks_exact_mut(found_len).for_each(strip::nothing);
                    let (past, range) = (past(blocks, task / n_ranges), task % n_ranges);
                    let queries = &queries[..GROUP * CHANNELS];
                    $isa::attend::attend::<CHANNELS, BLOCK>(
                        queries,
                        &past,
                        range,
                        |_| 0..n_positions,
                        scratch,
                        found,
                    );
                });
            };
            let name = format!("{} attention, 1 row of {n_positions}, cache from memory", stringify!($isa));
            let bytes = 2 * n_positions * N_HEADS * cache.n_cells * size_of_val(&cache.keys[0]);
            rows.push(Row::new(name, Ceiling::Read, bytes, run));
        }
        for (n_rows, n_positions) in [(512, 512), (64, 4096)] {
            let strip = 128 / GROUP;
            let mut threads: Vec<_> = (0..pool.n_threads()).map(|_| memory()).collect();
            let blocks = &cache.blocks[..];
            let run = move || {
                let threads = Columns::new(&mut threads, 1);
                pool.run(N_HEADS * n_rows / strip, |thread, task| {
                    let (head, strip_idx) = (task / (n_rows / strip), task % (n_rows / strip));
                    let first = n_positions - n_rows + strip_idx * strip;
                    // SAFETY: each thread takes its own.
                    let (queries, found, scratch) = unsafe { &mut threads.row_mut(thread, 0..1)[0] };
                    found.chunks_exact_mut(found_len).for_each(strip::nothing);
                    let seen = |row: usize| 0..first + row / GROUP + 1;
                    for range in 0..(first + strip).div_ceil(strip::RANGE) {
                        let past = past(blocks, head);
                        $isa::attend::attend::<CHANNELS, BLOCK>(queries, &past, range, seen, scratch, found);
                    }
                    let mut out = [0.0; CHANNELS];
                    for found in found.chunks_exact(found_len) {
                        $isa::merge::share(found, std::hint::black_box(&mut out));
                    }
                });
            };
            let name = format!("{} attention, {n_rows} rows to {n_positions}", stringify!($isa));
            let seen: usize = (n_positions - n_rows + 1..=n_positions).sum();
            rows.push(Row::new(name, Ceiling::Multiply, 4 * seen * N_HEADS * GROUP * CHANNELS, run));
        }
        rows
    }};
}

/// An elementwise kernel on one thread, 64 rows of 1024 in cache.
fn elementwise<'a>(name: &str, bytes: usize, mut kernel: impl FnMut(&mut [f32], &[f32]) + 'a) -> Row<'a> {
    let (mut x, other) = (vec![0.5f32; 1024], vec![0.25f32; 1024]);
    let run = move || (0..64).for_each(|_| kernel(std::hint::black_box(&mut x), &other));
    Row::new(format!("{name}, from cache, one thread"), Ceiling::Read, 64 * 1024 * bytes, run)
}

/// One matrix product: few rows against weights from memory, many against all columns of a matrix.
macro_rules! products {
    ($isa:ident::$kernel:ident $(, $terms:literal)?; $w:expr, $pool:expr) => {{
        let ([narrow, wide], pool) = ($w, $pool);
        let mut rows = vec![];
        for n_rows in [1, 2, 4, 8, 12, 16, 64, 512] {
            rows.push(product!($isa::$kernel, 1024 $(, $terms)?; n_rows, narrow, pool));
            rows.push(product!($isa::$kernel, 3072 $(, $terms)?; n_rows, wide, pool));
        }
        rows
    }};
}

/// The product of `n_rows` rows of K and a matrix.
macro_rules! product {
    ($isa:ident::$kernel:ident, $k:literal $(, $terms:literal)?; $n_rows:expr, $w:expr, $pool:expr) => {{
        let (n_rows, w, pool) = ($n_rows, $w, $pool);
        let n_cols = w.all[0].rows();
        let mut x = $isa::operand::Operand::<$k $(, $terms)?>::new(n_rows);
        // SAFETY: one thread, and one row after the other.
        (0..n_rows).for_each(|row| unsafe { x.rows().row(row) }.set(&[0.5; $k]));
        let mut y = vec![0.0f32; n_rows * n_cols];
        let run = move || {
            let has_avx512 = is_x86_feature_detected!("avx512f");
            let (w, y) = (w.next(), Stored { y: Columns::new(&mut y, n_cols), has_avx512 });
            each_piece(pool, n_rows, w.count(), |panels| {
                $isa::$kernel::matmul(&x, n_rows, w, panels, y);
            });
        };
        let terms: &[usize] = &[$($terms)?];
        let name = format!("{} {}, {n_rows} × {} {terms:?}", stringify!($isa), stringify!($kernel), $k);
        match n_rows {
            ..=16 => Row::new(format!("{name}, weights from memory"), Ceiling::Read, w.all[0].bytes(0..w.all[0].count()).len(), run),
            _ => Row::new(format!("{name} × {n_cols}"), Ceiling::Multiply, 2 * n_rows * $k * n_cols, run),
        }
    }};
}

/// What is not a matrix product.
macro_rules! others {
    ($isa:ident) => {{
        let name = stringify!($isa);
        let (mut out, mut gated) = (vec![0.0; 1024], vec![[0.0; PANEL / 2]; 1024 / PANEL]);
        vec![
            elementwise(&format!("{name} norm"), 12, move |x, weight| {
                $isa::norm::rms_norm(x, weight, 1e-6, &mut out);
            }),
            elementwise(&format!("{name} rope"), 12, |x, angles| {
                $isa::rope::rotate(x, &angles[..512], &angles[512..]);
            }),
            elementwise(&format!("{name} silu_mul"), 6, move |cells, _| {
                for (cells, gated) in cells.as_chunks().0.iter().zip(&mut gated) {
                    $isa::activation::silu_mul(cells, gated);
                }
            }),
            elementwise(&format!("{name} put"), 8, |y, cells| {
                y.as_chunks_mut()
                    .0
                    .iter_mut()
                    .zip(cells.as_chunks().0)
                    .for_each(|(y, cells)| $isa::cells::put(y, cells));
            }),
            elementwise(&format!("{name} add"), 12, |y, cells| {
                y.as_chunks_mut()
                    .0
                    .iter_mut()
                    .zip(cells.as_chunks().0)
                    .for_each(|(y, cells)| $isa::cells::add(y, cells));
            }),
        ]
    }};
}

/// The products with one set of the numbers that a plan may have; each row ends with the name of the set.
macro_rules! tuned {
    ($set:ident; $f32s:expr, $bf16s:expr, $int8s:expr, $int4s:expr, $isas:expr, $pool:expr) => {{
        use tuned::$set::*;
        let isas: &[Isa] = $isas;
        let pool = $pool;
        let mut rows = vec![];
        if isas.contains(&Isa::Avx2) {
            rows.extend(products!(avx2::matmul_bf16; $bf16s, pool));
            rows.extend(products!(avx2::matmul_f32; $f32s, pool));
            rows.extend(products!(avx2_codes::matmul_int8, 128; $int8s, pool));
            rows.extend(products!(avx2_codes::matmul_int4, 64; $int4s, pool));
        }
        if isas.contains(&Isa::Avx512) {
            rows.extend(products!(avx512::matmul_bf16; $bf16s, pool));
            rows.extend(products!(avx512::matmul_f32; $f32s, pool));
            rows.extend(products!(avx512_dot::matmul_bf16_dot, 1; $bf16s, pool));
            rows.extend(products!(avx512_codes::matmul_int8, 128; $int8s, pool));
            rows.extend(products!(avx512_codes::matmul_int4, 64; $int4s, pool));
        }
        if amx::tiles::allowed() {
            rows.extend(products!(amx::matmul_bf16, 1; $bf16s, pool));
            rows.extend(products!(amx::matmul_bf16, 3; $bf16s, pool));
            rows.extend(products!(amx_int8::matmul_int8, 128; $int8s, pool));
            rows.extend(products!(amx_int4::matmul_int4, 64; $int4s, pool));
        }
        println!("{}: {:?}", stringify!($set), tuning::ALL);
        rows.iter_mut().for_each(|row| row.name += concat!(" ", stringify!($set)));
        rows
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
    let f32_cache = &Cache::new(0.01f32, CHANNELS);
    let bf16_cache = &Cache::new(bf16::from_f32(0.01).to_bits(), CHANNELS);
    // Four cells of this are a scale of 0.01 too.
    let int8_cache = &Cache::new(BYTE.cast_signed(), CHANNELS + store_int8::SCALE);
    let mut map = MmapMut::map_anon(BYTES).expect("memory");
    map.advise(Advice::HugePage).ok();
    map.fill(BYTE);
    let map = Arc::new(map.make_read_only().expect("memory"));
    let (f32s, bf16s) = (&Matrices::<f32>::both(&map), &Matrices::<bf16>::both(&map));
    let int8s = (
        &Matrices::<Int8<64>>::both(&map),
        &Matrices::<Int8<128>>::both(&map),
        &Matrices::<Int8<256>>::both(&map),
        &Matrices::<Int8<65536>>::both(&map),
    );
    let int4s = (
        &Matrices::<Int4<32>>::both(&map),
        &Matrices::<Int4<64>>::both(&map),
        &Matrices::<Int4<128>>::both(&map),
    );
    let mut rows = products!(scalar::matmul_bf16; bf16s, &pool);
    rows.extend(products!(scalar::matmul_f32; f32s, &pool));
    rows.extend(products!(scalar_codes::matmul_int8, 128; int8s.1, &pool));
    rows.extend(products!(scalar_codes::matmul_int4, 64; int4s.1, &pool));
    rows.extend(attentions!(scalar, f32_cache, &pool));
    rows.extend(attentions!(scalar_bf16, bf16_cache, &pool));
    rows.extend(attentions!(scalar_int8_kv, int8_cache, &pool));
    rows.extend(others!(scalar));
    if machine.isas.contains(&Isa::Avx2) {
        rows.extend(products!(avx2::matmul_bf16; bf16s, &pool));
        rows.extend(products!(avx2::matmul_f32; f32s, &pool));
        rows.extend(products!(avx2_codes::matmul_int8, 128; int8s.1, &pool));
        rows.extend(products!(avx2_codes::matmul_int4, 64; int4s.1, &pool));
        rows.extend(attentions!(avx2, f32_cache, &pool));
        rows.extend(attentions!(avx2_bf16, bf16_cache, &pool));
        rows.extend(attentions!(avx2_int8_kv, int8_cache, &pool));
        rows.extend(others!(avx2));
    }
    if machine.isas.contains(&Isa::Avx512) {
        rows.extend(products!(avx512::matmul_bf16; bf16s, &pool));
        rows.extend(products!(avx512::matmul_f32; f32s, &pool));
        rows.extend(products!(avx512_dot::matmul_bf16_dot, 1; bf16s, &pool));
        rows.extend(products!(avx512_codes::matmul_int8, 128; int8s.1, &pool));
        rows.extend(products!(avx512_codes::matmul_int4, 64; int4s.1, &pool));
        rows.extend(attentions!(avx512, f32_cache, &pool));
        rows.extend(attentions!(avx512_bf16, bf16_cache, &pool));
        rows.extend(attentions!(avx512_int8_kv, int8_cache, &pool));
        rows.extend(others!(avx512));
    }
    if amx::tiles::allowed() {
        rows.extend(attentions!(amx, bf16_cache, &pool));
        rows.extend(attentions!(amx_int8_kv, int8_cache, &pool));
        rows.extend(products!(amx::matmul_bf16, 1; bf16s, &pool));
        rows.extend(products!(amx::matmul_bf16, 3; bf16s, &pool));
        rows.extend(products!(amx_int8::matmul_int8, 64; int8s.0, &pool));
        rows.extend(products!(amx_int8::matmul_int8, 128; int8s.1, &pool));
        rows.extend(products!(amx_int8::matmul_int8, 256; int8s.2, &pool));
        rows.extend(products!(amx_int8::matmul_int8, 65536; int8s.3, &pool));
        rows.extend(products!(amx_int4::matmul_int4, 32; int4s.0, &pool));
        rows.extend(products!(amx_int4::matmul_int4, 64; int4s.1, &pool));
        rows.extend(products!(amx_int4::matmul_int4, 128; int4s.2, &pool));
    }
    rows.extend(tuned!(usual; f32s, bf16s, int8s.1, int4s.1, &machine.isas, &pool));
    rows.extend(tuned!(far; f32s, bf16s, int8s.1, int4s.1, &machine.isas, &pool));
    rows.extend(tuned!(least; f32s, bf16s, int8s.1, int4s.1, &machine.isas, &pool));
    rows.extend(tuned!(most; f32s, bf16s, int8s.1, int4s.1, &machine.isas, &pool));
    rows.retain(|row| row.name.contains(&filter));
    // Variants of one product come one after the other.
    rows.sort_by(|a, b| a.name.cmp(&b.name));
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

//! Attention of a step: its rows in strips, spread over the threads.
//!
//! A strip is what a step computes of some KV blocks of one sequence. It attends head by head, range by range. Where
//! there are few strips, ranges are spread over threads as well and put together afterwards, in the same order: a row's
//! sum is the same.

use std::ops::Range;

use rt::{
    columns::{Columns, PerRow},
    memory::Lines,
    pool::Pool,
};

use super::{
    attend::{Scratch, attend},
    merge::{merge, share},
    store::store,
    strip::{Past, RANGE, found_len, nothing},
};
use crate::{
    kv::LayerCache,
    scheduler::Row,
    sequence::Sequence,
    shape::{
        BLOCK, CHANNELS, GROUP, HEAD_DIM, KV_WIDTH, MAX_CONTEXT, N_KV_HEADS, N_THREADS, Q_WIDTH, QKV_WIDTH,
        SPLIT_ROWS, STEP_ROWS, STRIP,
    },
};

/// Query rows of a strip: a row for each of its positions and each query head of a key head.
const STRIP_ROWS: usize = STRIP * GROUP;

/// Cells of what a row has found.
const FOUND: usize = found_len(CHANNELS);

/// Ranges of the longest sequence.
const N_RANGES: usize = MAX_CONTEXT.div_ceil(RANGE);

/// Rows of one sequence in a step, in order.
#[derive(Clone, Copy)]
struct Strip {
    first_row: usize,
    n_rows: usize,
}

/// The strips of a step, and memory for what they look for.
pub struct Attention {
    strips: Vec<Strip>,
    threads: Vec<Thread>,
    /// What rows have found in each range, where ranges are spread over threads: FOUND cells for each query head and
    /// range of SPLIT_ROWS rows.
    found: Lines<f32>,
}

/// What one thread looks with.
struct Thread {
    /// (STRIP_ROWS, CHANNELS)
    queries: Lines<f32>,
    /// (STRIP_ROWS, FOUND)
    attended: Lines<f32>,
    scratch: Scratch,
}

impl Attention {
    /// Memory for the largest step.
    pub fn new() -> Self {
        let thread = || Thread {
            queries: Lines::new(STRIP_ROWS * CHANNELS),
            attended: Lines::new(STRIP_ROWS * FOUND),
            scratch: Scratch::new(CHANNELS),
        };
        Self {
            strips: Vec::with_capacity(STEP_ROWS),
            threads: (0..N_THREADS).map(|_| thread()).collect(),
            found: Lines::new(SPLIT_ROWS * N_KV_HEADS * GROUP * N_RANGES * FOUND),
        }
    }

    /// Cuts the rows of a step into strips. No two of them share a KV block.
    pub fn cut(&mut self, rows: &[Row]) {
        self.strips.clear();
        let mut first_row = 0;
        for strip in
            rows.chunk_by(|a, b| a.sequence == b.sequence && a.position / STRIP == b.position / STRIP)
        {
            self.strips.push(Strip { first_row, n_rows: strip.len() });
            first_row += strip.len();
        }
    }

    /// Stores the keys and values of the step's rows, which are behind the queries in `qkv` (n, QKV_WIDTH); `turn`
    /// brings each key to its position.
    pub fn store(
        &self,
        pool: &Pool,
        (rows, running): (&[Row], &[Sequence]),
        cache: &mut LayerCache,
        qkv: &[f32],
        turn: impl Fn(usize, &[f32], &mut [f32]) + Sync,
    ) {
        let blocks = cache.blocks();
        pool.run(self.strips.len(), |_, task| {
            let Strip { first_row, n_rows } = self.strips[task];
            for (row, qkv) in
                rows[first_row..].iter().zip(qkv.chunks_exact(QKV_WIDTH).skip(first_row)).take(n_rows)
            {
                let (key, value) = qkv[Q_WIDTH..].split_at(KV_WIDTH);
                let block = running[row.sequence].table[row.position / BLOCK] as usize;
                // SAFETY: no other strip, and no other sequence, writes to this block.
                let (keys, values) = unsafe { blocks.row(block) };
                let mut turned = [0.0; KV_WIDTH];
                for (key, turned) in key.chunks_exact(HEAD_DIM).zip(turned.chunks_exact_mut(HEAD_DIM)) {
                    turn(row.position, key, turned);
                }
                store::<HEAD_DIM, CHANNELS, BLOCK>(keys, values, row.position % BLOCK, &turned, value);
            }
        });
    }

    /// Attends every row to the positions its sequence has stored so far.
    ///
    /// `qkv` is (n, QKV_WIDTH), queries first, each of which `turn` brings to its position; `out` is (n, Q_WIDTH).
    pub fn attend(
        &mut self,
        pool: &Pool,
        (rows, running): (&[Row], &[Sequence]),
        cache: &LayerCache,
        qkv: &[f32],
        turn: impl Fn(usize, &[f32], &mut [f32]) + Sync,
        out: &mut [f32],
    ) {
        let step = Step { rows, running, cache, qkv, turn, out: Columns::new(out, Q_WIDTH) };
        let threads = Threads(Columns::new(&mut self.threads, 1));
        let n_ranges = self.strips.iter().map(|strip| step.ranges(*strip).end).max().unwrap_or(0);
        if rows.len() > SPLIT_ROWS || n_ranges == 1 {
            together(pool, &step, &self.strips, threads);
        } else {
            apart(pool, &step, &self.strips, n_ranges, threads, &mut self.found);
        }
    }
}

/// Each strip looks at all of its ranges, head by head, as the strips of a prompt then find its keys and values in
/// cache.
fn together(
    pool: &Pool,
    step: &Step<'_, impl Fn(usize, &[f32], &mut [f32]) + Sync>,
    strips: &[Strip],
    threads: Threads<'_>,
) {
    pool.run(N_KV_HEADS * strips.len(), |thread, task| {
        let (head, strip) = (task / strips.len(), strips[task % strips.len()]);
        // SAFETY: a thread does one task at a time.
        let Thread { queries, attended, scratch } = unsafe { threads.of(thread) };
        let queries = step.queries(strip, head, queries);
        let attended = &mut attended[..strip.n_rows * GROUP * FOUND];
        attended.chunks_exact_mut(FOUND).for_each(nothing);
        for range in step.ranges(strip) {
            step.look(strip, head, range, queries, scratch, attended);
        }
        for (row, attended) in attended.chunks_exact(FOUND).enumerate() {
            step.finish(strip, head, row, attended);
        }
    });
}

/// Each range of a strip is looked at by itself, and what was found is put together afterwards.
fn apart(
    pool: &Pool,
    step: &Step<'_, impl Fn(usize, &[f32], &mut [f32]) + Sync>,
    strips: &[Strip],
    n_ranges: usize,
    threads: Threads<'_>,
    found: &mut [f32],
) {
    let found = Columns::new(found, N_RANGES * FOUND);
    // Rows of `found`: head by head, those of the step.
    let row_of =
        |strip: Strip, head: usize, row: usize| (head * step.rows.len() + strip.first_row) * GROUP + row;
    pool.run(strips.len() * N_KV_HEADS * n_ranges, |thread, task| {
        let (strip, head, range) =
            (strips[task / n_ranges / N_KV_HEADS], task / n_ranges % N_KV_HEADS, task % n_ranges);
        if !step.ranges(strip).contains(&range) {
            return;
        }
        // SAFETY: a thread does one task at a time.
        let Thread { queries, attended, scratch } = unsafe { threads.of(thread) };
        let queries = step.queries(strip, head, queries);
        let attended = &mut attended[..strip.n_rows * GROUP * FOUND];
        attended.chunks_exact_mut(FOUND).for_each(nothing);
        step.look(strip, head, range, queries, scratch, attended);
        for (row, attended) in attended.chunks_exact(FOUND).enumerate() {
            let cells = range * FOUND..(range + 1) * FOUND;
            // SAFETY: no two tasks have the same range of the same row and head.
            unsafe { found.row_mut(row_of(strip, head, row), cells) }.copy_from_slice(attended);
        }
    });
    pool.run(strips.len() * N_KV_HEADS, |thread, task| {
        let (strip, head) = (strips[task / N_KV_HEADS], task % N_KV_HEADS);
        // SAFETY: as above.
        let attended = unsafe { &mut threads.of(thread).attended[..FOUND] };
        for row in 0..strip.n_rows * GROUP {
            nothing(attended);
            for range in step.ranges(strip) {
                let cells = range * FOUND..(range + 1) * FOUND;
                // SAFETY: no two tasks have the same row and head, and those that wrote it are done.
                merge(attended, unsafe { found.row_mut(row_of(strip, head, row), cells) });
            }
            step.finish(strip, head, row, attended);
        }
    });
}

/// What the threads look with, each its own.
#[derive(Clone, Copy)]
struct Threads<'a>(Columns<'a, Thread>);

impl<'a> Threads<'a> {
    /// One thread's.
    ///
    /// # Safety
    /// Only this thread takes it, and holds it once.
    unsafe fn of(self, thread: usize) -> &'a mut Thread {
        // SAFETY: as the caller promises.
        unsafe { &mut self.0.row_mut(thread, 0..1)[0] }
    }
}

/// What the strips of a step read and write.
struct Step<'a, T> {
    rows: &'a [Row],
    running: &'a [Sequence],
    cache: &'a LayerCache,
    qkv: &'a [f32],
    /// Makes a query of what is in `qkv`, which stands at this position.
    turn: T,
    out: Columns<'a>,
}

impl<T: Fn(usize, &[f32], &mut [f32])> Step<'_, T> {
    /// The ranges that a strip's rows see something of.
    fn ranges(&self, strip: Strip) -> Range<usize> {
        let (first, last) = (&self.rows[strip.first_row], &self.rows[strip.first_row + strip.n_rows - 1]);
        seen(first.position).start / RANGE..seen(last.position).end.div_ceil(RANGE)
    }

    /// The queries of a strip for one key head, side by side.
    fn queries<'q>(&self, strip: Strip, head: usize, queries: &'q mut [f32]) -> &'q [f32] {
        let queries = &mut queries[..strip.n_rows * GROUP * CHANNELS];
        let rows = self.qkv[strip.first_row * QKV_WIDTH..].chunks_exact(QKV_WIDTH);
        let rows = self.rows[strip.first_row..].iter().zip(rows);
        for (queries, (row, qkv)) in queries.chunks_exact_mut(GROUP * CHANNELS).zip(rows) {
            let heads = qkv[head * GROUP * HEAD_DIM..].chunks_exact(HEAD_DIM);
            for (query, head) in queries.chunks_exact_mut(CHANNELS).zip(heads) {
                (self.turn)(row.position, head, &mut query[..HEAD_DIM]);
            }
        }
        queries
    }

    /// Adds to `attended` what a strip finds in one range.
    fn look(
        &self,
        strip: Strip,
        head: usize,
        range: usize,
        queries: &[f32],
        scratch: &mut Scratch,
        attended: &mut [f32],
    ) {
        let row = &self.rows[strip.first_row];
        let past = Past {
            keys: &self.cache.keys,
            values: &self.cache.values,
            blocks: &self.running[row.sequence].table,
            head,
            n_heads: N_KV_HEADS,
        };
        attend::<CHANNELS, BLOCK>(
            queries,
            &past,
            range,
            |query| seen(row.position + query / GROUP),
            scratch,
            attended,
        );
    }

    /// Writes what a row of a strip has found.
    fn finish(&self, strip: Strip, head: usize, row: usize, attended: &[f32]) {
        let first = (head * GROUP + row % GROUP) * HEAD_DIM;
        // SAFETY: no two tasks have the same row and heads.
        share(attended, unsafe { self.out.row_mut(strip.first_row + row / GROUP, first..first + HEAD_DIM) });
    }
}

/// The positions that one attends to.
fn seen(position: usize) -> Range<usize> {
    0..position + 1
}

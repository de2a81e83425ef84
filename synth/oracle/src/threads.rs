//! Splitting the rows of one result over threads: all the speed that the oracle has.

use std::num::NonZero;
use std::thread;

/// Below this many multiplications a result is made on the calling thread: starting others costs more.
const WORTH_A_THREAD: usize = 1 << 20;

/// Fills `out`, rows of `width` elements, by calling `fill(first_row, rows)` on shares of it.
///
/// `work` is the number of multiplications it all takes. A row must not depend on the share it lands in.
pub fn fill_rows(out: &mut [f32], width: usize, work: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
    let n_threads =
        if work < WORTH_A_THREAD { 1 } else { thread::available_parallelism().map_or(1, NonZero::get) };
    let share = (out.len() / width).div_ceil(n_threads);
    if n_threads == 1 || share == 0 {
        return fill(0, out);
    }
    thread::scope(|scope| {
        for (i, rows) in out.chunks_mut(share * width).enumerate() {
            let fill = &fill;
            scope.spawn(move || fill(i * share, rows));
        }
    });
}

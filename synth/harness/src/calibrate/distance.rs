//! How far two readings of one text are from each other, over the whole vocabulary.

use std::num::NonZero;
use std::thread;

use oracle::{argmax, log_softmax};
use synth::calibration::Divergence;

use crate::prove::{TIE, gap};
use crate::stats::{ascending, mean, percentile};

/// Likeliest tokens of a candidate whose log-probabilities are compared: as many as a proof is shown.
const N_TOP: usize = 5;

/// Everything measured at single positions.
#[derive(Default)]
pub(super) struct Distance {
    at: Vec<Position>,
}

/// One position.
struct Position {
    divergence: f64,
    deltas: Vec<f64>,
    /// Whether the likeliest tokens are the same; `None` where the model's two likeliest are as good as tied.
    same_top: Option<bool>,
}

impl Distance {
    /// Adds a text: what the model says, what the candidate says, and which tokens stand there.
    pub(super) fn add(&mut self, truth: &[Vec<f32>], candidate: &[Vec<f32>], tokens: &[u32]) {
        let rows: Vec<_> = truth.iter().zip(candidate).zip(tokens).collect();
        self.at
            .extend(in_shares(&rows, |((truth, candidate), token)| Position::of(truth, candidate, **token)));
    }

    pub(super) fn divergence(self) -> Divergence {
        let divergences = ascending(self.at.iter().map(|at| at.divergence));
        let deltas = ascending(self.at.iter().flat_map(|at| at.deltas.iter().copied()));
        let judged: Vec<bool> = self.at.iter().filter_map(|at| at.same_top).collect();
        let n_same = judged.iter().filter(|same| **same).count();
        // Where nothing could be measured nothing is kept.
        Divergence {
            kl_mean: rounded(mean(&divergences).unwrap_or(f64::MAX)),
            kl_p999: rounded(percentile(&divergences, 0.999).unwrap_or(f64::MAX)),
            // Where every position is a tie there is no order to agree on.
            same_top: if judged.is_empty() { 1.0 } else { rounded(n_same as f64 / judged.len() as f64) },
            logprob_p99: rounded(percentile(&deltas, 0.99).unwrap_or(f64::MAX)),
        }
    }
}

impl Position {
    fn of(truth: &[f32], candidate: &[f32], token: u32) -> Position {
        let terms = truth.iter().zip(candidate).map(|(p, q)| f64::from(p.exp()) * f64::from(p - q));
        let delta = |token: u32| f64::from(candidate[token as usize] - truth[token as usize]).abs();
        let top = likeliest(candidate);
        let same_top = (gap(truth) >= TIE).then(|| argmax(truth) == top[0]);
        Position {
            // Of equal distributions rounding may leave a crumb below zero.
            divergence: terms.sum::<f64>().max(0.0),
            deltas: top.into_iter().chain([token]).map(delta).collect(),
            same_top,
        }
    }
}

/// The likeliest tokens, likeliest first.
fn likeliest(row: &[f32]) -> Vec<u32> {
    let mut top: Vec<u32> = Vec::with_capacity(N_TOP + 1);
    for token in 0..row.len() as u32 {
        let is_behind = |other: &u32| row[*other as usize] >= row[token as usize];
        if top.len() < N_TOP || !is_behind(&top[N_TOP - 1]) {
            top.insert(top.partition_point(is_behind), token);
            top.truncate(N_TOP);
        }
    }
    top
}

/// Log-probabilities of rows of logits.
pub(super) fn log_probabilities(logits: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    in_shares(&logits, |row| log_softmax(row))
}

/// What `f` makes of each row, computed on all cores.
fn in_shares<T: Sync, R: Send>(rows: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let n_threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = rows.len().div_ceil(n_threads).max(1);
    thread::scope(|scope| {
        let f = &f;
        let threads: Vec<_> = rows
            .chunks(share)
            .map(|rows| scope.spawn(move || rows.iter().map(f).collect::<Vec<R>>()))
            .collect();
        threads
            .into_iter()
            .flat_map(|it| it.join().expect("arithmetic on finite rows never panics"))
            .collect()
    })
}

/// Four significant digits: what a calibration file keeps of a number.
pub(super) fn rounded(x: f64) -> f64 {
    // Every number that can be written can be read.
    format!("{x:.3e}").parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn rows(n: usize, vocab: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut random = Random::new(seed);
        let logits = (0..n).map(|_| (0..vocab).map(|_| 3.0 * random.normal() as f32).collect());
        log_probabilities(logits.collect())
    }

    #[test]
    fn nothing_is_as_near_as_itself() {
        let rows = rows(40, 50, 1);
        let mut distance = Distance::default();
        distance.add(&rows, &rows, &[7; 40]);
        let expected = Divergence { kl_mean: 0.0, kl_p999: 0.0, same_top: 1.0, logprob_p99: 0.0 };
        assert_eq!(distance.divergence(), expected);
    }

    #[test]
    fn a_divergence_is_the_sum_over_the_whole_vocabulary() {
        let truth: Vec<f32> = [0.5f32, 0.25, 0.25].map(f32::ln).to_vec();
        let candidate: Vec<f32> = [0.25f32, 0.5, 0.25].map(f32::ln).to_vec();
        let mut distance = Distance::default();
        distance.add(&[truth], &[candidate], &[2]);
        let found = distance.divergence();
        // 0.5 ln 2 − 0.25 ln 2.
        assert!((found.kl_mean - 0.25 * 2f64.ln()).abs() < 1e-4, "{found:?}");
        assert_eq!((found.same_top, found.kl_p999), (0.0, found.kl_mean));
        assert!((found.logprob_p99 - 2f64.ln()).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn a_tie_is_no_disagreement_and_nothing_is_no_agreement() {
        let truth: Vec<f32> = [0.4f32, 0.4, 0.2].map(f32::ln).to_vec();
        let candidate: Vec<f32> = [0.3f32, 0.5, 0.2].map(f32::ln).to_vec();
        let mut distance = Distance::default();
        distance.add(&[truth], &[candidate], &[0]);
        assert_eq!(distance.divergence().same_top, 1.0);
        assert_eq!(Distance::default().divergence().kl_mean, rounded(f64::MAX));
    }

    #[test]
    fn the_likeliest_come_first_and_equals_by_id() {
        assert_eq!(likeliest(&[0.1, 0.5, 0.3, 0.5, 0.2, 0.0, 0.4]), [1, 3, 6, 2, 4]);
        assert_eq!(likeliest(&[0.1, 0.5]), [1, 0]);
        let row = &rows(1, 300, 9)[0];
        let mut all: Vec<u32> = (0..300).collect();
        all.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        assert_eq!(likeliest(row), all[..N_TOP]);
    }

    #[test]
    fn four_digits_are_kept() {
        assert_eq!((rounded(0.000_123_456), rounded(1.0), rounded(0.0)), (0.000_123_5, 1.0, 0.0));
    }
}

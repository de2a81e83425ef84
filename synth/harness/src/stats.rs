//! Percentiles, and what pairs of measurements say about a ratio.
//!
//! A ratio is always *own ÷ reference*. Every quantity compared is one where less is better (a latency, a memory
//! size, seconds per token), so below 1 means that the own server is better.

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Resamples behind one interval.
const RESAMPLES: usize = 2000;

/// Quantile behind an interval that is to cover 95 %: with ten or so pairs resampling falls about a point short.
const LEVEL: f64 = 0.96;

/// Fewest pairs that may support a verdict; below, any run of luck would.
const FEWEST_PAIRS: usize = 4;

/// Standard normal quantiles: 97.5 % (two-sided 95 %) and 80 % (power).
const Z_975: f64 = 1.959_964;
const Z_80: f64 = 0.841_621;

/// What the pairs say about own ÷ reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval is below 1.
    Faster,
    /// The whole interval is above 1.
    Slower,
    /// The interval contains 1, or there are too few pairs to say.
    NoEvidence,
}

impl Verdict {
    /// The words of reports.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::NoEvidence => "no evidence",
        }
    }
}

/// Own ÷ reference over interleaved pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ratio {
    /// Pairs behind it.
    pub n_pairs: usize,
    /// Lower end of the 95 % bootstrap interval.
    pub lo: f64,
    /// Geometric mean of the ratios of the pairs.
    pub mid: f64,
    /// Upper end of the 95 % bootstrap interval.
    pub hi: f64,
    /// Median of the ratios of the pairs.
    pub median: f64,
    /// Median absolute deviation of those ratios.
    pub mad: f64,
    /// Smallest relative change that this many pairs with this spread would show in 4 of 5 runs, as a fraction;
    /// absent below two pairs.
    pub detectable: Option<f64>,
    /// What it amounts to.
    pub verdict: Verdict,
}

impl Ratio {
    /// The ratio that (own, reference) pairs support, or `None` when no pair has two positive finite numbers; other
    /// pairs are left out. The interval is deterministic in the pairs and `seed`.
    ///
    /// The interval is symmetric about the mean log-ratio; its half-width is the 96 % quantile of the distances
    /// of bootstrapped means from it, stretched by √(n/(n−1)) · t₀.₉₇₅(n−1) / z₀.₉₇₅. The plain percentile interval of
    /// a handful of pairs is too narrow and would call noise a difference.
    #[must_use]
    pub fn of_pairs(pairs: &[(f64, f64)], seed: u64) -> Option<Self> {
        let is_usable = |x: f64| x.is_finite() && x > 0.0;
        let logs: Vec<f64> = pairs
            .iter()
            .filter(|(own, reference)| is_usable(*own) && is_usable(*reference))
            .map(|(own, reference)| own.ln() - reference.ln())
            .collect();
        let n = logs.len();
        let mid = mean(&logs)?;
        let ratios: Vec<f64> = logs.iter().map(|log| log.exp()).collect();

        let stretch = if n < 2 { 1.0 } else { (n as f64 / (n - 1) as f64).sqrt() * t_975(n - 1) / Z_975 };
        let half_width = stretch * percentile(&resampled_distances(&logs, mid, seed), LEVEL)?;
        let (lo, hi) = (mid - half_width, mid + half_width);
        let verdict = match (lo, hi) {
            _ if n < FEWEST_PAIRS => Verdict::NoEvidence,
            (_, hi) if hi < 0.0 => Verdict::Faster,
            (lo, _) if lo > 0.0 => Verdict::Slower,
            _ => Verdict::NoEvidence,
        };
        Some(Self {
            n_pairs: n,
            lo: lo.exp(),
            mid: mid.exp(),
            hi: hi.exp(),
            median: median(&ratios)?,
            mad: mad(&ratios)?,
            detectable: detectable(&logs, mid),
            verdict,
        })
    }

    /// The triple that reports and ledgers keep.
    #[must_use]
    pub fn interval(&self) -> [f64; 3] {
        [self.lo, self.mid, self.hi]
    }
}

/// The `q`-quantile (0 to 1) of ascending values, linear between neighbours; `None` of none.
#[must_use]
pub fn percentile(ascending: &[f64], q: f64) -> Option<f64> {
    let last = ascending.len().checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (ascending[position.floor() as usize], ascending[position.ceil() as usize]);
    Some(below + (above - below) * position.fract())
}

/// Values in ascending order, those that are not numbers left out.
#[must_use]
pub fn ascending(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The median; `None` of none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    percentile(&ascending(values.iter().copied()), 0.5)
}

/// The median absolute deviation from the median; `None` of none.
#[must_use]
pub fn mad(values: &[f64]) -> Option<f64> {
    let centre = median(values)?;
    median(&values.iter().map(|value| (value - centre).abs()).collect::<Vec<_>>())
}

/// The arithmetic mean; `None` of none.
#[must_use]
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Distances from `centre` of the means of resamples drawn with replacement, ascending.
fn resampled_distances(values: &[f64], centre: f64, seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    let n = values.len();
    let mut resampled_mean = || (0..n).map(|_| values[random.below(n)]).sum::<f64>() / n as f64;
    ascending((0..RESAMPLES).map(|_| (resampled_mean() - centre).abs()))
}

/// (t₀.₉₇₅ + z₀.₈) standard errors of the mean log-ratio, as a fraction of 1.
fn detectable(logs: &[f64], mid: f64) -> Option<f64> {
    let n = logs.len();
    if n < 2 {
        return None;
    }
    let variance = logs.iter().map(|log| (log - mid).powi(2)).sum::<f64>() / (n - 1) as f64;
    Some(((t_975(n - 1) + Z_80) * (variance / n as f64).sqrt()).exp_m1())
}

/// The 97.5 % quantile of Student's t. Above ten degrees of freedom Cornish and Fisher's expansion about the normal
/// quantile is right to four digits.
fn t_975(degrees: usize) -> f64 {
    const SMALL: [f64; 10] =
        [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281];
    match degrees {
        0 => f64::INFINITY,
        1..=10 => SMALL[degrees - 1],
        _ => {
            let (z, v) = (Z_975, degrees as f64);
            z + (z.powi(3) + z) / (4.0 * v)
                + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * v * v)
                + (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / (384.0 * v.powi(3))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs whose sides differ by `factor` and by noise of the machine: a common drift, which pairing removes, and
    /// per-side jitter with now and then a spike.
    fn pairs(n: usize, factor: f64, jitter: f64, random: &mut Random) -> Vec<(f64, f64)> {
        (0..n)
            .map(|_| {
                let drift = (0.3 * random.normal()).exp();
                let mut side = || {
                    let spike = if random.below(10) == 0 { 1.0 + 4.0 * jitter } else { 1.0 };
                    drift * spike * (jitter * random.normal()).exp()
                };
                (factor * side(), side())
            })
            .collect()
    }

    #[test]
    fn the_interval_contains_the_estimate_and_the_estimate_lies_among_the_pairs() {
        let mut random = Random::new(1);
        for trial in 0..300 {
            let pairs = pairs(1 + trial % 20, 0.5 + random.uniform(), 0.1, &mut random);
            let ratio = Ratio::of_pairs(&pairs, 3).expect("a ratio");
            let all = ascending(pairs.iter().map(|(own, reference)| own / reference));
            assert!(ratio.lo <= ratio.mid && ratio.mid <= ratio.hi, "{ratio:?}");
            assert!(all[0] <= ratio.mid * (1.0 + 1e-12) && ratio.mid <= all[all.len() - 1] * (1.0 + 1e-12));
        }
    }

    #[test]
    fn units_do_not_matter() {
        let mut random = Random::new(2);
        let in_ms = pairs(9, 0.9, 0.05, &mut random);
        let in_s: Vec<_> = in_ms.iter().map(|(own, reference)| (own / 1e3, reference / 1e3)).collect();
        let (a, b) = (Ratio::of_pairs(&in_ms, 5).expect("ms"), Ratio::of_pairs(&in_s, 5).expect("s"));
        for (a, b) in a.interval().into_iter().zip(b.interval()) {
            assert!((a / b - 1.0).abs() < 1e-9);
        }
        assert_eq!(a.verdict, b.verdict);
    }

    #[test]
    fn swapping_the_sides_inverts_the_interval_and_the_verdict() {
        let mut random = Random::new(3);
        for factor in [0.6, 1.0, 1.7] {
            let there = pairs(8, factor, 0.05, &mut random);
            let back: Vec<_> = there.iter().map(|(own, reference)| (*reference, *own)).collect();
            let (a, b) =
                (Ratio::of_pairs(&there, 5).expect("there"), Ratio::of_pairs(&back, 5).expect("back"));
            assert!((a.lo * b.hi - 1.0).abs() < 1e-9 && (a.mid * b.mid - 1.0).abs() < 1e-9);
            assert!((a.hi * b.lo - 1.0).abs() < 1e-9);
            let swapped = match a.verdict {
                Verdict::Faster => Verdict::Slower,
                Verdict::Slower => Verdict::Faster,
                Verdict::NoEvidence => Verdict::NoEvidence,
            };
            assert_eq!(b.verdict, swapped);
        }
    }

    #[test]
    fn equal_sides_give_no_evidence() {
        for n in [4, 6, 10, 20] {
            let trials = 800;
            let mut random = Random::new(40 + n as u64);
            let quiet = (0..trials)
                .filter(|&seed| {
                    let pairs = pairs(n, 1.0, 0.03, &mut random);
                    Ratio::of_pairs(&pairs, seed).expect("a ratio").verdict == Verdict::NoEvidence
                })
                .count();
            let share = quiet as f64 / trials as f64;
            assert!(share >= 0.95, "{n} pairs: only {share} of the trials saw nothing");
        }
    }

    #[test]
    fn a_clear_difference_is_seen_and_a_detectable_one_in_four_of_five_runs() {
        let mut random = Random::new(6);
        let clear = Ratio::of_pairs(&pairs(6, 0.5, 0.05, &mut random), 1).expect("a ratio");
        assert_eq!(clear.verdict, Verdict::Faster);
        let noise = |random: &mut Random, factor: f64| -> Vec<(f64, f64)> {
            (0..10).map(|_| (factor * (0.05 * random.normal()).exp(), 1.0)).collect()
        };
        let detectable = detectable(&[0.05, -0.05].repeat(5), 0.0).expect("ten pairs");
        let trials = 400;
        let seen = (0..trials)
            .filter(|&seed| {
                let pairs = noise(&mut random, 1.0 + detectable);
                Ratio::of_pairs(&pairs, seed).expect("a ratio").verdict == Verdict::Slower
            })
            .count();
        assert!((0.70..=0.92).contains(&(seen as f64 / trials as f64)), "{seen} of {trials}");
    }

    #[test]
    fn few_pairs_support_no_verdict_and_none_no_ratio() {
        let three = Ratio::of_pairs(&[(1.0, 2.0), (1.0, 2.1), (1.0, 2.0)], 0).expect("a ratio");
        assert_eq!(three.verdict, Verdict::NoEvidence);
        assert!(Ratio::of_pairs(&[], 0).is_none());
        assert!(Ratio::of_pairs(&[(0.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)], 0).is_none());
    }

    #[test]
    fn percentiles_interpolate() {
        assert_eq!(percentile(&[1.0, 2.0, 3.0, 4.0], 0.5), Some(2.5));
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 0.99), Some(2.98));
        assert_eq!(percentile(&[5.0], 0.99), Some(5.0));
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(mad(&[1.0, 2.0, 9.0]), Some(1.0));
    }

    #[test]
    fn students_t_matches_its_table() {
        for (degrees, t) in [(1, 12.706), (4, 2.776), (11, 2.201), (15, 2.131), (30, 2.042), (120, 1.980)] {
            assert!((t_975(degrees) - t).abs() < 6e-4, "{degrees}: {}", t_975(degrees));
        }
    }
}

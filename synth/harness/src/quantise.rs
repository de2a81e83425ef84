//! Rounding of weights and activations to few bits, as the int8 and int4 kernels compute it.
//!
//! A row is cut into groups of consecutive elements, the last of which may be shorter. Each group has one scale, and
//! an element is held as a whole number of scales: its code. Weights are rounded once, with the scale that loses
//! least; activations are rounded before each product, with the scale of their largest element.
//!
//! Where the ideas come from: a scale from the largest magnitude ("absmax") for each row of activations and each
//! output of weights is the vector-wise quantisation of LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339, section 2.1
//! and 3.1). A scale for each group of a row is what GPTQ evaluates as grouping (Frantar et al. 2022, arXiv:2210.17323,
//! section 4, "additional tricks"). Rounding each weight to the nearest code, without looking at data, is the
//! round-to-nearest that both papers compare with. Searching a few shrunken scales for the least squared error is
//! clipping as in ACIQ and OCS (Banner et al. 2019, arXiv:1810.05723; Zhao et al. 2019, arXiv:1901.09504), with a
//! search in place of a model of the distribution.

/// The codes of a format, and the scales that are tried for a group of weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Codes {
    /// Smallest code.
    least: f32,
    /// Largest code.
    most: f32,
    /// Scales to try, each as a share of the weight of largest magnitude over the largest code. The first clips nothing.
    shares: &'static [f32],
    /// Whether scales are held in bf16; else in f32.
    is_bf16_scale: bool,
}

/// Codes −127 to 127, scales in f32. So many codes are rarely worth clipping for.
pub const INT8: Codes =
    Codes { least: -127.0, most: 127.0, shares: &[1.0, 0.98, 0.95, 0.9], is_bf16_scale: false };

/// Codes −8 to 7, scales in bf16. 7/7.5 and 7/8 put the largest magnitude between and onto the two ends of the range.
///
/// The weight of largest magnitude has a negative code: a scale is negative where that weight is not. That end of the range
/// holds one code more, which is a tenth of the squared error of normal weights.
pub const INT4: Codes = Codes {
    least: -8.0,
    most: 7.0,
    shares: &[1.0, 0.95, 7.0 / 7.5, 0.9, 7.0 / 8.0, 0.85, 0.8, 0.75, 0.7],
    is_bf16_scale: true,
};

/// A group whose largest magnitude is below this has the scale that clips nothing: what it could gain is nothing, and
/// the inverse of its scale may be infinite.
const WORTH_A_SEARCH: f32 = 1e-30;

impl Codes {
    /// Rounds rows of `n_in` weights in place: each becomes its code times the scale of its group.
    pub fn round_weights(&self, rows: &mut [f32], n_in: usize, group: usize) {
        for group in rows.chunks_mut(n_in).flat_map(|row| row.chunks_mut(group)) {
            let scale = self.scale(group);
            group.iter_mut().for_each(|weight| *weight = self.code(*weight, scale) * scale);
        }
    }

    /// The scale, as it is stored, with the least squared error over a group of finite weights; of equals the first
    /// that is tried. 0 where every weight is 0, or so small that no scale can be stored.
    pub fn scale(&self, group: &[f32]) -> f32 {
        let largest = largest(group);
        if largest < WORTH_A_SEARCH {
            return self.stored(largest / self.most);
        }
        let sign = if self.is_longer_below() && group.contains(&largest) { -1.0 } else { 1.0 };
        let step = sign * largest / self.most;
        let mut best = (f32::INFINITY, 0.0);
        for share in self.shares {
            let scale = self.stored(step * share);
            let error = self.squared_error(group, scale, largest);
            if error < best.0 {
                best = (error, scale);
            }
        }
        best.1
    }

    /// The code of a weight: to the nearest, ties to even, within the range. Of scale 0 it is 0.
    pub fn code(&self, weight: f32, scale: f32) -> f32 {
        if scale == 0.0 { 0.0 } else { nearest((weight / scale).clamp(self.least, self.most)) }
    }

    /// Σ of the squared errors of a group, in units of its largest magnitude so that nothing overflows.
    fn squared_error(&self, group: &[f32], scale: f32, largest: f32) -> f32 {
        let (unit, inverse) = (scale / largest, 1.0 / scale);
        let error = |weight: f32| {
            let steps = weight * inverse;
            (steps - nearest(steps.clamp(self.least, self.most))) * unit
        };
        // Eight partial sums, which the compiler keeps in vector registers.
        let (chunks, tail) = group.as_chunks::<8>();
        let mut sums = [0.0f32; 8];
        for chunk in chunks {
            for lane in 0..8 {
                let error = error(chunk[lane]);
                sums[lane] += error * error;
            }
        }
        let tail: f32 = tail.iter().map(|weight| error(*weight).powi(2)).sum();
        sums.iter().sum::<f32>() + tail
    }

    /// Whether the range reaches farther below zero than above.
    fn is_longer_below(&self) -> bool {
        -self.least > self.most
    }

    fn stored(&self, scale: f32) -> f32 {
        if self.is_bf16_scale { bf16(scale) } else { scale }
    }
}

/// Rounds rows of `n_in` activations in place to int8: −127 to 127 steps of a 127th of the group's largest magnitude.
///
/// A kernel does this before each product, so each step's inverse is multiplied, not divided by.
pub fn round_activations(rows: &mut [f32], n_in: usize, group: usize) {
    for group in rows.chunks_mut(n_in).flat_map(|row| row.chunks_mut(group)) {
        let largest = largest(group);
        let scale = largest / INT8.most;
        // Of less the inverse may be infinite.
        let inverse = if largest < f32::MIN_POSITIVE * 256.0 { 0.0 } else { INT8.most / largest };
        group.iter_mut().for_each(|x| *x = nearest(*x * inverse) * scale);
    }
}

/// Rounds to bf16 in place: to the nearest, ties to even.
pub fn round_bf16(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = bf16(*x));
}

/// A number as bf16 holds it.
fn bf16(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

/// The largest magnitude of a group.
fn largest(group: &[f32]) -> f32 {
    group.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()))
}

/// The nearest whole number, ties to even, of a number no larger than 2^22.
///
/// Adding 1.5 · 2^23 leaves no bits for a fraction, and addition rounds to the nearest, ties to even. Unlike
/// `round_ties_even` it is an instruction on every processor, so that loops around it become vector code.
fn nearest(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (x + NO_FRACTION) - NO_FRACTION
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const FORMATS: [Codes; 2] = [INT8, INT4];

    /// Rows of every kind that a checkpoint has or could have.
    fn groups() -> Vec<Vec<f32>> {
        let mut random = Random::new(7);
        let mut groups = Vec::new();
        for len in [1, 2, 7, 31, 32, 64, 100, 128, 256] {
            for exponent in [-140, -126, -60, -8, 0, 3, 60, 126] {
                let size = 2f32.powi(exponent);
                groups.push((0..len).map(|_| (random.uniform() as f32 - 0.5) * size).collect());
                // One element a hundred times larger than the rest.
                let mut spiked: Vec<f32> = (0..len).map(|_| random.uniform() as f32 * size / 100.0).collect();
                spiked[len / 2] = -size;
                groups.push(spiked);
            }
        }
        groups.push(vec![f32::MAX / 2.0, -f32::MAX / 2.0, 1.0, 0.0]);
        groups.push(vec![f32::MIN_POSITIVE / 8.0; 5]);
        groups
    }

    /// The squared error with one scale, in f64.
    fn squared_error(codes: Codes, group: &[f32], scale: f32) -> f64 {
        let error = |w: f32| f64::from(w) - f64::from(codes.code(w, scale)) * f64::from(scale);
        group.iter().map(|w| error(*w).powi(2)).sum()
    }

    #[test]
    fn an_error_is_half_a_step_at_most_but_where_the_range_ends() {
        for codes in FORMATS {
            for group in groups() {
                let scale = codes.scale(&group);
                for w in &group {
                    let code = codes.code(*w, scale);
                    assert!(code.fract() == 0.0 && (codes.least..=codes.most).contains(&code), "{code}");
                    let range = f64::from(if *w / scale < 0.0 { -codes.least } else { codes.most });
                    let step = f64::from(scale.abs());
                    let clipped = f64::from(w.abs()) - range * step;
                    // Below this no scale can be stored.
                    let crumb = f64::from(codes.most) * if codes.is_bf16_scale { 1e-40 } else { 1e-45 };
                    let allowed = (step / 2.0).max(clipped).max(crumb) * 1.000_001;
                    let error = (f64::from(*w) - f64::from(code) * f64::from(scale)).abs();
                    assert!(error <= allowed, "{w} of {scale}: {error}");
                }
            }
        }
    }

    #[test]
    fn the_scale_is_no_worse_than_the_one_that_clips_nothing() {
        for codes in FORMATS {
            for group in groups() {
                let plain = codes.stored(largest(&group) / codes.most);
                let (found, plain) =
                    (squared_error(codes, &group, codes.scale(&group)), squared_error(codes, &group, plain));
                assert!(found <= plain * 1.000_01, "{found} > {plain}");
            }
        }
        // A group loses as much as its mirror image.
        for group in groups() {
            let mirrored: Vec<f32> = group.iter().map(|w| -w).collect();
            let (largest, scale) = (largest(&group), INT4.scale(&group));
            let has_two_ends = group.contains(&largest) && group.contains(&-largest);
            assert!(largest < WORTH_A_SEARCH || has_two_ends || INT4.scale(&mirrored) == -scale, "{group:?}");
        }
        // The sign of a scale is worth more than a twentieth of the squared error of normal weights.
        let mut random = Random::new(11);
        let (mut found, mut positive) = (0.0, 0.0);
        for _ in 0..400 {
            let group: Vec<f32> = (0..128).map(|_| random.normal() as f32).collect();
            let of_share =
                |share| squared_error(INT4, &group, INT4.stored(largest(&group) / INT4.most * share));
            found += squared_error(INT4, &group, INT4.scale(&group));
            positive += INT4.shares.iter().copied().map(of_share).fold(f64::INFINITY, f64::min);
        }
        assert!(found < 0.95 * positive, "{found} of {positive}");
        // Where one element stands out, clipping it serves the others better.
        let mut group = [0.4f32; 128];
        group[3] = 1.0;
        let gained = squared_error(INT4, &group, INT4.scale(&group))
            / squared_error(INT4, &group, INT4.stored(1.0 / 7.0));
        assert!(gained < 0.9, "{gained}");
    }

    #[test]
    fn zeros_have_scale_zero_and_nothing_finite_becomes_nan() {
        for codes in FORMATS {
            assert_eq!(codes.scale(&[0.0, -0.0, 0.0]), 0.0);
            let mut rows = [0.0; 12];
            codes.round_weights(&mut rows, 6, 4);
            assert_eq!(rows, [0.0; 12]);
            for mut group in groups() {
                let n = group.len();
                codes.round_weights(&mut group, n, 16);
                assert!(group.iter().all(|w| w.is_finite()), "{group:?}");
                round_activations(&mut group, n, 16);
                assert!(group.iter().all(|w| w.is_finite()), "{group:?}");
            }
        }
        let mut none = [0.0f32; 5];
        round_activations(&mut none, 5, 2);
        assert_eq!(none, [0.0; 5]);
    }

    #[test]
    fn ties_go_to_even_as_the_processor_rounds() {
        let mut random = Random::new(3);
        for x in [0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -7.5, 0.49999997] {
            assert_eq!(nearest(x), x.round_ties_even(), "{x}");
        }
        for _ in 0..10_000 {
            let x = (random.uniform() as f32 - 0.5) * 300.0;
            assert_eq!(nearest(x), x.round_ties_even(), "{x}");
            assert_eq!(bf16(x), half::bf16::from_f32(x).to_f32(), "{x}");
        }
        for x in
            [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, f32::MAX, f32::MIN_POSITIVE / 3.0, f32::INFINITY, -0.0]
        {
            assert_eq!(bf16(x).to_bits(), half::bf16::from_f32(x).to_f32().to_bits(), "{x}");
        }
        // The scale of this row is exactly one.
        let mut row = [127.0, 0.5, 1.5, -2.5, 3.5];
        round_activations(&mut row, 5, 5);
        assert_eq!(row, [127.0, 0.0, 2.0, -2.0, 4.0]);
    }

    #[test]
    fn a_group_ends_with_its_row_and_changes_no_other() {
        let mut random = Random::new(5);
        let rows: Vec<f32> = (0..3 * 10).map(|_| random.uniform() as f32 - 0.5).collect();
        for codes in FORMATS {
            let mut together = rows.clone();
            codes.round_weights(&mut together, 10, 4);
            for (row, together) in rows.chunks(10).zip(together.chunks(10)) {
                // Two whole groups and one of two elements.
                let mut apart = row.to_vec();
                apart.chunks_mut(4).for_each(|group| codes.round_weights(group, group.len(), 4));
                assert_eq!(apart, together);
            }
        }
        let mut coarse = rows.clone();
        round_activations(&mut coarse, 10, 64);
        let mut fine = rows.clone();
        round_activations(&mut fine, 10, 4);
        let error =
            |rounded: &[f32]| -> f32 { rounded.iter().zip(&rows).map(|(a, b)| (a - b).powi(2)).sum() };
        assert!(error(&fine) < error(&coarse));
    }

    #[test]
    fn rounding_twice_is_rounding_once() {
        for mut group in groups() {
            let n = group.len();
            round_activations(&mut group, n, 32);
            let once = group.clone();
            round_activations(&mut group, n, 32);
            let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= a.abs() * 1e-6;
            assert!(once.iter().zip(&group).all(is_near), "{once:?}");
        }
    }
}

//! Seeded random numbers: the same seed gives the same schedule, prompts and intervals on every machine.

/// A SplitMix64 sequence: one word of state, good enough to draw traffic and to resample.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// Uniform in (0, 1): never an end, so that logarithms of it are finite.
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.next_u64() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Uniform in `0..n`; `n` must not be 0. The bias of the multiply is below `n` / 2⁶⁴.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Exponential with mean 1: the gap between arrivals of a Poisson process of rate 1.
    pub(crate) fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    /// Standard normal, by Box and Muller.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut random = Random::new(7);
        let n = 100_000;
        let mean = |draws: &[f64]| draws.iter().sum::<f64>() / draws.len() as f64;
        let uniform: Vec<f64> = (0..n).map(|_| random.uniform()).collect();
        let exponential: Vec<f64> = (0..n).map(|_| random.exponential()).collect();
        let normal: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let squares: Vec<f64> = normal.iter().map(|x| x * x).collect();
        assert!((mean(&uniform) - 0.5).abs() < 0.01);
        assert!((mean(&exponential) - 1.0).abs() < 0.02);
        assert!(mean(&normal).abs() < 0.02);
        assert!((mean(&squares) - 1.0).abs() < 0.03);
        assert!((0..n).all(|_| random.below(3) < 3));
    }
}

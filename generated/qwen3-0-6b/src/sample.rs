//! How a token is chosen from one row of logits.
//!
//! The order is the one that users of vLLM know: bias, minimum length and penalties change the logits; then
//! temperature, top-k, min-p and top-p narrow them; then one number drawn from the request's seed and the token's
//! position picks. Nothing else enters, so a request answers the same at any load.

use std::cmp::Ordering;

use rt::{
    image::PANEL,
    request::{Sampling, TokenLogprobs},
};

use crate::{
    forward::Logits,
    sequence::Sequence,
    shape::{EOS, VOCAB},
};

/// Memory for choosing, taken once.
pub struct Sampler {
    /// Logits as the request bends them, (VOCAB).
    bent: Vec<f32>,
    /// Tokens still in the running, (at most VOCAB).
    candidates: Vec<u32>,
}

impl Sampler {
    /// Takes the memory for one row.
    pub fn new() -> Self {
        Self { bent: vec![0.0; VOCAB], candidates: Vec::with_capacity(VOCAB) }
    }

    /// The next token of a sequence, given the logits of its last one.
    pub fn choose(&mut self, logits: Logits<'_>, sequence: &Sequence) -> u32 {
        let sampling = &sequence.request.sampling;
        if sampling.temperature == 0.0 && !is_bent(sequence) {
            return likeliest(logits);
        }
        self.bent.copy_from_slice(logits.all);
        self.bend(sequence);
        if sampling.temperature == 0.0 {
            return argmax(&self.bent) as u32;
        }
        self.narrow(sampling);
        self.draw(uniform(sampling.seed, sequence.tokens.len() as u64))
    }

    /// Applies what depends on the tokens so far: bias, minimum length, penalties.
    fn bend(&mut self, sequence: &Sequence) {
        let sampling = &sequence.request.sampling;
        for (token, bias) in &sampling.logit_bias {
            self.bent[*token as usize] += bias;
        }
        if sequence.n_generated() < sampling.min_tokens {
            for token in ends(sampling) {
                self.bent[token as usize] = f32::NEG_INFINITY;
            }
        }
        if sampling.repetition_penalty != 1.0 {
            self.collect_distinct(&sequence.tokens);
            for token in &self.candidates {
                let logit = &mut self.bent[*token as usize];
                *logit = if *logit > 0.0 {
                    *logit / sampling.repetition_penalty
                } else {
                    *logit * sampling.repetition_penalty
                };
            }
        }
        if sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0 {
            let sampled = &sequence.tokens[sequence.request.prompt.len()..];
            for token in sampled {
                self.bent[*token as usize] -= sampling.frequency_penalty;
            }
            self.collect_distinct(sampled);
            for token in &self.candidates {
                self.bent[*token as usize] -= sampling.presence_penalty;
            }
        }
    }

    fn collect_distinct(&mut self, tokens: &[u32]) {
        self.candidates.clear();
        self.candidates.extend_from_slice(tokens);
        self.candidates.sort_unstable();
        self.candidates.dedup();
    }

    /// Turns bent logits into weights, the largest 1, and keeps the candidates that top-k, min-p and top-p leave.
    fn narrow(&mut self, sampling: &Sampling) {
        let max = self.bent.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for logit in &mut self.bent {
            *logit = ((*logit - max) / sampling.temperature).exp();
        }
        let weights = &self.bent;
        self.candidates.clear();
        self.candidates.extend((0..VOCAB as u32).filter(|token| weights[*token as usize] >= sampling.min_p));
        if let Some(top_k) = sampling.top_k
            && top_k < self.candidates.len()
        {
            self.candidates.select_nth_unstable_by(top_k, likelier(weights));
            self.candidates.truncate(top_k);
        }
        if sampling.top_p < 1.0 {
            let n_kept = self.nucleus(sampling.top_p);
            self.candidates.truncate(n_kept);
        }
    }

    /// How many of the likeliest candidates hold `top_p` of the mass (Holtzman et al. 2019, section 3.1), at least one.
    ///
    /// They are brought to the front, in order: the likeliest 64, then eight times as many, until there is mass enough,
    /// so that little more of the vocabulary is sorted than is kept.
    fn nucleus(&mut self, top_p: f32) -> usize {
        let weights = &self.bent;
        let total: f32 = self.candidates.iter().map(|token| weights[*token as usize]).sum();
        let (mut mass, mut n_kept, mut width) = (0.0, 0, 64);
        while n_kept < self.candidates.len() {
            let rest = &mut self.candidates[n_kept..];
            if width < rest.len() {
                rest.select_nth_unstable_by(width, likelier(weights));
            }
            let n_likeliest = width.min(rest.len());
            let likeliest = &mut rest[..n_likeliest];
            likeliest.sort_unstable_by(likelier(weights));
            for token in likeliest {
                if mass >= top_p * total {
                    return n_kept.max(1);
                }
                mass += weights[*token as usize];
                n_kept += 1;
            }
            width *= 8;
        }
        n_kept
    }

    /// The candidate under which a point of the unit interval falls.
    fn draw(&self, point: f64) -> u32 {
        let weight = |token: &u32| f64::from(self.bent[*token as usize]);
        let mut rest = point * self.candidates.iter().map(weight).sum::<f64>();
        for token in &self.candidates {
            rest -= weight(token);
            if rest < 0.0 {
                return *token;
            }
        }
        // Rounding may leave a crumb beyond the last candidate.
        self.candidates.last().copied().unwrap_or(0)
    }
}

/// Whether anything changes the logits before a token is chosen.
fn is_bent(sequence: &Sequence) -> bool {
    let sampling = &sequence.request.sampling;
    !sampling.logit_bias.is_empty()
        || sequence.n_generated() < sampling.min_tokens
        || sampling.repetition_penalty != 1.0
        || sampling.presence_penalty != 0.0
        || sampling.frequency_penalty != 0.0
}

/// The order of tokens by their weights, the heaviest first; the lower id where they weigh the same.
fn likelier(weights: &[f32]) -> impl Fn(&u32, &u32) -> Ordering {
    |a, b| weights[*b as usize].total_cmp(&weights[*a as usize]).then(a.cmp(b))
}

/// The log-probability of `token` under logits (VOCAB), and the `n_top` likeliest tokens with theirs.
pub fn logprobs(logits: &[f32], token: u32, n_top: usize) -> TokenLogprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let log_total = logits.iter().map(|logit| f64::from((logit - max).exp())).sum::<f64>().ln() as f32;
    let logprob = |token: u32| logits[token as usize] - max - log_total;
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(n_top + 1);
    for candidate in 0..VOCAB as u32 {
        let value = logits[candidate as usize];
        let rank = top.partition_point(|(other, _)| logits[*other as usize] >= value);
        if rank < n_top {
            top.truncate(n_top - 1);
            top.insert(rank, (candidate, logprob(candidate)));
        }
    }
    TokenLogprobs { logprob: logprob(token), top }
}

/// The tokens that end an answer.
pub fn ends(sampling: &Sampling) -> impl Iterator<Item = u32> {
    let eos = if sampling.ignore_eos { &[] } else { EOS };
    eos.iter().chain(&sampling.stop_token_ids).copied()
}

/// The token with the largest logit, the lowest id among equals: the first in the first panel that has it.
fn likeliest(Logits { all, peaks }: Logits<'_>) -> u32 {
    let first = argmax(peaks) * PANEL;
    (first + argmax(&all[first..VOCAB.min(first + PANEL)])) as u32
}

/// Where the first of the largest is.
fn argmax(values: &[f32]) -> usize {
    // Sixteen at a time, which the compiler compares at once.
    let (chunks, rest) = values.as_chunks::<16>();
    let mut largest = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (largest, value) in largest.iter_mut().zip(chunk) {
            *largest = if value > largest { *value } else { *largest };
        }
    }
    let largest = largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter().position(|value| *value == largest).unwrap_or(0)
}

/// A number in [0, 1) from a request's seed and a token's position: SplitMix64 (Steele et al. 2014) of both.
fn uniform(seed: u64, position: u64) -> f64 {
    let mixed = splitmix(splitmix(seed) ^ position);
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

fn splitmix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

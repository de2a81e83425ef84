//! Traffic from a spec: when requests come, how long they are, what they hold.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use synth::workload::{Lengths, Message, Sample, SampleInput, SpecErrors};

use super::{Request, Target};
use crate::client::ClientError;
use crate::random::Random;

/// The standard normal quantile of 99 %.
const Z_99: f64 = 2.326_348;

/// Why traffic cannot be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum TrafficError {
    #[error("cannot tokenise request {sample} of the samples: {reason}")]
    Tokenise { sample: usize, reason: String },
    #[error(transparent)]
    Spec(#[from] SpecErrors),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// One real request, as prompt token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSample {
    /// Prompt token ids.
    pub prompt: Vec<u32>,
    /// Output tokens that the request asks for, where it says.
    pub max_tokens: Option<usize>,
}

/// Makes requests of a spec's lengths. Each real sample is used once, so that no server answers from a cache what the
/// other computes; after the last one prompts are random ids.
#[derive(Debug)]
pub struct Synthesis {
    prompt: Lengths,
    output: Lengths,
    /// Most positions of prompt and output together.
    context: usize,
    /// Ids to draw from.
    ids: Range<u32>,
    /// Ids among them that end an answer or mean something to a server.
    avoid: Vec<u32>,
    samples: std::vec::IntoIter<TokenSample>,
    random: Random,
}

impl Synthesis {
    /// Requests of these lengths, with random prompts from `ids` without `avoid`, and with `samples` first.
    /// `ids` must hold more than what is avoided, and `context` at least two positions.
    #[must_use]
    pub fn new(
        (prompt, output): (Lengths, Lengths),
        context: usize,
        (ids, avoid): (Range<u32>, Vec<u32>),
        samples: Vec<TokenSample>,
        seed: u64,
    ) -> Self {
        let random = Random::new(seed);
        Self { prompt, output, context, ids, avoid, samples: samples.into_iter(), random }
    }

    /// The next request of the spec's traffic: a sample while there are some, else one of drawn lengths.
    pub fn request(&mut self) -> Request {
        let output = self.length(self.output);
        match self.samples.next() {
            Some(sample) => {
                let mut prompt = sample.prompt;
                prompt.truncate(self.prompt.max.min(self.context - 1));
                let wanted = sample.max_tokens.unwrap_or(output).min(self.output.max);
                let max_tokens = wanted.clamp(1, self.context - prompt.len());
                Request { prompt, max_tokens }
            }
            None => {
                let prompt = self.length(self.prompt);
                self.sized(prompt, output)
            }
        }
    }

    /// A request of random ids with these lengths, cut to the context.
    pub fn sized(&mut self, n_prompt: usize, max_tokens: usize) -> Request {
        let n_prompt = n_prompt.clamp(1, self.context - 1);
        let max_tokens = max_tokens.clamp(1, self.context - n_prompt);
        let prompt = (0..n_prompt).map(|_| self.id()).collect();
        Request { prompt, max_tokens }
    }

    /// A length from the log-normal distribution with these percentiles, cut at the longest.
    fn length(&mut self, lengths: Lengths) -> usize {
        let (p50, p99) = (lengths.p50 as f64, lengths.p99 as f64);
        let sigma = (p99 / p50).ln() / Z_99;
        let drawn = p50 * (sigma * self.random.normal()).exp();
        (drawn.round() as usize).clamp(1, lengths.max)
    }

    fn id(&mut self) -> u32 {
        let n_ids = (self.ids.end - self.ids.start) as usize;
        loop {
            let id = self.ids.start + self.random.below(n_ids) as u32;
            if !self.avoid.contains(&id) {
                return id;
            }
        }
    }
}

/// `n` arrivals of a Poisson process of `rate` per second; the first comes at once, since what is before it is idle.
#[must_use]
pub fn poisson(n: usize, rate: f64, seed: u64) -> Vec<Duration> {
    let mut random = Random::new(seed);
    let mut at = 0.0;
    (0..n)
        .map(|idx| {
            at += if idx == 0 { 0.0 } else { random.exponential() / rate };
            Duration::from_secs_f64(at)
        })
        .collect()
}

/// Real requests as token ids: the server's own `/tokenize` says which.
///
/// # Errors
/// When the server does not tokenise one of them; the message counts them from 1.
pub async fn tokenise(samples: &[Sample], server: &Target) -> Result<Vec<TokenSample>, TrafficError> {
    let mut tokenised = Vec::new();
    for (idx, sample) in samples.iter().enumerate() {
        let ask = match &sample.input {
            SampleInput::Prompt(prompt) => json!({ "prompt": prompt }),
            SampleInput::Messages(messages) => {
                let turn = |turn: &Message| json!({ "role": turn.role, "content": turn.content });
                let messages: Vec<Value> = messages.iter().map(turn).collect();
                json!({ "messages": messages, "add_generation_prompt": true })
            }
        };
        let reply = server.client().post("/tokenize", &ask).await?;
        let ids = reply.body.get("tokens").and_then(|tokens| Vec::<u32>::deserialize(tokens).ok());
        let Some(prompt) = ids.filter(|ids| !ids.is_empty()) else {
            let reason = format!("{}: {}", reply.status, reply.body);
            return Err(TrafficError::Tokenise { sample: idx + 1, reason });
        };
        tokenised.push(TokenSample { prompt, max_tokens: sample.max_tokens });
    }
    Ok(tokenised)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{ascending, percentile};

    const PROMPT: Lengths = Lengths { p50: 128, p99: 480, max: 1024 };
    const OUTPUT: Lengths = Lengths { p50: 48, p99: 160, max: 256 };

    fn synthesis(samples: Vec<TokenSample>, seed: u64) -> Synthesis {
        Synthesis::new((PROMPT, OUTPUT), 1280, (0..100, vec![7, 8]), samples, seed)
    }

    #[test]
    fn lengths_have_the_percentiles_asked_for() {
        let mut synthesis = synthesis(vec![], 1);
        let lengths = ascending((0..20_000).map(|_| synthesis.length(PROMPT) as f64));
        assert!((percentile(&lengths, 0.5).expect("p50") / 128.0 - 1.0).abs() < 0.03);
        assert!((percentile(&lengths, 0.99).expect("p99") / 480.0 - 1.0).abs() < 0.06);
        assert!(lengths[0] >= 1.0 && lengths[lengths.len() - 1] <= 1024.0);
    }

    #[test]
    fn requests_are_legal_and_repeatable_and_differ_from_each_other() {
        let draw = |seed| -> Vec<Request> {
            let mut synthesis = synthesis(vec![], seed);
            (0..200).map(|_| synthesis.request()).collect()
        };
        let requests = draw(3);
        for request in &requests {
            assert!(!request.prompt.is_empty() && request.max_tokens >= 1);
            assert!(request.prompt.len() + request.max_tokens <= 1280);
            assert!(request.prompt.iter().all(|id| *id < 100 && *id != 7 && *id != 8));
        }
        assert_eq!(requests, draw(3));
        assert_ne!(requests, draw(4));
        assert_ne!(requests[0].prompt, requests[1].prompt);
    }

    #[test]
    fn samples_come_first_and_once() {
        let sample = TokenSample { prompt: vec![1, 2, 3], max_tokens: Some(9) };
        let long = TokenSample { prompt: vec![1; 5000], max_tokens: None };
        let mut synthesis = synthesis(vec![sample, long], 1);
        assert_eq!(synthesis.request(), Request { prompt: vec![1, 2, 3], max_tokens: 9 });
        assert_eq!(synthesis.request().prompt.len(), 1024);
        assert_ne!(synthesis.request().prompt, vec![1, 2, 3]);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_ascend() {
        let at = poisson(4001, 4.0, 2);
        assert_eq!(at[0], Duration::ZERO);
        assert!(at.is_sorted());
        let rate = 4000.0 / at[4000].as_secs_f64();
        assert!((rate / 4.0 - 1.0).abs() < 0.06, "{rate}");
    }
}

//! Perplexity against the oracle's, on text that decided nothing: not the model's training, nor what it was rounded to.

use oracle::{Oracle, OracleError, log_softmax};
use serde_json::json;
use synth::workload::{Sample, SampleInput};

use super::ProveError;
use super::ask::Fault;
use super::cases::MOST_SAMPLES;
use super::proof::{HeldOut, Source};
use super::subject::Subject;
use crate::random::Random;

/// Floating-point operations that the oracle may spend here: a quarter of what the cases may.
const BUDGET_FLOPS: u64 = 100_000_000_000;

/// Most positions that are scored: a ratio of perplexities needs no more to settle.
const MOST_POSITIONS: usize = 1024;

/// Longest piece that a text is cut into, where the server takes as much.
const PIECE: usize = 256;

/// Drawn pieces come from here, so that a proof can be repeated.
const SEED: u64 = 0x4E1D;

/// Pieces of text, and what the oracle says of the tokens in them.
pub(super) struct Scored {
    source: Source,
    /// Each piece, with the log-probability of every token after its first.
    pieces: Vec<(Vec<u32>, Vec<f32>)>,
}

impl Scored {
    /// Cuts `text`, or the samples that are no cases, or draws tokens where there is neither, and lets the oracle score
    /// them. `None` where the server echoes no prompt, so that its own scores cannot be asked for.
    pub(super) async fn prepare(
        subject: &Subject,
        (samples, text): (&[Sample], Option<&str>),
        oracle: &Oracle,
    ) -> Result<Option<Result<Scored, Fault>>, ProveError> {
        let longest = PIECE.min(subject.prompt_max);
        if !subject.has_completions || longest < 2 {
            return Ok(None);
        }
        let affordable = (BUDGET_FLOPS / oracle.flops_per_token()) as usize;
        let n_positions = affordable.clamp(1, MOST_POSITIONS);
        let unused: Vec<&str> = samples.iter().skip(MOST_SAMPLES).flat_map(texts).collect();
        let text = match text {
            Some(text) => Some((Source::Text, text.to_owned())),
            None if unused.is_empty() => None,
            None => Some((Source::Samples, unused.join("\n\n"))),
        };
        let (source, tokens) = match text {
            Some((source, text)) => match subject.tokenize(json!({ "prompt": text })).await {
                Ok(tokens) => (source, tokens),
                Err(fault) => return Ok(Some(Err(fault))),
            },
            None => {
                let mut random = Random::new(SEED);
                let draw = (0..n_positions).map(|_| random.below(subject.vocab) as u32);
                (Source::Drawn, draw.collect())
            }
        };
        let pieces = tokens[..n_positions.min(tokens.len())].chunks(longest).filter(|piece| piece.len() > 1);
        let score = |piece: &[u32]| -> Result<_, OracleError> {
            let rows = oracle.session().extend(&piece[..piece.len() - 1])?;
            let logprob = |(row, token): (&Vec<f32>, &u32)| log_softmax(row)[*token as usize];
            Ok((piece.to_vec(), rows.iter().zip(&piece[1..]).map(logprob).collect()))
        };
        let pieces = pieces.map(score).collect::<Result<_, _>>()?;
        Ok(Some(Ok(Scored { source, pieces })))
    }

    /// Asks the server to score the same pieces.
    pub(super) async fn compare(&self, subject: &Subject) -> Result<HeldOut, Fault> {
        let (mut positions, mut oracle, mut server) = (0, 0.0, 0.0);
        for (piece, truth) in &self.pieces {
            let ask = subject.completion(piece, 1).with(json!({ "echo": true }));
            let answer = ask.send(&subject.client).await?;
            let echoed = answer.choices[0].positions.iter().take(piece.len()).skip(1);
            let scores: Vec<f64> = echoed.map_while(|position| position.logprob).collect();
            if scores.len() != truth.len() {
                return Err(format!("{} log-probabilities echoed, expected {}", scores.len(), truth.len()));
            }
            positions += scores.len();
            server += scores.iter().sum::<f64>();
            oracle += truth.iter().map(|logprob| f64::from(*logprob)).sum::<f64>();
        }
        let n = positions.max(1) as f64;
        Ok(HeldOut {
            source: self.source,
            positions,
            oracle_perplexity: (-oracle / n).exp(),
            perplexity_ratio: ((oracle - server) / n).exp(),
        })
    }
}

/// The texts of a request.
fn texts(sample: &Sample) -> Vec<&str> {
    match &sample.input {
        SampleInput::Prompt(text) => vec![text],
        SampleInput::Messages(messages) => messages.iter().map(|message| message.content.as_str()).collect(),
    }
}

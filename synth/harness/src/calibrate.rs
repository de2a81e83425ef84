//! What each way to round a model costs: the oracle, rounding, against the oracle as it is.
//!
//! [`Texts::new`] chooses what is read, as many positions as the model's size allows; [`calibrate`] reads it with every
//! candidate. Reading order: `rounder` is where a candidate rounds, `distance` is what is measured.

mod distance;
mod rounder;
#[cfg(test)]
mod tests;

use std::path::Path;

use oracle::{Oracle, OracleError};
use sha2::{Digest, Sha256};
use synth::calibration::{Calibration, Candidate, Measured, VERSION, candidates, model_digest};
use synth::held::{Format, Held};
use synth::hex;
use synth::model::{Model, ModelErrors};

use crate::random::Random;
use distance::Distance;
use rounder::Rounder;

/// Floating-point operations that all candidates together may take: about a minute on two quiet cores. Larger models are
/// read at fewer positions.
const BUDGET_FLOPS: u64 = 2_400_000_000_000;

/// Fewest and most positions of each half. The fewest are what the largest models get; beyond the most nothing that
/// is measured here moves any more.
const POSITIONS: [usize; 2] = [64, 1024];

/// A half holds at least this many texts, if there are as many: no long one fills it.
const TEXTS: usize = 4;

/// Made-up texts come from here, so that a calibration can be repeated.
const SEED: u64 = 0xCA11;

/// Why there is no calibration.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The oracle cannot compute the model.
    #[error("the oracle cannot say what is true: {0}")]
    Oracle(#[from] OracleError),
    /// The model can no longer be read.
    #[error(transparent)]
    Model(#[from] ModelErrors),
    /// A weight has no code.
    #[error(
        "{tensor}: holds a weight that is infinite or not a number, which cannot be rounded to a code; repair the checkpoint"
    )]
    NotFinite {
        /// The tensor.
        tensor: String,
    },
}

/// What is read: a text with the position from which on it counts. What two texts begin with counts once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Text {
    tokens: Vec<u32>,
    first: usize,
}

/// The texts of a calibration: one half is measured, and the other shows the perplexity of what was chosen by the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    measured: Vec<Text>,
    held_out: Vec<Text>,
    from_samples: bool,
}

impl Texts {
    /// Chooses from the spec's samples, tokenised; where there are none, from made-up tokens. No text is longer than
    /// `longest`, the most positions that the spec allows a sequence. The first, third and so on are measured, the others
    /// held out.
    pub fn new(model: &Model, longest: usize, samples: Vec<Vec<u32>>) -> Texts {
        let n_positions = positions(model);
        let vocab = model.dims.vocab;
        // A tokenizer may know ids that the model has no row for.
        let is_known = |tokens: &Vec<u32>| tokens.iter().all(|token| (*token as usize) < vocab);
        let cut = |tokens: Vec<u32>| tokens.into_iter().take(longest).collect();
        let mut texts = counted_once(samples.into_iter().filter(is_known).map(cut));
        let from_samples = texts.len() >= 2;
        if !from_samples {
            // One token more than count, since the last has nothing after it.
            let len = (n_positions / TEXTS + 1).min(longest).max(2);
            let mut random = Random::new(SEED);
            let mut draw = || (0..len).map(|_| random.below(vocab) as u32).collect();
            texts = counted_once((0..2 * n_positions.div_ceil(len - 1)).map(|_| draw()));
        }
        let half = |parity: usize| {
            let texts = texts.iter().enumerate().filter(|(idx, _)| idx % 2 == parity);
            fit(texts.map(|(_, text)| text.clone()), n_positions)
        };
        Texts { measured: half(0), held_out: half(1), from_samples }
    }

    /// SHA-256 of what is read, hex.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for half in [&self.measured, &self.held_out] {
            for Text { tokens, first } in half {
                hasher.update((tokens.len() as u64).to_le_bytes());
                hasher.update((*first as u64).to_le_bytes());
                tokens.iter().for_each(|token| hasher.update(token.to_le_bytes()));
            }
            hasher.update([0xff; 16]);
        }
        hex(&hasher.finalize())
    }
}

/// Positions of a half that this model's size allows.
fn positions(model: &Model) -> usize {
    let weights = Held::all(Format::F32).bytes_per_pass(model) / 4;
    let passes = candidates(model).len() as u64 + 1;
    // Two operations a weight, and two halves.
    let affordable = BUDGET_FLOPS / (2 * weights * passes * 2).max(1);
    (affordable as usize).clamp(POSITIONS[0], POSITIONS[1])
}

/// Each text with its first position that no earlier text has. The last token has nothing after it to be judged by, so
/// a text that begins another one counts for nothing and is left out.
fn counted_once(texts: impl Iterator<Item = Vec<u32>>) -> Vec<Text> {
    let mut kept: Vec<Text> = Vec::new();
    for tokens in texts {
        let shared = |other: &Text| other.tokens.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        let first = kept.iter().map(shared).max().unwrap_or(0);
        if first + 1 < tokens.len() {
            kept.push(Text { tokens, first });
        }
    }
    kept
}

/// Cuts texts so that no more than `n_positions` count, none of them more than its share.
fn fit(texts: impl Iterator<Item = Text>, n_positions: usize) -> Vec<Text> {
    let mut left = n_positions;
    let mut fitted = Vec::new();
    for mut text in texts {
        let n_counted = (text.tokens.len() - 1 - text.first).min(n_positions / TEXTS).min(left);
        if n_counted == 0 {
            continue;
        }
        text.tokens.truncate(text.first + n_counted + 1);
        left -= n_counted;
        fitted.push(text);
    }
    fitted
}

/// Measures every candidate of [`candidates`]. `progress` is told how many were measured, and of how many.
///
/// # Errors
/// When the oracle cannot read the model, or a weight has no code.
pub fn calibrate(
    model: &Model,
    texts: &Texts,
    progress: &dyn Fn(usize, usize),
) -> Result<Calibration, CalibrateError> {
    let n_counted = |texts: &[Text]| texts.iter().map(|text| text.tokens.len() - 1 - text.first).sum();
    let mut calibration = Calibration {
        version: VERSION,
        model: model_digest(model.digests()?),
        texts: texts.digest(),
        from_samples: texts.from_samples,
        positions: n_counted(&texts.measured),
        held_out_positions: n_counted(&texts.held_out),
        measured: Vec::new(),
    };
    extend(&mut calibration, model, texts, &candidates(model), progress)?;
    Ok(calibration)
}

/// Measures more candidates, on the same texts.
///
/// # Errors
/// As [`calibrate`].
pub fn extend(
    calibration: &mut Calibration,
    model: &Model,
    texts: &Texts,
    candidates: &[Candidate],
    progress: &dyn Fn(usize, usize),
) -> Result<(), CalibrateError> {
    let truth = Truth::of(&Oracle::open(&model.folder)?, texts)?;
    for (idx, candidate) in candidates.iter().enumerate() {
        progress(idx, candidates.len());
        calibration.measured.push(measure(&model.folder, candidate, texts, &truth)?);
    }
    Ok(())
}

/// What the model itself says.
struct Truth {
    /// Log-probabilities of every token, for each counted position of each text.
    measured: Vec<Vec<Vec<f32>>>,
    /// The log-probability of the token that stands there.
    held_out: Vec<Vec<f64>>,
}

impl Truth {
    fn of(oracle: &Oracle, texts: &Texts) -> Result<Truth, CalibrateError> {
        let measured = texts.measured.iter().map(|text| read(oracle, text)).collect::<Result<_, _>>()?;
        Ok(Truth { measured, held_out: scores(oracle, &texts.held_out)? })
    }
}

/// Log-probabilities (`vocab`) at the counted positions of a text.
fn read(oracle: &Oracle, text: &Text) -> Result<Vec<Vec<f32>>, OracleError> {
    let mut logits = oracle.session().extend(&text.tokens[..text.tokens.len() - 1])?;
    Ok(distance::log_probabilities(logits.split_off(text.first)))
}

/// Log-probabilities of the tokens that stand at the counted positions.
fn scores(oracle: &Oracle, texts: &[Text]) -> Result<Vec<Vec<f64>>, OracleError> {
    let score = |text: &Text| {
        let rows = read(oracle, text)?;
        let targets = &text.tokens[text.first + 1..];
        Ok(rows.iter().zip(targets).map(|(row, token)| f64::from(row[*token as usize])).collect())
    };
    texts.iter().map(score).collect()
}

fn measure(
    folder: &Path,
    candidate: &Candidate,
    texts: &Texts,
    truth: &Truth,
) -> Result<Measured, CalibrateError> {
    let rounder = Rounder::new(*candidate);
    let oracle = Oracle::open_rounded(folder, Box::new(rounder.clone()))?;
    if let Some(tensor) = rounder.not_finite() {
        return Err(CalibrateError::NotFinite { tensor });
    }
    let mut distance = Distance::default();
    for (text, truth) in texts.measured.iter().zip(&truth.measured) {
        distance.add(truth, &read(&oracle, text)?, &text.tokens[text.first + 1..]);
    }
    let lost = |(truth, scores): (&Vec<f64>, &Vec<f64>)| -> f64 {
        truth.iter().zip(scores).map(|(truth, score)| truth - score).sum()
    };
    let scores = scores(&oracle, &texts.held_out)?;
    let n_scores: usize = scores.iter().map(Vec::len).sum();
    let lost: f64 = truth.held_out.iter().zip(&scores).map(lost).sum();
    // Five decimals: the ratios of good formats differ in the third and fourth.
    let perplexity_ratio = ((lost / n_scores.max(1) as f64).exp() * 1e5).round() / 1e5;
    Ok(Measured { candidate: *candidate, divergence: distance.divergence(), perplexity_ratio })
}

//! What the oracle says about the cases.

use oracle::{Oracle, OracleError, argmax, log_softmax};

use super::cases::Case;

/// Two log-probabilities closer than this, in nats, have no order: two f32 computations of one model differ by up to
/// some 1e-5 (measured against HF transformers by the oracle's own tests).
pub(crate) const TIE: f32 = 1e-4;

/// The oracle's greedy answer to one case.
pub(super) struct Truth {
    /// The tokens, `n_output` of them.
    pub(super) tokens: Vec<u32>,
    /// Log-probabilities (`vocab`) of what follows each position of prompt and tokens, the last token's apart.
    pub(super) logprobs: Vec<Vec<f32>>,
}

impl Truth {
    /// Computes one case.
    pub(super) fn of(oracle: &Oracle, case: &Case) -> Result<Truth, OracleError> {
        let mut session = oracle.session();
        let mut logprobs: Vec<Vec<f32>> =
            session.extend(&case.prompt)?.iter().map(|row| log_softmax(row)).collect();
        let mut tokens = Vec::with_capacity(case.n_output);
        while tokens.len() < case.n_output {
            if let Some(token) = tokens.last() {
                logprobs.push(log_softmax(&session.push(*token)?));
            }
            tokens.push(argmax(&logprobs[logprobs.len() - 1]));
        }
        Ok(Truth { tokens, logprobs })
    }
}

/// How far the likeliest token is ahead of the next, nats.
pub(crate) fn gap(logprobs: &[f32]) -> f32 {
    let best = argmax(logprobs) as usize;
    let others = logprobs.iter().enumerate().filter(|(token, _)| *token != best).map(|(_, logprob)| *logprob);
    logprobs[best] - others.fold(f32::NEG_INFINITY, f32::max)
}

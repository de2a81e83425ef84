//! From logits to log-probabilities and to the most likely token.

/// Natural log-probabilities of logits. The sum runs in f64: a vocabulary is long.
pub fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let log_sum = sum.ln();
    logits.iter().map(|logit| (f64::from(logit - max) - log_sum) as f32).collect()
}

/// The id of the largest logit; of equals the lowest id. Of no logits, or of none that is a number, 0.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] || logits[best].is_nan() {
            best = token;
        }
    }
    best as u32
}

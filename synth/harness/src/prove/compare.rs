//! The binary against the oracle: greedy tokens, and log-probabilities at every position.

use oracle::argmax;
use serde_json::json;
use synth::workload::Tolerance;

use super::Exam;
use super::ask::{Answer, Fault, Position, ids_difference};
use super::cases::Case;
use super::proof::{Check, Measures, Surface};
use super::truth::{TIE, Truth, gap};
use crate::stats::{ascending, mean, percentile};

/// Greedy tokens against the oracle's. Under a bounded tolerance they are counted, and the measures decide.
pub(super) fn greedy(exam: &Exam, tolerance: Tolerance, measures: &mut Measures) -> Surface {
    let mut check =
        Check::new("greedy", "greedy tokens equal the oracle's, up to a tie between its two likeliest");
    for (case, truth, answer) in exam.checked() {
        let failure = match answer {
            Err(fault) => Some(fault.clone()),
            Ok(answer) => {
                let got = &answer.choices[0].token_ids;
                let equal = truth.tokens.iter().zip(got).take_while(|(a, b)| a == b).count();
                measures.greedy_tokens += equal;
                let is_tie = equal < truth.tokens.len().min(got.len())
                    && gap(&truth.logprobs[case.prompt.len() - 1 + equal]) < TIE;
                measures.greedy_tied += usize::from(is_tie);
                ids_difference(&truth.tokens, got).filter(|_| !is_tie && tolerance == Tolerance::Exact)
            }
        };
        check.case(&case.name, failure);
    }
    check.done()
}

/// Asks for every checked sequence, the oracle's tokens included, as a prompt that echoes its log-probabilities.
///
/// Answers are in the order of the checked cases; without the completions route there are none.
pub(super) async fn force(exam: &Exam) -> Vec<Result<Answer, Fault>> {
    let mut answers = Vec::new();
    if exam.subject.has_completions {
        for (case, truth, _) in exam.checked() {
            let ask = exam.subject.completion(&forced(exam, case, truth), 1).with(json!({ "echo": true }));
            answers.push(ask.send(&exam.subject.client).await);
        }
    }
    answers
}

/// Prompt and the oracle's tokens, as far as the server takes a prompt.
fn forced(exam: &Exam, case: &Case, truth: &Truth) -> Vec<u32> {
    let tokens = case.prompt.iter().chain(&truth.tokens);
    tokens.copied().take(exam.subject.prompt_max).collect()
}

/// Log-probabilities against the oracle's: of forced sequences, or of answers up to their first other token where
/// the server echoes no prompt.
pub(super) fn teacher_forced(
    exam: &Exam,
    forced_answers: &[Result<Answer, Fault>],
    tolerance: Tolerance,
    measures: &mut Measures,
) -> Surface {
    let mut check = Check::new(
        "teacher_forced",
        "log-probabilities at every position are the oracle's, within the tolerance",
    );
    let mut distance = Distance::default();
    for (idx, (case, truth, alone)) in exam.checked().enumerate() {
        let failure = match forced_answers.get(idx).unwrap_or(alone) {
            Err(fault) => Some(fault.clone()),
            Ok(answer) if forced_answers.is_empty() => distance.answer(case, truth, answer),
            Ok(answer) => distance.echo(&forced(exam, case, truth), truth, answer),
        };
        check.case(&case.name, failure);
    }
    distance.summarise(measures);
    let broken = measures.broken(tolerance);
    check.case("measures", (!broken.is_empty()).then(|| broken.join("; ")));
    check.done()
}

/// Decoding a token and reading it back as part of a prompt are the same computation: not one bit differs.
pub(super) fn rescored(exam: &Exam, forced_answers: &[Result<Answer, Fault>]) -> Surface {
    let mut check =
        Check::new("rescored", "a generated token read back as a prompt has the bits it was generated with");
    for ((case, truth, alone), forced) in exam.checked().zip(forced_answers) {
        let failure = match (alone, forced) {
            (Err(fault), _) | (_, Err(fault)) => Some(fault.clone()),
            (Ok(alone), Ok(forced)) => {
                let (alone, forced) = (&alone.choices[0], &forced.choices[0]);
                let equal = truth.tokens.iter().zip(&alone.token_ids).take_while(|(a, b)| a == b).count();
                let n = (case.prompt.len() + equal).min(exam.subject.prompt_max);
                (0..n).find(|idx| alone.positions.get(*idx) != forced.positions.get(*idx)).map(|idx| {
                    let (alone, forced) = (alone.positions.get(idx), forced.positions.get(idx));
                    format!("position {idx} of {}: {forced:?}, generated with {alone:?}", case.prompt.len())
                })
            }
        };
        check.case(&case.name, failure);
    }
    check.done()
}

/// Everything measured at single positions.
#[derive(Default)]
struct Distance {
    deltas: Vec<f64>,
    divergences: Vec<f64>,
    regret_max: f64,
    n_same_top: usize,
    n_ties: usize,
}

impl Distance {
    /// All positions of a forced sequence after its first.
    fn echo(&mut self, sequence: &[u32], truth: &Truth, answer: &Answer) -> Option<String> {
        let positions = &answer.choices[0].positions;
        if positions.len() < sequence.len() {
            return Some(format!("{} positions echoed, expected {}", positions.len(), sequence.len()));
        }
        // A prompt of one token has nothing before it to be judged by.
        let judged = positions[1..sequence.len()].iter().zip(&sequence[1..]).zip(&truth.logprobs);
        judged.fold(None, |first, ((position, token), row)| first.or(self.position(position, *token, row)))
    }

    /// The generated positions, up to and with the first token that is not the oracle's.
    fn answer(&mut self, case: &Case, truth: &Truth, answer: &Answer) -> Option<String> {
        let choice = &answer.choices[0];
        let equal = truth.tokens.iter().zip(&choice.token_ids).take_while(|(a, b)| a == b).count();
        let n = (equal + 1).min(truth.tokens.len());
        if choice.positions.len() < n {
            return Some(format!("{} log-probabilities, expected {n}", choice.positions.len()));
        }
        let judged =
            choice.positions[..n].iter().zip(&choice.token_ids).zip(&truth.logprobs[case.prompt.len() - 1..]);
        judged.fold(None, |first, ((position, token), row)| first.or(self.position(position, *token, row)))
    }

    /// One position: `row` is what the oracle says of every token there.
    fn position(&mut self, position: &Position, token: u32, row: &[f32]) -> Option<String> {
        let (Some(logprob), Some((top, _))) = (position.logprob, position.top.first()) else {
            return Some(format!("no log-probability of token {token}"));
        };
        if position.token != token {
            return Some(format!("position of token {} where token {token} stands", position.token));
        }
        let mut named = position.top.iter().map(|(token, _)| *token).chain([token]);
        if let Some(token) = named.find(|token| *token as usize >= row.len()) {
            return Some(format!("token {token} is outside the vocabulary"));
        }
        let truth = |token: u32| f64::from(row[token as usize]);
        let reported = position.top.iter().copied().chain([(token, logprob)]);
        self.deltas.extend(reported.map(|(token, logprob)| (logprob - truth(token)).abs()));
        self.divergences.push(divergence(&position.top, truth));
        let best = argmax(row);
        self.regret_max = self.regret_max.max(truth(best) - truth(*top));
        if gap(row) < TIE {
            self.n_ties += 1;
        } else {
            self.n_same_top += usize::from(best == *top);
        }
        None
    }

    fn summarise(self, measures: &mut Measures) {
        let positions = self.divergences.len();
        let judged = positions - self.n_ties;
        let (deltas, divergences) = (ascending(self.deltas), ascending(self.divergences));
        measures.positions = positions;
        measures.logprob_mean = mean(&deltas).unwrap_or(0.0);
        measures.logprob_p99 = percentile(&deltas, 0.99).unwrap_or(0.0);
        measures.logprob_max = deltas.last().copied().unwrap_or(0.0);
        measures.kl_mean = mean(&divergences).unwrap_or(0.0);
        measures.kl_p999 = percentile(&divergences, 0.999).unwrap_or(0.0);
        measures.regret_max = self.regret_max;
        measures.ties = self.n_ties;
        // Where every position is a tie there is no order to agree on.
        measures.same_top = if judged == 0 { 1.0 } else { self.n_same_top as f64 / judged as f64 };
    }
}

/// KL divergence from the oracle to the binary, with all tokens that the binary does not name taken as one.
fn divergence(top: &[(u32, f64)], truth: impl Fn(u32) -> f64) -> f64 {
    // Of the rest only the mass is known, as a difference of nearly equal numbers; below this it is rounding.
    const CRUMB: f64 = 1e-6;
    let (mut named_p, mut named_q, mut sum) = (0.0, 0.0, 0.0);
    for (token, q) in top {
        let p = truth(*token);
        sum += p.exp() * (p - q);
        named_p += p.exp();
        named_q += q.exp();
    }
    let (rest_p, rest_q) = ((1.0 - named_p).max(CRUMB), (1.0 - named_q).max(CRUMB));
    (sum + rest_p * (rest_p / rest_q).ln()).max(0.0)
}

//! Drawn tokens: repeatable from the seed at any load, as likely as they should be, and independent.

use serde_json::json;

use super::Exam;
use super::ask::{Answer, Ask, Choice, Fault, choice_difference, send_all};
use super::proof::{Check, Surface};
use std::time::Duration;

/// Sequences drawn, each from its own seed.
const N_SEEDS: u64 = 8;

/// Tokens drawn of each, where the spec allows as many.
const N_TOKENS: usize = 64;

/// Flattens the choice between two tokens enough to see how it is made.
const WARM: f64 = 1.5;

/// Sharpens it, so that a server which takes one temperature for another is far from the odds.
const COOL: f64 = 0.3;

/// A statistic further out than this is a fault: by chance once in two million proofs.
const SIGMAS: f64 = 5.0;

/// The same seed draws the same tokens whatever else runs, and another seed draws others.
pub(super) async fn seeded(exam: &Exam) -> Vec<Surface> {
    let n_tokens = N_TOKENS.min(exam.subject.output_max);
    let ask = |seed: u64, temperature: f64| {
        let case = &exam.cases[0];
        let keys = json!({ "temperature": temperature, "top_k": 2, "seed": seed, "max_tokens": n_tokens });
        case.ask.with(keys)
    };
    let mut together = Vec::new();
    for temperature in [WARM, WARM, COOL] {
        let asks: Vec<Ask> = (0..N_SEEDS).map(|seed| ask(seed, temperature)).collect();
        together.push(send_all(&exam.subject.client, asks, exam.subject.concurrency, Duration::ZERO).await);
    }
    let mut check = Check::new("seeded", "the same seed draws the same tokens, alone and at any load");
    for seed in 0..N_SEEDS {
        let [first, second] = [&together[0][seed as usize], &together[1][seed as usize]];
        check.case(&format!("seed {seed} twice at once"), chosen_difference(first, second));
        if seed < 2 {
            let alone = ask(seed, WARM).send(&exam.subject.client).await;
            check.case(&format!("seed {seed} alone"), chosen_difference(first, &alone));
        }
    }
    vec![check.done(), drawn(&together[0], &together[2])]
}

fn chosen_difference(a: &Result<Answer, Fault>, b: &Result<Answer, Fault>) -> Option<String> {
    match (a, b) {
        (Err(fault), _) | (_, Err(fault)) => Some(fault.clone()),
        (Ok(a), Ok(b)) => choice_difference(&a.choices[0], &b.choices[0]),
    }
}

/// With two candidates each draw is a coin whose odds the answer itself reports. The coins must be fair to those
/// odds, warm and cool, and neither positions nor seeds may share one.
fn drawn(warm: &[Result<Answer, Fault>], cool: &[Result<Answer, Fault>]) -> Surface {
    let mut check =
        Check::new("drawn", "tokens are drawn with their odds, anew at each position and for each seed");
    let mut read = |answers: &[Result<Answer, Fault>], temperature: f64| {
        let mut sequences = Vec::new();
        for (seed, answer) in answers.iter().enumerate() {
            match answer.as_ref().map_err(Fault::clone).and_then(|it| coins(&it.choices[0], temperature)) {
                Ok(coins) => sequences.push(coins),
                Err(fault) => check.case(&format!("seed {seed}"), Some(fault)),
            }
        }
        sequences
    };
    let sequences = read(warm, WARM);
    let cool: Vec<Coin> = read(cool, COOL).into_iter().flatten().collect();
    let single: Vec<Coin> = sequences.iter().flatten().copied().collect();
    let neighbours = sequences.iter().flat_map(|coins| coins.iter().zip(&coins[1..]));
    let positions: Vec<Coin> = neighbours.map(|(a, b)| a.times(*b)).collect();
    let pairs = sequences.iter().zip(sequences.iter().skip(1));
    let seeds: Vec<Coin> = pairs.flat_map(|(a, b)| a.iter().zip(b)).map(|(a, b)| a.times(*b)).collect();
    let statistics = [("odds", single), ("cool odds", cool), ("positions", positions), ("seeds", seeds)];
    let mut seen = Vec::new();
    for (name, coins) in statistics {
        let sigmas = sigmas(&coins);
        check.expect(name, sigmas.abs() <= SIGMAS, || {
            format!("{sigmas:.1} standard deviations from what chance gives")
        });
        seen.push(format!("{name} {sigmas:+.1}σ"));
    }
    check.evidence(seen.join(", "));
    check.done()
}

/// How far a draw fell from its expectation, and the variance it should have.
#[derive(Clone, Copy)]
struct Coin {
    residual: f64,
    variance: f64,
}

impl Coin {
    /// The product of two independent coins: it has mean zero, too.
    fn times(self, other: Coin) -> Coin {
        Coin { residual: self.residual * other.residual, variance: self.variance * other.variance }
    }
}

fn sigmas(coins: &[Coin]) -> f64 {
    let variance: f64 = coins.iter().map(|coin| coin.variance).sum();
    let residual: f64 = coins.iter().map(|coin| coin.residual).sum();
    // Where the model is certain everywhere nothing is left to chance, and nothing may deviate.
    residual / variance.sqrt().max(1.0)
}

/// Each drawn token as a coin that falls on the likelier candidate.
fn coins(choice: &Choice, temperature: f64) -> Result<Vec<Coin>, Fault> {
    let coin = |position: &super::ask::Position| {
        let [(first, likelier), (second, other), ..] = position.top[..] else {
            return Err("fewer than two likeliest tokens are reported".to_owned());
        };
        if ![first, second].contains(&position.token) {
            return Err(format!("top_k 2 drew {}, the candidates are {first} and {second}", position.token));
        }
        let odds = 1.0 / (1.0 + ((other - likelier) / temperature).exp());
        let fell = f64::from(u8::from(position.token == first));
        Ok(Coin { residual: fell - odds, variance: odds * (1.0 - odds) })
    };
    let coins: Vec<Coin> = choice.positions.iter().map(coin).collect::<Result<_, _>>()?;
    if coins.is_empty() { Err("nothing was drawn".to_owned()) } else { Ok(coins) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Sequences as a server would answer them: `uniform` gives the random number of a seed and a position.
    fn answers(temperature: f64, uniform: impl Fn(u64, u64) -> f64) -> Vec<Result<Answer, Fault>> {
        let position = |seed, position| {
            let gap = Random::new(seed * 1000 + position).uniform() * 2.0;
            let odds = 1.0 / (1.0 + (-gap / temperature).exp());
            let token = if uniform(seed, position) < odds { 5 } else { 9 };
            let top = vec![(5, -0.5), (9, -0.5 - gap)];
            super::super::ask::Position { token, logprob: Some(-0.5), top }
        };
        let choice =
            |seed| Choice { positions: (0..64).map(|at| position(seed, at)).collect(), ..Choice::default() };
        (0..N_SEEDS)
            .map(|seed| Ok(Answer { choices: vec![choice(seed)], usage: Default::default() }))
            .collect()
    }

    fn failed(uniform: impl Fn(u64, u64) -> f64) -> Vec<String> {
        drawn(&answers(WARM, &uniform), &answers(COOL, &uniform)).failures
    }

    #[test]
    fn independent_draws_pass_and_each_shortcut_is_caught() {
        let fresh = |seed: u64, position: u64| Random::new(1 << 40 | seed << 20 | position).uniform();
        assert_eq!(failed(fresh), Vec::<String>::new());
        assert!(failed(|seed, _| fresh(seed, 0)).iter().any(|failure| failure.starts_with("positions")));
        assert!(failed(|_, position| fresh(0, position)).iter().any(|failure| failure.starts_with("seeds")));
        assert!(
            failed(|seed, position| fresh(seed, position).sqrt()).iter().any(|it| it.starts_with("odds"))
        );
        let tepid = drawn(&answers(1.0, fresh), &answers(1.0, fresh)).failures;
        assert!(tepid.iter().any(|it| it.starts_with("cool odds")), "{tepid:?}");
    }
}

//! Surfaces of one binary against each other: how a request is executed never changes a bit of its answer.

use std::time::Duration;

use serde_json::json;

use super::Exam;
use super::ask::{Answer, Ask, Fault, choice_difference, difference, ids_difference, send_all};
use super::proof::{Check, Surface};
use crate::random::Random;

/// All together, in reverse, and one by one while others decode: each answer equals the one it gets alone.
pub(super) async fn company(exam: &Exam) -> Vec<Surface> {
    let width = exam.subject.concurrency;
    let short = || exam.each().filter(|(case, _)| !case.is_long);
    let forward: Vec<_> = short().collect();
    let backward: Vec<_> = short().collect::<Vec<_>>().into_iter().rev().collect();
    let orders = [
        ("batched", "all prompts at once equal each alone", &forward, Duration::ZERO),
        ("reversed", "all prompts at once in reverse order equal each alone", &backward, Duration::ZERO),
        ("staggered", "prompts that arrive while others decode equal each alone", &forward, exam.pace / 3),
    ];
    let mut surfaces = Vec::new();
    for (name, law, order, gap) in orders {
        let mut check = Check::new(name, law);
        let asks = order.iter().map(|(case, _)| exam.cold(case));
        let answers = send_all(&exam.subject.client, asks, width, gap).await;
        for ((case, alone), answer) in order.iter().zip(&answers) {
            check.case(&case.name, difference(alone, answer));
        }
        check.evidence(format!("{} at once", width.min(order.len())));
        surfaces.push(check.done());
    }
    surfaces
}

/// A prompt longer than a step, read in pieces between the tokens of others, equals the prompt alone.
pub(super) async fn chunked(exam: &Exam) -> Surface {
    let mut check = Check::new("chunked", "a long prompt read while others decode equals the prompt alone");
    let n_others = exam.subject.concurrency.saturating_sub(1).min(3);
    if let Some((case, alone)) = exam.each().max_by_key(|(case, _)| case.prompt.len()) {
        let others = exam.cases.iter().take(n_others);
        let n_tokens = exam.subject.output_max.min(64);
        let asks =
            others.map(|other| other.ask.with(json!({ "max_tokens": n_tokens }))).chain([exam.cold(case)]);
        let answers = send_all(&exam.subject.client, asks, n_others + 1, exam.pace / 8).await;
        let got = answers.into_iter().next_back().unwrap_or_else(|| Err("no answer".to_owned()));
        check.case(&case.name, difference(alone, &got));
    }
    if let Some(n_steps) = exam.long_prompt_steps {
        check.evidence(format!("alone it takes {n_steps} steps"));
    }
    check.done()
}

/// The same prompts again: found in the cache where there is one, and answered with the same bits.
pub(super) async fn repeated(exam: &Exam) -> Surface {
    let mut check = Check::new("prefix_hit", "a prompt found in the prefix cache equals the prompt computed");
    let (mut n_found, mut n_cold) = (0, 0);
    for (case, alone) in exam.each() {
        let mut again = case.ask.send(&exam.subject.client).await;
        let mut failure = generated_difference(alone, &again, case.prompt.len());
        if exam.has_prefix_cache && cached(&again) == 0 && case.prompt.len() > exam.subject.block {
            // A pool of few blocks has forgotten it for the cases between; now it has just been computed.
            again = case.ask.send(&exam.subject.client).await;
            failure = failure.or_else(|| generated_difference(alone, &again, case.prompt.len()));
        }
        n_found += usize::from(cached(&again) > 0);
        n_cold += usize::from(cached(alone) == 0);
        check.case(&case.name, failure);
    }
    if exam.has_prefix_cache && exam.cases.iter().any(|case| case.prompt.len() > exam.subject.block) {
        check.expect("activation", n_found > 0, || {
            "the server counts cache queries, but nothing was found".to_owned()
        });
        check.evidence(format!("{n_found} found, {n_cold} computed"));
    }
    check.done()
}

/// Prompts that nearly share a beginning: whoever matches too much answers with someone else's context.
pub(super) async fn nearly_shared(exam: &Exam) -> Option<Surface> {
    let block = exam.subject.block;
    if !exam.subject.has_completions || exam.subject.prompt_max < 2 * block + 3 {
        return None;
    }
    let mut check = Check::new(
        "prefix_near_miss",
        "a prompt that differs from a cached one by one token or one block is computed",
    );
    let mut random = Random::new(exam.seed("nearly shared"));
    let mut draw =
        |n: usize| -> Vec<u32> { (0..n).map(|_| random.below(exam.subject.vocab) as u32).collect() };
    let (first, second, other, tail) = (draw(block), draw(block), draw(block), draw(3));
    let changed = |at: usize| {
        let mut block = second.clone();
        block[at] = (block[at] + 1) % exam.subject.vocab as u32;
        block
    };
    let prompts = [
        ("the cached prompt", [&first[..], &second, &tail].concat()),
        ("another tail", [&first[..], &second, &draw(3)].concat()),
        ("another first block", [&other[..], &second, &tail].concat()),
        ("without the first block", [&second[..], &tail].concat()),
        ("blocks exchanged", [&second[..], &first, &tail].concat()),
        ("another first token in the block", [&first[..], &changed(0), &tail].concat()),
        ("another token inside the block", [&first[..], &changed(block / 2), &tail].concat()),
        ("another last token in the block", [&first[..], &changed(block - 1), &tail].concat()),
    ];
    let n = exam.n_output();
    let mut warm = Vec::new();
    for (_, prompt) in &prompts {
        warm.push(exam.subject.completion(prompt, n).send(&exam.subject.client).await);
    }
    for ((name, prompt), warm) in prompts.iter().zip(&warm) {
        let cold =
            exam.subject.completion(prompt, n).with(json!({ "echo": true })).send(&exam.subject.client).await;
        check.case(name, generated_difference(&cold, warm, prompt.len()));
    }
    let found = warm.iter().map(cached).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    check.evidence(format!("cached tokens: {found}"));
    Some(check.done())
}

/// Streamed or not, the answer is the same.
pub(super) async fn streamed(exam: &Exam) -> Surface {
    let mut check = Check::new("streamed", "the pieces of a stream make up the answer that is not streamed");
    for (case, _) in exam.each().filter(|(case, _)| !case.is_long) {
        let whole = case.ask.send(&exam.subject.client).await;
        let joined = case.ask.stream(&exam.subject.client).await;
        check.case(&case.name, difference(&whole, &joined));
    }
    check.done()
}

/// Several choices of one request are several requests.
pub(super) async fn choices(exam: &Exam) -> Option<Surface> {
    if exam.subject.concurrency < 2 {
        return None;
    }
    let mut check =
        Check::new("choices", "choice 0 of n is the only choice of 1, and greedy choices are all alike");
    for (case, _) in exam.each().filter(|(case, _)| !case.is_long).take(2) {
        for (kind, keys) in [("greedy", json!({})), ("drawn", json!({ "temperature": 1.0, "seed": 7 }))] {
            let ask = case.ask.with(keys);
            let one = ask.send(&exam.subject.client).await;
            let two = ask.with(json!({ "n": 2 })).send(&exam.subject.client).await;
            check.case(&format!("{}, {kind}", case.name), choices_failure(&one, &two, kind == "greedy"));
        }
    }
    Some(check.done())
}

fn choices_failure(
    one: &Result<Answer, Fault>,
    two: &Result<Answer, Fault>,
    all_alike: bool,
) -> Option<String> {
    let (one, two) = match (one, two) {
        (Err(fault), _) | (_, Err(fault)) => return Some(fault.clone()),
        (Ok(one), Ok(two)) => (one, two),
    };
    if two.choices.len() != 2 {
        return Some(format!("{} choices, expected 2", two.choices.len()));
    }
    let n_compared = if all_alike { 2 } else { 1 };
    let differing =
        two.choices[..n_compared].iter().find_map(|choice| choice_difference(&one.choices[0], choice));
    let n_tokens: usize = two.choices.iter().map(|choice| choice.token_ids.len()).sum();
    differing.or_else(|| {
        let counted = two.usage.completion_tokens;
        (counted != n_tokens as u64)
            .then(|| format!("usage counts {counted} completion tokens, there are {n_tokens}"))
    })
}

/// What the server counts is what there is.
pub(super) async fn counted(exam: &Exam) -> Surface {
    let mut check =
        Check::new("usage", "tokens are counted from ids, and an answer ends when and why it should");
    for (case, _) in exam.each().filter(|(case, _)| !case.is_long) {
        let answer = case.ask.send(&exam.subject.client).await;
        check.case(&case.name, count_failure(&answer, &case.prompt, case.n_output));
        if case.n_output > 2
            && let Ok(answer) = &answer
        {
            let stopped = stop_early(case, answer, exam).await;
            check.case(&format!("{}, stopped", case.name), stopped);
        }
        let one = case.ask.with(json!({ "max_tokens": 1 })).send(&exam.subject.client).await;
        check.case(&format!("{}, one token", case.name), count_failure(&one, &case.prompt, 1));
    }
    check.done()
}

fn count_failure(answer: &Result<Answer, Fault>, prompt: &[u32], n_expected: usize) -> Option<String> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(fault) => return Some(fault.clone()),
    };
    let (usage, choice) = (answer.usage, &answer.choices[0]);
    let n = choice.token_ids.len();
    if let Some(difference) = ids_difference(prompt, choice.prompt_token_ids.as_deref().unwrap_or(&[])) {
        return Some(format!("prompt_token_ids: {difference}"));
    }
    let counts = [
        ("token_ids", n as u64, n_expected as u64),
        ("log-probabilities", choice.positions.len() as u64, n as u64),
        ("completion_tokens", usage.completion_tokens, n as u64),
        ("prompt_tokens", usage.prompt_tokens, prompt.len() as u64),
        ("total_tokens", usage.total_tokens, (prompt.len() + n) as u64),
    ];
    if let Some((what, got, expected)) = counts.into_iter().find(|(_, got, expected)| got != expected) {
        return Some(format!("{what} is {got}, expected {expected}"));
    }
    // The logits after the last prompt token are never cached, so that token is always computed.
    if usage.cached_tokens >= usage.prompt_tokens {
        return Some(format!("{} cached of {} prompt tokens", usage.cached_tokens, usage.prompt_tokens));
    }
    let reason = choice.finish_reason.as_deref();
    (reason != Some("length")).then(|| format!("finish_reason is {reason:?}, expected length"))
}

/// With a token it is known to generate as a stop token, the answer ends at that token's first place.
async fn stop_early(case: &super::cases::Case, whole: &Answer, exam: &Exam) -> Option<String> {
    let ids = &whole.choices[0].token_ids;
    let Some(stop) = ids.get(ids.len() / 2) else { return Some("there is no token to stop at".to_owned()) };
    let n_kept = 1 + ids.iter().take_while(|id| *id != stop).count();
    match case.ask.with(json!({ "stop_token_ids": [stop] })).send(&exam.subject.client).await {
        Err(fault) => Some(fault),
        Ok(answer) => {
            let choice = &answer.choices[0];
            let reason = choice.finish_reason.as_deref();
            // The last answer token may be the stop: then both reasons are true, and stop is the more telling.
            let wrong_end =
                (reason != Some("stop")).then(|| format!("finish_reason is {reason:?}, expected stop"));
            ids_difference(&ids[..n_kept], &choice.token_ids).or(wrong_end)
        }
    }
}

/// How an answer that echoes nothing differs from the generated part of one that may.
pub(super) fn generated_difference(
    echoed: &Result<Answer, Fault>,
    plain: &Result<Answer, Fault>,
    n_prompt: usize,
) -> Option<String> {
    let (echoed, plain) = match (echoed, plain) {
        (Err(fault), _) => return Some(format!("there is no answer to compare with: {fault}")),
        (_, Err(fault)) => return Some(fault.clone()),
        (Ok(echoed), Ok(plain)) => (&echoed.choices[0], &plain.choices[0]),
    };
    let is_echo = echoed.positions.len() > plain.positions.len();
    let expected = if is_echo { echoed.positions.get(n_prompt..).unwrap_or(&[]) } else { &echoed.positions };
    if let Some(idx) = (0..expected.len()).find(|idx| plain.positions.get(*idx) != expected.get(*idx)) {
        let (got, expected) = (plain.positions.get(idx), &expected[idx]);
        return Some(format!("log-probabilities of token {idx} are {got:?}, expected {expected:?}"));
    }
    (expected.len() != plain.positions.len())
        .then(|| format!("{} tokens, expected {}", plain.positions.len(), expected.len()))
}

/// Prompt tokens that an answer found in the cache.
pub(super) fn cached(answer: &Result<Answer, Fault>) -> u64 {
    answer.as_ref().map_or(0, |answer| answer.usage.cached_tokens)
}

/// `ask` with its prompt echoed where the route can: then every prompt position is computed and shown.
pub(super) fn echoed(ask: &Ask, has_completions: bool) -> Ask {
    if has_completions { ask.with(json!({ "echo": true })) } else { ask.clone() }
}

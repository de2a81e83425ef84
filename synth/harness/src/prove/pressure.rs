//! More requests than fit: nothing is preempted, nothing is overwritten, what is refused is refused at once.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;

use super::Exam;
use super::ask::{Ask, difference, send_all};
use super::laws::{cached, generated_difference};
use super::proof::{Check, Surface};
use crate::random::Random;

/// Requests at once, as a multiple of the sequences that run.
const OVERLOAD: usize = 3;

/// Tokens of the answer that must survive, where the spec allows as many.
const N_SURVIVOR: usize = 256;

/// Prompts at the beginning of a flood; those at its end are written over them.
const N_FIRST: usize = 2;

/// Most attempts to have the survivor outlive the flood: on a busy machine the flood may be held up.
const ROUNDS: usize = 5;

/// Three times as many requests as run at once: each is answered as ever or refused with 429, and none is preempted.
pub(super) async fn overload(exam: &Exam) -> Surface {
    let mut check =
        Check::new("overload", "with three times the sequences that fit, answers stay and none is preempted");
    let n = OVERLOAD * exam.subject.concurrency;
    let asked: Vec<_> = exam.each().cycle().take(n).collect();
    let asks = asked.iter().map(|(case, _)| case.ask.clone());
    let answers = send_all(&exam.subject.client, asks, n, Duration::ZERO).await;
    let mut n_refused = 0;
    for ((case, alone), answer) in asked.iter().zip(&answers) {
        match answer {
            Err(fault) if fault.starts_with("status 429") => n_refused += 1,
            answer => check.case(&case.name, generated_difference(alone, answer, case.prompt.len())),
        }
    }
    let n_served = n - n_refused;
    check.expect("served", n_served >= exam.subject.concurrency, || {
        format!("only {n_served} of {n} were served")
    });
    let preempted = exam.subject.metric("vllm:num_preemptions_total").await;
    check.expect("preempted and resumed", preempted == Ok(0.0), || {
        format!("num_preemptions_total is {preempted:?}")
    });
    check.evidence(format!(
        "{n_served} served, {n_refused} refused, preemptions {}",
        preempted.unwrap_or(f64::NAN)
    ));
    check.done()
}

/// A sequence keeps the blocks it shares with one that ended, while all other blocks are handed out again.
pub(super) async fn shared_blocks(exam: &Exam) -> Option<Surface> {
    let (subject, block) = (&exam.subject, exam.subject.block);
    if !exam.has_prefix_cache
        || !subject.has_completions
        || subject.concurrency < 2
        || subject.prompt_max < 2 * block + 3
    {
        return None;
    }
    let law = "blocks shared with a sequence that ended stay as they were, and blocks written anew are not found as the old";
    let mut check = Check::new("shared_blocks", law);
    let mut random = Random::new(exam.seed("shared blocks"));
    let mut draw = |n: usize| -> Vec<u32> { (0..n).map(|_| random.below(subject.vocab) as u32).collect() };
    let (mut n_rounds, mut n_shared, mut outlived) = (0, 0, false);
    while n_rounds < ROUNDS && !outlived {
        (n_shared, outlived) = round(exam, &mut draw, &mut check).await;
        n_rounds += 1;
    }
    let when = if outlived { "before" } else { "after" };
    check.evidence(format!(
        "{n_shared} tokens shared; the flood ended {when} the survivor in round {n_rounds} of at most {ROUNDS}"
    ));
    Some(check.done())
}

/// One attempt: a survivor runs while all blocks but its own are handed out again. Returns how many tokens it shared,
/// and whether it outlived that.
async fn round(exam: &Exam, draw: &mut impl FnMut(usize) -> Vec<u32>, check: &mut Check) -> (u64, bool) {
    let (subject, block) = (&exam.subject, exam.subject.block);
    let prefix = draw(2 * block);
    let [seeding, brief, lasting] = [1, 2, 3].map(|n| [&prefix[..], &draw(n)].concat());
    let n_tokens = N_SURVIVOR.min(subject.output_max);
    let survivor = subject.completion(&lasting, n_tokens);

    let seeded = subject.completion(&seeding, 1).send(&subject.client).await;
    let (client, ask, began) = (subject.client.clone(), survivor.clone(), Arc::new(Notify::new()));
    let tell = Arc::clone(&began);
    let running = tokio::spawn(async move {
        let answer = ask.stream_telling(&client, || tell.notify_one()).await;
        // Nobody waits for one that was refused.
        tell.notify_one();
        answer
    });
    // It holds the shared blocks from before the others come.
    began.notified().await;
    let brief = subject.completion(&brief, 1).send(&subject.client).await;
    let n_held = (lasting.len() + n_tokens).div_ceil(block);
    let flood = flood(exam, subject.n_blocks.saturating_sub(n_held), draw);
    // One after the other, so that blocks are handed out in an order that is known.
    let flooded = send_all(&subject.client, flood.clone(), 1, Duration::ZERO).await;
    let n_running = subject.metric("vllm:num_requests_running").await;
    let survived = running.await.unwrap_or_else(|error| Err(error.to_string()));

    for (ask, first) in flood.iter().zip(&flooded).take(N_FIRST) {
        let again = ask.send(&subject.client).await;
        check.case("a prompt whose blocks were written anew", difference(first, &again));
    }
    let faults = [seeded, brief].into_iter().chain(flooded).find_map(Result::err);
    check.case("the flood", faults);
    let alone = survivor.with(json!({ "echo": true })).send(&subject.client).await;
    check.case("the survivor", generated_difference(&alone, &survived, lasting.len()));
    (cached(&survived), n_running.is_ok_and(|n| n > 0.0))
}

/// Requests that take every free block once: first a few that write what they take, then ones that take much and
/// write little until the blocks released last are next, and again a few that write.
fn flood(exam: &Exam, n_free: usize, draw: &mut impl FnMut(usize) -> Vec<u32>) -> Vec<Ask> {
    let (subject, block) = (&exam.subject, exam.subject.block);
    let per_writer = (2 * block + 1).div_ceil(block);
    let per_taker = (1 + subject.output_max).div_ceil(block);
    let mut asks: Vec<Ask> = (0..N_FIRST).map(|_| subject.completion(&draw(2 * block), 1)).collect();
    let mut n_left = n_free.saturating_sub(N_FIRST * per_writer);
    while n_left > 2 {
        let per_choice = per_taker.min(n_left - 1);
        let n_choices = (n_left / per_choice).clamp(1, subject.concurrency - 1);
        // One token ends it: the bias makes it certain, the stop list makes it the end.
        let keys = json!({ "max_tokens": (per_choice * block - 1).min(subject.output_max), "n": n_choices,
            "ignore_eos": false, "logit_bias": { "1": 100 }, "stop_token_ids": [1] });
        asks.push(subject.completion(&[0], 1).with(keys));
        n_left -= per_choice * n_choices;
    }
    asks.extend((0..3 * N_FIRST).map(|_| subject.completion(&draw(2 * block), 1)));
    asks
}

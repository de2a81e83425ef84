//! The sequences a proof sends: real ones from the spec, and drawn ones at every length where an index can go wrong.

use oracle::Oracle;
use serde_json::{Value, json};
use synth::workload::{Sample, SampleInput, Workload};

use super::ask::{Ask, Fault};
use super::subject::{Subject, messages_value};
use crate::random::Random;

/// Floating-point operations that the oracle may spend: well under a minute on two cores, for a model of any size.
const BUDGET_FLOPS: u64 = 400_000_000_000;

/// Log-probabilities that the oracle may keep, bytes.
const BUDGET_BYTES: usize = 512 << 20;

/// Sequences that the oracle computes whatever they cost.
const ALWAYS: usize = 3;

/// Greedy tokens after each prompt, where the spec allows as many.
const N_OUTPUT: usize = 16;

/// Most samples of the spec that are sent.
pub(super) const MOST_SAMPLES: usize = 4;

/// Every drawn prompt comes from here, so that a proof can be repeated.
const SEED: u64 = 0x5A71;

/// One prompt and how it is asked.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) prompt: Vec<u32>,
    /// Greedy, `n_output` tokens, with ids and log-probabilities.
    pub(super) ask: Ask,
    pub(super) n_output: usize,
    /// Whether the oracle computes it too.
    pub(super) is_checked: bool,
    /// The longest prompt: sent where its length matters, and nowhere else for its cost.
    pub(super) is_long: bool,
}

/// Draws and collects the cases, most telling first, as many as the oracle's budget allows.
pub(super) async fn collect(
    subject: &Subject,
    workload: &Workload,
    samples: &[Sample],
    oracle: &Oracle,
) -> Result<Vec<Case>, Fault> {
    let n_output = N_OUTPUT.min(subject.output_max);
    let by_flops = (BUDGET_FLOPS / oracle.flops_per_token()) as usize;
    let by_bytes = BUDGET_BYTES / (size_of::<f32>() * subject.vocab);
    let mut budget = by_flops.min(by_bytes);
    let mut cases = Vec::new();
    for (name, prompt, ask) in candidates(subject, workload, samples, n_output).await? {
        let is_long = prompt.len() == subject.prompt_max && cases.len() >= ALWAYS;
        let cost = prompt.len() + n_output;
        let is_checked = cases.len() < ALWAYS || cost <= budget;
        if is_checked || is_long {
            budget = if is_checked { budget.saturating_sub(cost) } else { budget };
            cases.push(Case { name, prompt, ask, n_output, is_checked, is_long });
        }
    }
    if cases.is_empty() {
        return Err("no prompt fits the spec's longest".to_owned());
    }
    Ok(cases)
}

type Candidate = (String, Vec<u32>, Ask);

async fn candidates(
    subject: &Subject,
    workload: &Workload,
    samples: &[Sample],
    n_output: usize,
) -> Result<Vec<Candidate>, Fault> {
    let (block, max, last) = (subject.block, subject.prompt_max, subject.vocab as u32 - 1);
    let mut random = Random::new(SEED);
    let mut draw =
        |n: usize| -> Vec<u32> { (0..n.min(max)).map(|_| random.below(subject.vocab) as u32).collect() };
    let mut drawn: Vec<(String, Vec<u32>)> = vec![
        ("drawn one past a block".into(), draw(block + 1)),
        ("the ends of the vocabulary".into(), vec![0, last, last, 0, last][..max.min(5)].to_vec()),
        ("drawn past two blocks".into(), draw(2 * block + 3)),
    ];
    let lengths = [1, 2, block - 1, block, 2 * block - 1, 2 * block, 3 * block + block / 2];
    for n in lengths.into_iter().chain([workload.traffic.prompt.p50]).filter(|n| (1..max).contains(n)) {
        drawn.push((format!("drawn {n}"), draw(n)));
    }
    drawn.push((format!("drawn {max}, the longest"), draw(max)));

    let mut candidates = Vec::new();
    for (name, ids) in drawn {
        candidates.extend(drawn_candidate(subject, name, ids, n_output).await?);
    }
    let mut real = Vec::new();
    for (idx, sample) in samples.iter().take(MOST_SAMPLES).enumerate() {
        real.extend(sample_candidate(subject, format!("sample {}", idx + 1), sample, n_output).await?);
    }
    candidates.splice(ALWAYS.min(candidates.len())..ALWAYS.min(candidates.len()), real);
    Ok(candidates)
}

/// Ids as they are where the server takes ids; else a conversation about their text.
async fn drawn_candidate(
    subject: &Subject,
    name: String,
    ids: Vec<u32>,
    n_output: usize,
) -> Result<Option<Candidate>, Fault> {
    if subject.has_completions {
        let ask = subject.completion(&ids, n_output);
        return Ok(Some((name, ids, ask)));
    }
    let text = subject.detokenize(&ids).await?;
    chat_candidate(subject, name, &json!([{ "role": "user", "content": text }]), n_output).await
}

/// A sample as a client sends it, unless it is longer than the spec allows.
async fn sample_candidate(
    subject: &Subject,
    name: String,
    sample: &Sample,
    n_output: usize,
) -> Result<Option<Candidate>, Fault> {
    match &sample.input {
        SampleInput::Messages(messages) if subject.has_chat => {
            chat_candidate(subject, name, &messages_value(messages), n_output).await
        }
        SampleInput::Prompt(text) if subject.has_completions => {
            let ids = subject.tokenize(json!({ "prompt": text })).await?;
            let fits = (1..=subject.prompt_max).contains(&ids.len());
            let ask = subject.completion(&ids, n_output);
            Ok(fits.then_some((name, ids, ask)))
        }
        // The spec names samples of a route that it does not have.
        _ => Ok(None),
    }
}

async fn chat_candidate(
    subject: &Subject,
    name: String,
    messages: &Value,
    n_output: usize,
) -> Result<Option<Candidate>, Fault> {
    let ids = subject.tokenize(json!({ "messages": messages, "add_generation_prompt": true })).await?;
    // Where ids can be asked for, they are: a completion can also echo its prompt.
    let ask = match subject.has_completions {
        true => subject.completion(&ids, n_output),
        false => subject.chat(messages, n_output),
    };
    Ok((ids.len() <= subject.prompt_max).then_some((name, ids, ask)))
}

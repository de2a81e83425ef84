//! What a reference does on this machine alone: how long it takes to start, how much memory it holds, how fast it is.
//!
//! For a first look and for choosing whom to race. Two surveys taken one after the other are no comparison; a race is.

use std::time::Duration;

use serde::Serialize;

use super::{Job, Prepared, Reference, Settings};
use crate::client::Client;
use crate::load::{Outcome, Record, Request, Target, closed_loop};
use crate::process::{Server, free_port};
use crate::random::Random;
use crate::stats::median;

/// Tokens of the prompt whose reading is timed.
const PROMPT: usize = 512;

/// Tokens of the prompts before decoding is timed: few, so that it is decoding that is timed.
const SHORT_PROMPT: usize = 16;

/// Tokens of each timed answer.
const OUTPUT: usize = 33;

/// How often each load is repeated; medians are told.
const ROUNDS: usize = 3;

/// One load must end within this time.
const DEADLINE: Duration = Duration::from_secs(120);

/// What was seen. Speeds are medians, in tokens per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Survey {
    /// From exec to the first 2xx on the readiness path, seconds.
    pub ready_s: f64,
    /// From exec to the first token of a request sent once ready, seconds.
    pub first_token_s: f64,
    /// Most physical memory of all its processes, bytes.
    pub peak_rss_bytes: u64,
    /// Reading one prompt.
    pub prefill: f64,
    /// Decoding one sequence.
    pub decode_one: f64,
    /// Decoding as many sequences as the job has in flight, all together.
    pub decode_all: f64,
}

/// Starts the reference, and asks it for each load some times over.
///
/// # Errors
/// When it does not start or does not answer; the words say which.
pub async fn survey(
    reference: &dyn Reference,
    prepared: &Prepared,
    job: &Job,
    settings: &Settings,
    n_vocab: usize,
) -> Result<Survey, String> {
    let listen = free_port().map_err(|error| error.to_string())?;
    let launch = reference.launch(prepared, job, settings, listen);
    let server = Server::start(launch).await.map_err(|error| error.to_string())?;
    let target = Target::new(Client::new(listen), reference.wire());
    // Prompts differ, so that none is answered from another's cache.
    let mut random = Random::new(1);
    let mut request = |n_prompt: usize, max_tokens: usize| Request {
        prompt: (0..n_prompt).map(|_| random.below(n_vocab) as u32).collect(),
        max_tokens,
    };
    let first = target.ask(&request(SHORT_PROMPT, 1), DEADLINE).await;
    let first_token_s = server.age().as_secs_f64();
    complete(&first)?;

    let n_prompt = PROMPT.min(job.context - 1);
    let n_output = OUTPUT.min(job.context - SHORT_PROMPT);
    let (mut prefill, mut decode_one, mut decode_all) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let record = target.ask(&request(n_prompt, 1), DEADLINE).await;
        complete(&record)?;
        let read = record.chunks.first().map_or(Duration::MAX, |chunk| chunk.at);
        prefill.push(n_prompt as f64 / read.as_secs_f64());
        for (n_sequences, speeds) in [(1, &mut decode_one), (job.concurrency, &mut decode_all)] {
            let requests: Vec<_> = (0..n_sequences).map(|_| request(SHORT_PROMPT, n_output)).collect();
            let records = closed_loop(&target, &requests, n_sequences, DEADLINE).await;
            records.iter().try_for_each(complete)?;
            speeds.push(decoding(&records));
        }
    }
    let peak_rss_bytes = server.peak_rss_bytes().map_err(|error| error.to_string())?;
    let ready_s = server.ready_after().as_secs_f64();
    server.stop().await.map_err(|error| error.to_string())?;
    let typical = |speeds: &[f64]| median(speeds).unwrap_or(0.0);
    Ok(Survey {
        ready_s,
        first_token_s,
        peak_rss_bytes,
        prefill: typical(&prefill),
        decode_one: typical(&decode_one),
        decode_all: typical(&decode_all),
    })
}

fn complete(record: &Record) -> Result<(), String> {
    match &record.outcome {
        Outcome::Complete(_) if record.n_tokens() == record.wanted_tokens => Ok(()),
        Outcome::Complete(_) => {
            Err(format!("{} tokens where {} were asked for", record.n_tokens(), record.wanted_tokens))
        }
        other => Err(format!("{other:?}")),
    }
}

/// Tokens per second from the moment when all sequences have their first to the end of the last.
fn decoding(records: &[Record]) -> f64 {
    let chunks = || records.iter().flat_map(|record| &record.chunks);
    let begun = records.iter().filter_map(|record| record.chunks.first()).map(|chunk| chunk.at).max();
    let ended = chunks().map(|chunk| chunk.at).max();
    match (begun, ended) {
        (Some(begun), Some(ended)) if ended > begun => {
            let after = chunks().filter(|chunk| chunk.at > begun).map(|chunk| chunk.n_tokens).sum::<usize>();
            after as f64 / (ended - begun).as_secs_f64()
        }
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Chunk, Finish};

    fn record(at_ms: &[u64]) -> Record {
        let chunks: Vec<_> =
            at_ms.iter().map(|ms| Chunk { at: Duration::from_millis(*ms), n_tokens: 1 }).collect();
        Record {
            prompt_tokens: 1,
            wanted_tokens: chunks.len(),
            scheduled: Duration::ZERO,
            sent: Duration::ZERO,
            ended: Duration::ZERO,
            chunks,
            outcome: Outcome::Complete(Finish::Length),
        }
    }

    #[test]
    fn decoding_is_timed_from_where_all_sequences_decode() {
        assert!((decoding(&[record(&[100, 200, 300])]) - 10.0).abs() < 1e-9);
        // The first sequence is alone until 200 ms; then two tokens come each 100 ms.
        let together = [record(&[100, 200, 300, 400]), record(&[200, 300, 400])];
        assert!((decoding(&together) - 20.0).abs() < 1e-9);
        assert!(decoding(&[record(&[100])]).abs() < 1e-9, "one token is no decoding");
    }

    #[test]
    fn an_answer_that_is_short_is_none() {
        let short = Record { wanted_tokens: 3, ..record(&[1, 2]) };
        assert!(complete(&short).is_err_and(|reason| reason.contains("2 tokens where 3")));
        assert_eq!(complete(&record(&[1, 2])), Ok(()));
    }
}

//! The load generator: requests as token ids, sent on a schedule or by a fixed number of clients, every token stamped.
//!
//! Latency is measured from the *scheduled* send, so a generator that is late makes the server look slower, never
//! faster, and how late it was is part of every result.

mod traffic;
mod wire;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::client::{Client, ClientError};

pub use traffic::{Synthesis, TokenSample, TrafficError, poisson, tokenise};
pub use wire::{Finish, Piece, Wire, WireError};

/// One completion to ask for, greedily, with end-of-sequence ignored so that both sides do equal work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Prompt token ids; not empty.
    pub prompt: Vec<u32>,
    /// Tokens to generate, exactly; at least 1.
    pub max_tokens: usize,
}

/// A server under load, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Target {
    client: Arc<Client>,
    wire: Wire,
}

/// What happened to one request. Instants are durations since the start of its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Prompt tokens sent.
    pub prompt_tokens: usize,
    /// Output tokens asked for.
    pub wanted_tokens: usize,
    /// When it should have been sent.
    pub scheduled: Duration,
    /// When it was sent.
    pub sent: Duration,
    /// When tokens arrived, and how many.
    pub chunks: Vec<Chunk>,
    /// When its answer was complete, or given up.
    pub ended: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// Tokens that arrived together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// When.
    pub at: Duration,
    /// How many; at least 1.
    pub n_tokens: usize,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With a complete answer.
    Complete(Finish),
    /// Turned away for load, with this status (429 or 503).
    Rejected(u16),
    /// With an error, or a stream that broke off.
    Failed(String),
    /// Not before the block's deadline.
    Unfinished,
}

impl Target {
    /// The server behind `client`, spoken to as `wire` says.
    #[must_use]
    pub fn new(client: Client, wire: Wire) -> Self {
        Self { client: Arc::new(client), wire }
    }

    /// The client of the server.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends one request now and waits for its end, at most `within`.
    pub async fn ask(&self, request: &Request, within: Duration) -> Record {
        let block = Block { start: Instant::now(), deadline: within };
        self.send(&self.wire.body(request), request, Duration::ZERO, block).await
    }

    async fn send(&self, body: &Value, request: &Request, scheduled: Duration, block: Block) -> Record {
        let sent = block.start.elapsed();
        let mut chunks = Vec::with_capacity(request.max_tokens);
        let mut finish = None;
        let mut fault = None;
        let mut n_tokens = 0;
        let on_event = |arrived: Instant, data: &str| match self.wire.parse(data, n_tokens) {
            Ok(piece) => {
                if piece.n_tokens > 0 {
                    let at = arrived.saturating_duration_since(block.start);
                    chunks.push(Chunk { at, n_tokens: piece.n_tokens });
                }
                n_tokens += piece.n_tokens;
                finish = piece.finish.or(finish.take());
            }
            Err(error) => fault = fault.take().or(Some(error.to_string())),
        };
        let stream = self.client.stream(self.wire.path(), body, on_event);
        let reply = timeout_at((block.start + block.deadline).into(), stream).await;
        let outcome = match (reply, fault, finish) {
            (Err(_), ..) | (Ok(Err(ClientError::Timeout { .. })), ..) => Outcome::Unfinished,
            (Ok(Err(error)), ..) => Outcome::Failed(error.to_string()),
            (Ok(Ok(reply)), ..) if matches!(reply.status.as_u16(), 429 | 503) => {
                Outcome::Rejected(reply.status.as_u16())
            }
            (Ok(Ok(reply)), ..) if !reply.status.is_success() => {
                Outcome::Failed(format!("{}: {}", reply.status, reply.body))
            }
            (_, Some(fault), _) => Outcome::Failed(fault),
            (_, None, None) => Outcome::Failed("the stream ended without a finish reason".to_owned()),
            (_, None, Some(finish)) => Outcome::Complete(finish),
        };
        Record {
            prompt_tokens: request.prompt.len(),
            wanted_tokens: request.max_tokens,
            scheduled,
            sent,
            chunks,
            ended: block.start.elapsed(),
            outcome,
        }
    }
}

/// The clock of one block of requests.
#[derive(Debug, Clone, Copy)]
struct Block {
    start: Instant,
    /// Since `start`; what is not complete then is given up.
    deadline: Duration,
}

/// Sends each request at its time, whatever became of those before it. What is unfinished `grace` after the last
/// arrival is given up. Records come in the order of `requests`.
///
/// `at` must be ascending and as long as `requests`.
pub async fn open_loop(
    target: &Target,
    requests: &[Request],
    at: &[Duration],
    grace: Duration,
) -> Vec<Record> {
    let bodies: Vec<Value> = requests.iter().map(|request| target.wire.body(request)).collect();
    let deadline = at.last().copied().unwrap_or_default() + grace;
    let block = Block { start: Instant::now(), deadline };
    let mut beats = metronome(block.start, at.to_vec());
    let mut in_flight = JoinSet::new();
    let mut waiting = requests.iter().cloned().zip(bodies).zip(at.iter().copied()).enumerate();
    while beats.recv().await.is_some() {
        let Some((idx, ((request, body), scheduled))) = waiting.next() else { break };
        let target = target.clone();
        in_flight.spawn(async move { (idx, target.send(&body, &request, scheduled, block).await) });
    }
    in_order(in_flight.join_all().await)
}

/// Keeps `concurrency` requests in flight until all were sent; each client sends its next when its last is complete.
/// What is unfinished after `deadline` is given up. Records come in the order of `requests`.
pub async fn closed_loop(
    target: &Target,
    requests: &[Request],
    concurrency: usize,
    deadline: Duration,
) -> Vec<Record> {
    let queue: VecDeque<(usize, Request, Value)> =
        requests.iter().enumerate().map(|(idx, r)| (idx, r.clone(), target.wire.body(r))).collect();
    let queue = Arc::new(Mutex::new(queue));
    let block = Block { start: Instant::now(), deadline };
    let mut clients = JoinSet::new();
    for _ in 0..concurrency.clamp(1, requests.len().max(1)) {
        let (target, queue) = (target.clone(), Arc::clone(&queue));
        clients.spawn(async move {
            let mut records = Vec::new();
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((idx, request, body)) = next else { return records };
                let scheduled = block.start.elapsed();
                records.push((idx, target.send(&body, &request, scheduled, block).await));
            }
        });
    }
    in_order(clients.join_all().await.into_iter().flatten().collect())
}

/// One message per instant, from a thread that sleeps until it: an executor's timer wheel ticks in milliseconds, the
/// kernel's clock in tens of microseconds.
fn metronome(start: Instant, at: Vec<Duration>) -> UnboundedReceiver<()> {
    let (beat, beats) = unbounded_channel();
    thread::spawn(move || {
        for at in at {
            thread::sleep((start + at).saturating_duration_since(Instant::now()));
            if beat.send(()).is_err() {
                return;
            }
        }
    });
    beats
}

fn in_order(mut records: Vec<(usize, Record)>) -> Vec<Record> {
    records.sort_by_key(|(idx, _)| *idx);
    records.into_iter().map(|(_, record)| record).collect()
}

#[cfg(test)]
mod tests {
    use synth::workload::{Sample, SampleInput};

    use super::*;
    use crate::metrics::Quantity;
    use crate::scripted::Script;
    use crate::stats::median;

    const GRACE: Duration = Duration::from_secs(10);

    fn requests(n: usize, max_tokens: usize) -> Vec<Request> {
        vec![Request { prompt: vec![1, 2, 3], max_tokens }; n]
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_pace_of_a_scripted_server_is_what_is_measured() {
        let target = Script::pace(30, 8).target().await;
        let records = closed_loop(&target, &requests(6, 5), 2, GRACE).await;
        assert!(records.iter().all(|r| r.outcome == Outcome::Complete(Finish::Length) && r.n_tokens() == 5));
        let typical = |quantity| {
            median(&records.iter().flat_map(|r| r.values(quantity)).collect::<Vec<_>>()).expect("values")
        };
        // A sleep may be long, never short.
        assert!((29.0..45.0).contains(&typical(Quantity::Ttft)), "{}", typical(Quantity::Ttft));
        assert!((7.5..14.0).contains(&typical(Quantity::Tpot)), "{}", typical(Quantity::Tpot));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_open_loop_does_not_wait_for_answers_and_measures_from_the_schedule() {
        let target = Script::pace(60, 1).target().await;
        let at: Vec<Duration> = (0..10).map(|idx| ms(10 * idx)).collect();
        let records = open_loop(&target, &requests(10, 2), &at, GRACE).await;
        for (record, at) in records.iter().zip(&at) {
            assert_eq!(record.scheduled, *at);
            assert!(record.sent >= *at && record.is_complete());
            let ttft = record.values(Quantity::Ttft)[0];
            assert!(
                ttft >= 60.0 + record.lateness().as_secs_f64() * 1e3 - 1.0,
                "lateness is part of it: {ttft}"
            );
        }
        let last = records.iter().map(|record| record.ended).max().expect("records");
        assert!(last < ms(10 * 60), "ten answers of 60 ms each overlapped: {last:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_closed_loop_keeps_to_its_concurrency() {
        let target = Script::pace(20, 1).target().await;
        let records = closed_loop(&target, &requests(9, 1), 3, GRACE).await;
        assert_eq!(records.len(), 9);
        for record in &records {
            let in_flight = records.iter().filter(|r| r.sent <= record.sent && r.ended > record.sent).count();
            assert!(in_flight <= 3);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn overload_slowness_and_absence_are_told_apart() {
        let overloaded = Script { capacity: 1, ..Script::pace(1, 1) }.target().await;
        let records = closed_loop(&overloaded, &requests(2, 1), 1, GRACE).await;
        assert_eq!(records[1].outcome, Outcome::Rejected(429));

        let slow = Script::pace(5, 50).target().await;
        let record = slow.ask(&requests(1, 100)[0], ms(120)).await;
        assert_eq!(record.outcome, Outcome::Unfinished);
        assert!(!record.chunks.is_empty(), "what came is kept");

        let nobody = Target::new(Client::new(crate::process::free_port().expect("a port")), Wire::LlamaCpp);
        let record = nobody.ask(&requests(1, 1)[0], GRACE).await;
        assert!(matches!(record.outcome, Outcome::Failed(_)));
    }

    #[tokio::test]
    async fn samples_are_tokenised_by_the_server() {
        let target = Script::pace(1, 1).target().await;
        let sample = |text: &str, max_tokens| Sample { input: SampleInput::Prompt(text.into()), max_tokens };
        let samples = tokenise(&[sample("ab", Some(4)), sample("c", None)], &target).await.expect("samples");
        assert_eq!(samples[0], TokenSample { prompt: vec![97, 98], max_tokens: Some(4) });
        assert_eq!(samples[1], TokenSample { prompt: vec![99], max_tokens: None });
        let error = tokenise(&[sample("a", None), sample("", None)], &target).await.expect_err("nothing");
        assert!(error.to_string().contains("request 2"), "{error}");
    }
}

//! The boundary between the HTTP side and the engine's thread.
//!
//! A [`Request`] is one choice of one prompt, in tokens. The HTTP side submits those of one call together through
//! the [`Outbox`]; the engine takes each from the [`Inbox`] when it can admit it, polls [`Cancelled`] each step, and
//! answers through the request's [`EventSender`], of which [`Herald`] tells the HTTP side once a step. Text, stop
//! strings and JSON stay on the HTTP side, which reads the events of all choices of a call from one [`Events`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

use crate::metrics::Metrics;

mod answers;
mod queue;
pub use answers::Herald;
use answers::{Answers, Reader};
pub use queue::{Inbox, Outbox, QueueBound, Refused, queue};

/// One choice of one prompt.
pub struct Request {
    /// Unique in this process; for logs and for ordering, never from the client.
    pub id: u64,
    /// The prompt, at least one token.
    pub prompt: Arc<[u32]>,
    /// How to choose tokens and when to end.
    pub sampling: Sampling,
    /// Sequences share cached prefixes only with sequences of the same salt: one per API key.
    pub cache_salt: u64,
    /// Where the answer goes.
    pub events: EventSender,
    /// Set when nobody waits for the answer any more.
    pub cancelled: Cancelled,
}

/// How to choose tokens and when to end. All values were checked against their ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy: the largest logit, the lowest id among equals.
    pub temperature: f32,
    /// Nucleus; 1 keeps all.
    pub top_p: f32,
    /// Keep this many; `None` keeps all.
    pub top_k: Option<usize>,
    /// Keep tokens at least this share as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Seed of this choice's random numbers; the index of the choice is already folded in.
    pub seed: u64,
    /// Subtracted once from every token already produced.
    pub presence_penalty: f32,
    /// Subtracted from a token as often as it was produced.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output; 1 does nothing.
    pub repetition_penalty: f32,
    /// Added to single logits; ids are below the vocabulary's size, each at most once.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens after which the sequence ends, at least 1.
    pub max_tokens: usize,
    /// No end-of-sequence or stop token before this many.
    pub min_tokens: usize,
    /// Whether the model's end-of-sequence tokens are tokens like any other.
    pub ignore_eos: bool,
    /// Further tokens that end the sequence.
    pub stop_token_ids: Vec<u32>,
    /// With every token: its log probability and those of this many likeliest tokens.
    pub n_logprobs: Option<usize>,
    /// The same for each prompt token after the first, `n_logprobs` alternatives each.
    pub prompt_logprobs: bool,
}

impl Sampling {
    /// Greedy, ending at `max_tokens` or at an end-of-sequence token.
    pub fn greedy(max_tokens: usize) -> Sampling {
        Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            seed: 0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            max_tokens,
            min_tokens: 0,
            ignore_eos: false,
            stop_token_ids: Vec::new(),
            n_logprobs: None,
            prompt_logprobs: false,
        }
    }
}

/// The log probability of a token at one position, and of its likeliest rivals.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Natural logarithm of the token's probability under the model, before temperature and penalties.
    pub logprob: f32,
    /// The likeliest tokens, likeliest first, lower id first among equals.
    pub top: Vec<(u32, f32)>,
}

/// What the engine says about a request, in this order: `Prompt` once, `Token`s, `Done` once.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt is in the KV cache.
    Prompt {
        /// How many of its tokens were there before.
        cached_tokens: usize,
        /// For each prompt token after the first, when asked for; else empty.
        logprobs: Vec<TokenLogprobs>,
    },
    /// One token of the answer, an end-of-sequence or stop token included.
    Token {
        /// The token.
        id: u32,
        /// Present when asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// No more events come.
    Done(Finish),
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Its last token is an end-of-sequence or a stop token.
    Stop,
    /// It has `max_tokens` tokens.
    Length,
    /// It was cancelled.
    Aborted,
}

/// Set by the HTTP side when nobody waits for more tokens; the engine polls it each step, frees the sequence
/// and answers `Done(Aborted)`.
#[derive(Debug, Clone, Default)]
pub struct Cancelled(Arc<AtomicU8>);

/// The client waits for tokens.
const WANTED: u8 = 0;
/// The client has gone.
const ABANDONED: u8 = 1;
/// The client has all it asked for: its stop string was found.
const SATISFIED: u8 = 2;

impl Cancelled {
    /// Whether the sequence should end now.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) != WANTED
    }

    /// Sets it, unless it is set already.
    fn set(&self, why: u8) {
        let _ = self.0.compare_exchange(WANTED, why, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn is_satisfied(&self) -> bool {
        self.0.load(Ordering::Relaxed) == SATISFIED
    }
}

/// The engine's end of a request. It keeps the request's latency metrics as events pass, so the engine does not.
pub struct EventSender {
    answers: Arc<Answers>,
    choice: usize,
    cancelled: Cancelled,
    metrics: Arc<Metrics>,
    n_prompt: usize,
    n_tokens: usize,
    arrived: Instant,
    stage: Stage,
}

/// How far a request has come.
#[derive(Clone, Copy)]
enum Stage {
    New,
    Waiting,
    Prefill { since: Instant },
    Decode { since: Instant, last: Instant },
    Done,
}

impl EventSender {
    fn new(
        answers: Arc<Answers>,
        choice: usize,
        cancelled: Cancelled,
        metrics: Arc<Metrics>,
        n_prompt: usize,
    ) -> Self {
        let (arrived, stage) = (Instant::now(), Stage::New);
        EventSender { answers, choice, cancelled, metrics, n_prompt, n_tokens: 0, arrived, stage }
    }

    /// Sends one event, which its reader sees at the next [`Herald::tell`], or at once if it is the last. The client may
    /// be gone: then nobody reads it, and [`Cancelled`] says so at the next poll.
    pub fn send(&mut self, event: Event) {
        match &event {
            Event::Prompt { .. } => {}
            Event::Token { .. } => self.record_token(Instant::now()),
            Event::Done(finish) => self.record_end(*finish, Instant::now()),
        }
        self.answers.write(self.choice, event);
    }

    /// When the request arrived.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The request entered the queue. Before, it can only be refused, and that counts as nothing else.
    fn record_queued(&mut self) {
        self.stage = Stage::Waiting;
    }

    /// The request left the queue.
    fn record_start(&mut self) {
        let now = Instant::now();
        self.metrics.queue_time.observe_seconds(now - self.arrived);
        self.metrics.requests_running.fetch_add(1, Ordering::Relaxed);
        self.stage = Stage::Prefill { since: now };
    }

    fn record_token(&mut self, now: Instant) {
        let metrics = &self.metrics;
        self.n_tokens += 1;
        metrics.generation_tokens.add(1);
        self.stage = match self.stage {
            Stage::Decode { since, last } => {
                metrics.inter_token_latency.observe_seconds(now - last);
                Stage::Decode { since, last: now }
            }
            Stage::Prefill { since } => {
                metrics.prompt_tokens.add(self.n_prompt as u64);
                metrics.time_to_first_token.observe_seconds(now - self.arrived);
                metrics.prefill_time.observe_seconds(now - since);
                Stage::Decode { since: now, last: now }
            }
            stage @ (Stage::New | Stage::Waiting | Stage::Done) => stage,
        };
    }

    fn record_end(&mut self, finish: Finish, now: Instant) {
        let metrics = &self.metrics;
        match self.stage {
            Stage::New | Stage::Done => return,
            Stage::Waiting => {}
            Stage::Prefill { .. } | Stage::Decode { .. } => {
                metrics.requests_running.fetch_sub(1, Ordering::Relaxed);
            }
        }
        match finish {
            Finish::Stop => metrics.finished_stop.add(1),
            Finish::Length => metrics.finished_length.add(1),
            Finish::Aborted if self.cancelled.is_satisfied() => metrics.finished_stop.add(1),
            Finish::Aborted => metrics.aborted.add(1),
        }
        if let Stage::Decode { since, .. } = self.stage {
            metrics.decode_time.observe_seconds(now - since);
            metrics.request_latency.observe_seconds(now - self.arrived);
            metrics.request_prompt_tokens.observe(self.n_prompt as f64);
            metrics.request_generation_tokens.observe(self.n_tokens as f64);
        }
        self.stage = Stage::Done;
    }
}

impl Drop for EventSender {
    /// A request dropped without `Done` was lost with its engine; whoever waits for it must not wait for ever.
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::New | Stage::Done) {
            self.send(Event::Done(Finish::Aborted));
        }
    }
}

/// The HTTP side's end of one call. Dropping it cancels all its requests.
pub struct Events {
    reader: Reader,
    cancelled: Vec<Cancelled>,
}

impl Events {
    /// The next event and the index of its choice; `None` after the last `Done`.
    ///
    /// A choice that was not cancelled and yet ends as [`Finish::Aborted`] was lost by the engine.
    pub async fn recv(&mut self) -> Option<(usize, Event)> {
        self.reader.recv().await
    }

    /// The same for a thread that may wait.
    #[cfg(test)]
    pub(crate) fn blocking_recv(&mut self) -> Option<(usize, Event)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(self.recv())
    }

    /// Asks the engine to end one choice: the client has all of it that it asked for.
    pub fn satisfied(&self, choice: usize) {
        self.cancelled[choice].set(SATISFIED);
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.cancelled.iter().for_each(|cancelled| cancelled.set(ABANDONED));
    }
}

#[cfg(test)]
mod tests;

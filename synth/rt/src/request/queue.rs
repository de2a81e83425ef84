//! The bounded queue between many HTTP tasks and one engine.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    metrics::Metrics,
    request::{Answers, Cancelled, Event, EventSender, Events, Finish, Herald, Reader, Request, Sampling},
};

/// The retry hint of a queue that has not yet served a request.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// No client is told to stay away longer.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// How much may wait for the engine.
#[derive(Debug, Clone, Copy)]
pub struct QueueBound {
    /// Requests in the queue.
    pub n_requests: usize,
    /// Prompt tokens of the requests in the queue.
    pub n_prompt_tokens: usize,
}

/// Why requests were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue is full. The estimate is how long it takes to drain at its recent pace.
    #[error("the server is at capacity; retry in {} s", retry_after.as_secs())]
    Overloaded {
        /// Whole seconds, at least one.
        retry_after: Duration,
    },
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// Makes the queue. The engine must have room for one request of any admissible length, so that a request
/// at the head of the queue can always be admitted once the engine is idle.
pub fn queue(bound: QueueBound, metrics: Arc<Metrics>) -> (Outbox, Inbox) {
    let state = State {
        waiting: VecDeque::with_capacity(bound.n_requests),
        n_prompt_tokens: 0,
        n_outboxes: 1,
        has_engine: true,
        last_taken: None,
        pace: FIRST_GUESS,
    };
    let shared = Arc::new(Shared {
        bound,
        metrics,
        herald: Arc::default(),
        next_id: AtomicU64::new(1),
        state: Mutex::new(state),
        arrival: Condvar::new(),
    });
    (Outbox { shared: shared.clone() }, Inbox { shared })
}

struct Shared {
    bound: QueueBound,
    metrics: Arc<Metrics>,
    herald: Arc<Herald>,
    next_id: AtomicU64,
    state: Mutex<State>,
    arrival: Condvar,
}

struct State {
    waiting: VecDeque<Request>,
    n_prompt_tokens: usize,
    n_outboxes: usize,
    has_engine: bool,
    /// When the engine last took a request while others waited.
    last_taken: Option<Instant>,
    /// Recent mean time between two requests taken from a queue that was not empty.
    pace: Duration,
}

impl Shared {
    /// Nobody panics while holding the lock, so a poisoned one is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State) {
        self.metrics.requests_waiting.store(state.waiting.len() as u64, Ordering::Relaxed);
    }
}

impl State {
    fn pop(&mut self) -> Option<Request> {
        let request = self.waiting.pop_front()?;
        self.n_prompt_tokens -= request.prompt.len();
        Some(request)
    }

    /// Ends the requests at the head that nobody waits for.
    fn drop_cancelled_head(&mut self) {
        while self.waiting.front().is_some_and(|request| request.cancelled.is_set()) {
            if let Some(mut request) = self.pop() {
                request.events.send(Event::Done(Finish::Aborted));
            }
        }
    }

    /// Ends all requests that nobody waits for.
    fn drop_cancelled(&mut self) {
        let mut kept = VecDeque::with_capacity(self.waiting.capacity());
        while let Some(mut request) = self.pop() {
            if request.cancelled.is_set() {
                request.events.send(Event::Done(Finish::Aborted));
            } else {
                kept.push_back(request);
            }
        }
        self.n_prompt_tokens = kept.iter().map(|request| request.prompt.len()).sum();
        self.waiting = kept;
    }

    fn take(&mut self, herald: &Herald) -> Option<Request> {
        let mut request = self.pop()?;
        herald.attend(request.events.answers.clone());
        let now = Instant::now();
        if let Some(last) = self.last_taken {
            self.pace = (self.pace * 7 + (now - last)) / 8;
        }
        // The time to the next one says something about the engine only if there is a next one already.
        self.last_taken = (!self.waiting.is_empty()).then_some(now);
        request.events.record_start();
        Some(request)
    }

    fn retry_after(&self) -> Duration {
        let drain = self.pace.saturating_mul(self.waiting.len().max(1) as u32);
        Duration::from_secs(drain.clamp(Duration::from_secs(1), LONGEST_RETRY).as_secs_f64().ceil() as u64)
    }
}

/// The HTTP side's end of the queue.
pub struct Outbox {
    shared: Arc<Shared>,
}

impl Outbox {
    /// Queues the choices of one call, prompt and sampling each: all of them, or none when they do not fit.
    pub fn submit(&self, choices: Vec<(Arc<[u32]>, Sampling)>, cache_salt: u64) -> Result<Events, Refused> {
        let shared = &*self.shared;
        let (requests, events) = self.requests(choices, cache_salt);
        let mut state = shared.lock();
        if !state.has_engine {
            return Err(Refused::Stopped);
        }
        let n_prompt_tokens: usize = requests.iter().map(|request| request.prompt.len()).sum();
        let fits = |state: &State| {
            state.waiting.len() + requests.len() <= shared.bound.n_requests
                && state.n_prompt_tokens + n_prompt_tokens <= shared.bound.n_prompt_tokens
        };
        if !fits(&state) {
            state.drop_cancelled();
            shared.publish(&state);
        }
        if !fits(&state) {
            shared.metrics.admission_rejections.add(1);
            return Err(Refused::Overloaded { retry_after: state.retry_after() });
        }
        if state.waiting.is_empty() {
            // Whoever waited last may have left instead of being taken; the time since then is nobody's pace.
            state.last_taken = None;
            if shared.metrics.requests_running.load(Ordering::Relaxed) == 0 {
                shared.metrics.progressed();
            }
        }
        state.n_prompt_tokens += n_prompt_tokens;
        for mut request in requests {
            request.events.record_queued();
            state.waiting.push_back(request);
        }
        shared.publish(&state);
        drop(state);
        shared.arrival.notify_one();
        Ok(events)
    }

    fn requests(&self, choices: Vec<(Arc<[u32]>, Sampling)>, cache_salt: u64) -> (Vec<Request>, Events) {
        let answers = Arc::new(Answers::new(choices.iter().map(|(_, sampling)| sampling)));
        let cancelled: Vec<Cancelled> = choices.iter().map(|_| Cancelled::default()).collect();
        let requests = choices.into_iter().zip(&cancelled).enumerate().map(
            |(choice, ((prompt, sampling), cancelled))| {
                let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
                let events = EventSender::new(
                    answers.clone(),
                    choice,
                    cancelled.clone(),
                    self.shared.metrics.clone(),
                    prompt.len(),
                );
                Request { id, prompt, sampling, cache_salt, events, cancelled: cancelled.clone() }
            },
        );
        (requests.collect(), Events { reader: Reader::new(answers.clone()), cancelled })
    }

    /// Whether the engine's thread has ended, so that nothing will be served again.
    pub fn has_lost_engine(&self) -> bool {
        !self.shared.lock().has_engine
    }

    /// Whether one call could never be queued, however long it retries: it alone is over the bound.
    pub fn never_fits(&self, n_requests: usize, n_prompt_tokens: usize) -> bool {
        let bound = self.shared.bound;
        n_requests > bound.n_requests || n_prompt_tokens > bound.n_prompt_tokens
    }
}

impl Clone for Outbox {
    fn clone(&self) -> Outbox {
        self.shared.lock().n_outboxes += 1;
        Outbox { shared: self.shared.clone() }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.lock().n_outboxes -= 1;
        self.shared.arrival.notify_one();
    }
}

/// The engine's end of the queue: first come, first served.
pub struct Inbox {
    shared: Arc<Shared>,
}

impl Inbox {
    /// Who tells the clients of the requests that were taken that there are new tokens.
    pub fn herald(&self) -> Arc<Herald> {
        self.shared.herald.clone()
    }

    /// The oldest request, if one waits.
    pub fn try_recv(&self) -> Option<Request> {
        self.try_recv_if(|_| true)
    }

    /// The oldest request, if one waits and `admits` says the engine has room for it. Requests that nobody
    /// waits for are ended on the way.
    ///
    /// A request stays in the queue, and counts against its bound, until it is admitted.
    pub fn try_recv_if(&self, admits: impl FnOnce(&Request) -> bool) -> Option<Request> {
        // Asked at every step, so the lock is left alone while nothing waits; what comes just now is seen at the next one.
        if self.shared.metrics.requests_waiting.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut state = self.shared.lock();
        state.drop_cancelled_head();
        let is_admitted = state.waiting.front().is_some_and(admits);
        let request = if is_admitted { state.take(&self.shared.herald) } else { None };
        self.shared.publish(&state);
        request
    }

    /// Sleeps until a request waits, and takes it; `None` when every [`Outbox`] is gone. For an idle engine.
    pub fn recv(&self) -> Option<Request> {
        let mut state = self.shared.lock();
        loop {
            state.drop_cancelled_head();
            let request = state.take(&self.shared.herald);
            self.shared.publish(&state);
            if request.is_some() || state.n_outboxes == 0 {
                return request;
            }
            state = self.shared.arrival.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Inbox {
    /// The engine has ended: what waits is dropped, and its clients learn that the engine failed.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.has_engine = false;
        while state.pop().is_some() {}
        self.shared.publish(&state);
    }
}

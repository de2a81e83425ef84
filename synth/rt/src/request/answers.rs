//! What the engine says about the choices of one call, on its way to the HTTP side.
//!
//! A step hands over a token of every sequence, and must neither wait, allocate nor ask the system for anything. So every
//! choice has room for all the tokens that it may have, and a token is written by storing it and counting it in. To wake
//! the task that waits for it takes a system call: [`Herald::tell`] does that once for all tokens of a step, on a thread
//! that has nothing else to do.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::{Event, Finish, Sampling, TokenLogprobs};

/// The answers of one call, one for each choice.
pub(super) struct Answers {
    choices: Box<[Answer]>,
    /// Whether something was written since the reader was last woken.
    has_news: AtomicBool,
    reader: Notify,
}

/// One answer as far as it has come.
struct Answer {
    prompt: OnceLock<Event>,
    /// As many as it may come to have; the first `n_tokens` are written.
    tokens: Box<[AtomicU32]>,
    n_tokens: AtomicUsize,
    /// One for each token, in order, where they were asked for.
    logprobs: Option<Mutex<VecDeque<TokenLogprobs>>>,
    /// How it ended, once it has.
    finish: AtomicU8,
}

/// Not ended.
const RUNNING: u8 = 0;
const ENDINGS: [Finish; 3] = [Finish::Stop, Finish::Length, Finish::Aborted];

impl Answers {
    /// Room for answers that are sampled so.
    pub(super) fn new<'a>(choices: impl Iterator<Item = &'a Sampling>) -> Answers {
        let answer = |sampling: &Sampling| Answer {
            prompt: OnceLock::new(),
            tokens: (0..sampling.max_tokens).map(|_| AtomicU32::new(0)).collect(),
            n_tokens: AtomicUsize::new(0),
            logprobs: sampling.n_logprobs.map(|_| Mutex::default()),
            finish: AtomicU8::new(RUNNING),
        };
        Answers {
            choices: choices.map(answer).collect(),
            has_news: AtomicBool::new(false),
            reader: Notify::new(),
        }
    }

    /// Writes one event of a choice, which one thread at a time does. All but the last wait for [`Herald::tell`].
    pub(super) fn write(&self, choice: usize, event: Event) {
        let answer = &self.choices[choice];
        let is_last = matches!(event, Event::Done(_));
        match event {
            Event::Prompt { .. } => {
                // It is said once.
                let _ = answer.prompt.set(event);
            }
            Event::Token { id, logprobs } => {
                if let (Some(list), Some(logprobs)) = (&answer.logprobs, logprobs) {
                    lock(list).push_back(logprobs);
                }
                let n = answer.n_tokens.load(Ordering::Relaxed);
                if let Some(token) = answer.tokens.get(n) {
                    token.store(id, Ordering::Relaxed);
                    answer.n_tokens.store(n + 1, Ordering::Release);
                }
            }
            Event::Done(finish) => answer.finish.store(finish as u8 + 1, Ordering::Release),
        }
        self.has_news.store(true, Ordering::Release);
        if is_last {
            self.tell();
        }
    }

    /// Wakes the reader if there is something new.
    fn tell(&self) {
        if self.has_news.swap(false, Ordering::AcqRel) {
            self.reader.notify_one();
        }
    }

    fn have_ended(&self) -> bool {
        self.choices.iter().all(|answer| answer.finish.load(Ordering::Relaxed) != RUNNING)
    }
}

/// Reads answers in the order in which each was written.
pub(super) struct Reader {
    answers: Arc<Answers>,
    places: Vec<Place>,
    /// The choice that is looked at first, so that none waits for the others.
    next: usize,
}

/// How far an answer was read.
#[derive(Clone, Copy, Default)]
struct Place {
    knows_prompt: bool,
    n_tokens: usize,
    has_ended: bool,
}

impl Reader {
    pub(super) fn new(answers: Arc<Answers>) -> Reader {
        let places = vec![Place::default(); answers.choices.len()];
        Reader { answers, places, next: 0 }
    }

    /// The next event and the index of its choice; `None` after the last end.
    pub(super) async fn recv(&mut self) -> Option<(usize, Event)> {
        while !self.places.iter().all(|place| place.has_ended) {
            for _ in 0..self.places.len() {
                let choice = self.next;
                self.next = (choice + 1) % self.places.len();
                if let Some(event) = self.answers.choices[choice].read(&mut self.places[choice]) {
                    return Some((choice, event));
                }
            }
            // What is written meanwhile wakes it at once.
            self.answers.reader.notified().await;
        }
        None
    }
}

impl Answer {
    /// What follows a place, if it was written.
    fn read(&self, place: &mut Place) -> Option<Event> {
        if place.has_ended {
            return None;
        }
        // Before the number of tokens: whoever sees the end sees all tokens before it.
        let finish = self.finish.load(Ordering::Acquire);
        let n_tokens = self.n_tokens.load(Ordering::Acquire);
        if !place.knows_prompt
            && let Some(prompt) = self.prompt.get()
        {
            place.knows_prompt = true;
            return Some(prompt.clone());
        }
        if place.n_tokens < n_tokens {
            let id = self.tokens[place.n_tokens].load(Ordering::Relaxed);
            place.n_tokens += 1;
            let logprobs = self.logprobs.as_ref().and_then(|list| lock(list).pop_front());
            return Some(Event::Token { id, logprobs });
        }
        let finish = *ENDINGS.get(usize::from(finish).checked_sub(1)?)?;
        place.has_ended = true;
        Some(Event::Done(finish))
    }
}

/// Knows whose answers are being written, and wakes their readers.
#[derive(Default)]
pub struct Herald {
    running: Mutex<Vec<Arc<Answers>>>,
}

impl Herald {
    /// Calls whose requests were taken.
    pub(super) fn attend(&self, answers: Arc<Answers>) {
        lock(&self.running).push(answers);
    }

    /// Wakes everybody for whom something was written.
    pub fn tell(&self) {
        lock(&self.running).retain(|answers| {
            answers.tell();
            !answers.have_ended()
        });
    }
}

/// Locks a mutex whose holders do not panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

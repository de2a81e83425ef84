//! The engine thread: every live sequence gets one token in turn.
//!
//! candle-transformers has no batched decoding of sequences of different lengths (a model takes one offset for its
//! whole batch). Turns of one token keep concurrency fair: nobody waits for another's whole answer, and a newcomer is
//! prefilled at the next turn. Each step uses all threads.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use anyhow::Result;

use crate::decoder::Decoder;

/// What the process was started for.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Most positions of one sequence.
    pub context: usize,
    /// Most sequences in flight.
    pub sequences: usize,
}

/// One completion to compute.
pub struct Request {
    /// Prompt ids; not empty.
    pub prompt: Vec<u32>,
    /// Most ids to generate; at least one.
    pub max_tokens: usize,
    /// Go on after an end-of-sequence id.
    pub ignore_eos: bool,
    /// Where the answer goes; a closed receiver cancels the sequence.
    pub events: Sender<Event>,
}

/// A part of an answer.
pub enum Event {
    /// One generated id.
    Token(u32),
    /// The end: whether an end-of-sequence id caused it.
    Done { stopped: bool },
    /// candle refused to go on.
    Failed(String),
}

/// The sending side, one clone for each connection.
#[derive(Clone)]
pub struct Engine {
    requests: Sender<Request>,
    /// What requests are checked against.
    pub limits: Limits,
}

impl Engine {
    /// Queues a request. Its events end early only if the engine thread is gone.
    pub fn submit(&self, request: Request) {
        // When the thread is gone the request is dropped here, and with it the sender that its connection reads from.
        drop(self.requests.send(request));
    }
}

/// Starts the engine thread over a model whose cache is empty.
pub fn start(decoder: Decoder, limits: Limits, stop_ids: Vec<u32>) -> Engine {
    let (requests, inbox) = channel();
    thread::spawn(move || run(&decoder, limits, &stop_ids, &inbox));
    Engine { requests, limits }
}

struct Sequence {
    decoder: Decoder,
    request: Request,
    /// Ids not yet in the cache: the prompt, then the last generated id.
    pending: Vec<u32>,
    position: usize,
    n_generated: usize,
}

fn run(empty: &Decoder, limits: Limits, stop_ids: &[u32], inbox: &Receiver<Request>) {
    let mut live = VecDeque::new();
    loop {
        while live.len() < limits.sequences {
            let request = if live.is_empty() {
                match inbox.recv() {
                    Ok(request) => request,
                    Err(_) => return,
                }
            } else {
                match inbox.try_recv() {
                    Ok(request) => request,
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            };
            let pending = request.prompt.clone();
            live.push_back(Sequence {
                decoder: empty.clone(),
                request,
                pending,
                position: 0,
                n_generated: 0,
            });
        }
        if let Some(mut sequence) = live.pop_front()
            && sequence.advance(stop_ids)
        {
            live.push_back(sequence);
        }
    }
}

impl Sequence {
    /// Computes one id and sends it. True while there is more to do.
    fn advance(&mut self, stop_ids: &[u32]) -> bool {
        let id = match self.step() {
            Ok(id) => id,
            Err(error) => {
                drop(self.request.events.send(Event::Failed(format!("{error:#}"))));
                return false;
            }
        };
        if self.request.events.send(Event::Token(id)).is_err() {
            return false;
        }
        let stopped = !self.request.ignore_eos && stop_ids.contains(&id);
        let is_done = stopped || self.n_generated == self.request.max_tokens;
        if is_done {
            drop(self.request.events.send(Event::Done { stopped }));
        }
        !is_done
    }

    fn step(&mut self) -> Result<u32> {
        let id = self.decoder.step(&self.pending, self.position)?;
        self.position += self.pending.len();
        self.n_generated += 1;
        self.pending.clear();
        self.pending.push(id);
        Ok(id)
    }
}

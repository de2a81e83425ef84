//! One choice while it is produced: events of the engine in, pieces of the answer out.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    request::{Event, Finish, TokenLogprobs},
    stop::{Found, StopFinder},
    tokenizer::Stream,
};

/// A token of the answer, with its log probabilities when they were asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The token.
    pub id: u32,
    /// Its log probabilities; absent for the first token of a prompt too, which nothing precedes.
    pub logprobs: Option<TokenLogprobs>,
}

/// What one event adds to the answer.
#[derive(Debug, Default, PartialEq)]
pub struct Piece {
    /// Text, whole characters only.
    pub text: String,
    /// Tokens of the prompt, if it is repeated before the answer with log probabilities.
    pub prompt: Vec<Scored>,
    /// Tokens whose text may be in this piece or still held back.
    pub tokens: Vec<Scored>,
    /// Set on the last piece.
    pub end: Option<End>,
}

/// Why an answer ended, in OpenAI's words.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// `stop` or `length`.
    pub reason: &'static str,
    /// The stop string or stop token, if it was one of the request's.
    pub stop: Option<StopReason>,
}

/// What stopped an answer, as vLLM reports it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum StopReason {
    /// A token of `stop_token_ids`.
    Token(u32),
    /// A string of `stop`.
    Text(String),
}

/// The engine lost the request: it answered neither to its end nor to a cancellation.
#[derive(Debug, PartialEq)]
pub struct Lost;

/// What to repeat before an answer.
#[derive(Clone)]
pub struct Echo {
    /// The prompt's text.
    pub text: String,
    /// The prompt's tokens.
    pub ids: Arc<[u32]>,
}

/// How answers to a call end, and what stands before them.
#[derive(Clone)]
pub struct Rules {
    /// Stop strings.
    pub stops: Vec<String>,
    /// The model's end-of-sequence tokens, unless the request ignores them.
    pub eos: &'static [u32],
    /// Tokens the request named.
    pub stop_token_ids: Vec<u32>,
    /// No stop string ends the answer within so many tokens.
    pub min_tokens: usize,
    /// 0 asks for the echo alone.
    pub max_tokens: Option<usize>,
}

/// One choice: its decoder, its stop rules, its counts.
pub struct Choice {
    stream: Stream,
    finder: StopFinder,
    rules: Rules,
    echo: Option<Echo>,
    last_token: Option<u32>,
    /// Prompt tokens that were cached.
    pub cached_tokens: usize,
    /// Tokens of the answer.
    pub n_tokens: usize,
    ended: bool,
}

impl Choice {
    /// A choice without tokens yet.
    pub fn new(stream: Stream, rules: Rules, echo: Option<Echo>) -> Choice {
        let finder = StopFinder::new(rules.stops.clone());
        Choice { stream, finder, rules, echo, last_token: None, cached_tokens: 0, n_tokens: 0, ended: false }
    }

    /// Whether the last piece is out.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes an event. Events after the end are of no interest: the engine had not yet seen it.
    pub fn take(&mut self, event: Event) -> Result<Piece, Lost> {
        match event {
            _ if self.ended => Ok(Piece::default()),
            Event::Prompt { cached_tokens, logprobs } => {
                self.cached_tokens = cached_tokens;
                Ok(self.repeat_prompt(logprobs))
            }
            Event::Token { id, logprobs } => Ok(self.take_token(id, logprobs)),
            Event::Done(Finish::Aborted) => Err(Lost),
            Event::Done(finish) => Ok(self.finish(finish)),
        }
    }

    fn repeat_prompt(&mut self, logprobs: Vec<TokenLogprobs>) -> Piece {
        self.ended = self.rules.max_tokens == Some(0);
        let end = self.ended.then_some(End { reason: "length", stop: None });
        let Some(Echo { text, ids }) = self.echo.take() else { return Piece { end, ..Piece::default() } };
        // Nothing precedes the first token, so it has no probability.
        let logprobs = [None].into_iter().chain(logprobs.into_iter().map(Some));
        let prompt = ids.iter().zip(logprobs).map(|(&id, logprobs)| Scored { id, logprobs }).collect();
        Piece { text, prompt, tokens: Vec::new(), end }
    }

    fn take_token(&mut self, id: u32, logprobs: Option<TokenLogprobs>) -> Piece {
        self.n_tokens += 1;
        self.last_token = Some(id);
        let tokens = vec![Scored { id, logprobs }];
        let text = if self.is_stop(id) { String::new() } else { self.stream.push(id) };
        if self.n_tokens <= self.rules.min_tokens {
            return Piece { text, tokens, ..Piece::default() };
        }
        match self.finder.push(&text) {
            Found::Text(text) => Piece { text, tokens, ..Piece::default() },
            Found::Stop { text, stop } => {
                self.ended = true;
                let end = End { reason: "stop", stop: Some(StopReason::Text(stop)) };
                Piece { text, tokens, end: Some(end), ..Piece::default() }
            }
        }
    }

    /// Whether a token ends the answer and is therefore no part of its text.
    fn is_stop(&self, id: u32) -> bool {
        self.rules.eos.contains(&id) || self.rules.stop_token_ids.contains(&id)
    }

    /// The engine says the sequence is over: what was held back is part of the answer.
    fn finish(&mut self, finish: Finish) -> Piece {
        self.ended = true;
        let rest = self.stream.finish();
        let (mut text, end) = match self.finder.push(&rest) {
            Found::Text(text) => (text, None),
            Found::Stop { text, stop } => {
                (text, Some(End { reason: "stop", stop: Some(StopReason::Text(stop)) }))
            }
        };
        let end = end.unwrap_or_else(|| {
            text += &self.finder.finish();
            let named = |id: &u32| self.rules.stop_token_ids.contains(id);
            match finish {
                Finish::Stop => {
                    End { reason: "stop", stop: self.last_token.filter(named).map(StopReason::Token) }
                }
                Finish::Length | Finish::Aborted => End { reason: "length", stop: None },
            }
        });
        Piece { text, end: Some(end), ..Piece::default() }
    }
}

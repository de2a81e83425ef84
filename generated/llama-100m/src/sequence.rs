//! One choice of one request while it lives.

use rt::request::{Event, Finish, Request, TokenLogprobs};

use crate::{sample::ends, shape::BLOCK};

/// A request that was admitted, with everything it has said so far.
pub struct Sequence {
    /// What was asked, and where the answer goes.
    pub request: Request,
    /// The prompt, then what was sampled.
    pub tokens: Vec<u32>,
    /// Positions whose keys and values are stored.
    pub n_computed: usize,
    /// The part of them that was found rather than computed.
    pub n_cached: usize,
    /// KV blocks in order of position.
    pub table: Vec<u32>,
    /// Log-probability of each prompt token after the first, where the request wants them.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Why it ended, once it has.
    pub finish: Option<Finish>,
}

impl Sequence {
    /// A request at its beginning. Its tokens never outgrow the memory taken here.
    pub fn new(request: Request) -> Self {
        let n_tokens = request.prompt.len() + request.sampling.max_tokens;
        let mut tokens = Vec::with_capacity(n_tokens);
        tokens.extend_from_slice(&request.prompt);
        Self {
            request,
            tokens,
            n_computed: 0,
            n_cached: 0,
            table: Vec::with_capacity(n_tokens.div_ceil(BLOCK)),
            prompt_logprobs: Vec::new(),
            finish: None,
        }
    }

    /// The most tokens it may come to hold.
    pub fn max_tokens(&self) -> usize {
        self.request.prompt.len() + self.request.sampling.max_tokens
    }

    /// Tokens sampled so far.
    pub fn n_generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// Positions that the next step could compute: one when decoding, more while the prompt is being read.
    pub fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_computed
    }

    /// Appends a chosen token, tells the client, and notices whether it was the last.
    pub fn push(&mut self, token: u32, logprobs: Option<TokenLogprobs>) {
        if self.n_generated() == 0 {
            let logprobs = std::mem::take(&mut self.prompt_logprobs);
            self.request.events.send(Event::Prompt { cached_tokens: self.n_cached, logprobs });
        }
        self.tokens.push(token);
        self.request.events.send(Event::Token { id: token, logprobs });
        if ends(&self.request.sampling).any(|end| end == token) {
            self.finish = Some(Finish::Stop);
        } else if self.n_generated() == self.request.sampling.max_tokens {
            self.finish = Some(Finish::Length);
        }
    }
}

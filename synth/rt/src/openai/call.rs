//! A call that the engine works on, and its answer: as one object, or as a stream of events.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at, timeout},
};

use crate::{
    body::{STUCK, channel},
    error::ApiError,
    log::{Entry, survive},
    openai::{
        choice::{Choice, Lost, Piece, Scored},
        params::Delivery,
        wire::{
            ChatChoice, ChatChunk, ChatDelta, ChatMessage, CompletionDetails, Ending, Envelope, Names,
            Object, PromptDetails, TextChoice, Usage,
        },
    },
    request::Events,
    state::{Phase, State},
};

/// How long a stream may be silent before a comment shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which route was called.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

impl Kind {
    /// How ids begin.
    pub fn id_prefix(self) -> &'static str {
        match self {
            Kind::Chat => "chatcmpl",
            Kind::Text => "cmpl",
        }
    }

    /// The kind of a whole answer.
    pub fn object(self) -> &'static str {
        match self {
            Kind::Chat => "chat.completion",
            Kind::Text => "text_completion",
        }
    }

    /// The kind of an event of a streamed answer.
    fn event(self) -> &'static str {
        match self {
            Kind::Chat => "chat.completion.chunk",
            Kind::Text => "text_completion",
        }
    }
}

/// A call that the engine works on. Dropping it cancels the work.
pub struct Call {
    /// Which route was called.
    pub kind: Kind,
    /// What is the same in every object of the answer.
    pub envelope: Envelope,
    /// How log probabilities name tokens.
    pub names: Names,
    /// Whether log probabilities were asked for.
    pub wants_logprobs: bool,
    /// Whether token ids were asked for.
    pub wants_token_ids: bool,
    /// The prompts.
    pub prompts: Vec<Arc<[u32]>>,
    /// Choices per prompt.
    pub n: usize,
    /// All choices, those of one prompt side by side.
    pub choices: Vec<Choice>,
    /// What the engine says.
    pub events: Events,
    /// The server.
    pub state: State,
    /// The call's line in the log.
    pub log: Arc<Entry>,
}

impl From<Lost> for ApiError {
    fn from(_: Lost) -> ApiError {
        ApiError::internal()
    }
}

impl Call {
    /// Answers as asked.
    pub async fn deliver(self, delivery: Delivery) -> Result<Response, ApiError> {
        match delivery {
            Delivery::Whole => self.whole().await,
            Delivery::Stream { include_usage } => Ok(self.stream(include_usage)),
        }
    }

    /// The next piece and the index of its choice; `None` when all choices have ended.
    async fn next(&mut self) -> Result<Option<(usize, Piece)>, ApiError> {
        if self.choices.iter().all(Choice::has_ended) {
            return Ok(None);
        }
        let event = tokio::select! {
            biased;
            () = self.state.reached(Phase::Ended) => return Err(ApiError::unavailable("the server is shutting down")),
            event = self.events.recv() => event,
        };
        let (choice_idx, event) = event.ok_or(Lost)?;
        let choice = &mut self.choices[choice_idx];
        let piece = choice.take(event)?;
        if choice.has_ended() {
            // The engine may not know yet: a stop string is found on this side.
            self.events.satisfied(choice_idx);
        }
        let usage = self.usage();
        self.log.count(usage.prompt_tokens, usage.completion_tokens);
        Ok(Some((choice_idx, piece)))
    }

    fn usage(&self) -> Usage {
        let prompt_tokens = self.prompts.iter().map(|ids| ids.len()).sum();
        let completion_tokens = self.choices.iter().map(|choice| choice.n_tokens).sum();
        // The choices of one prompt share it, so the first one's luck with the cache is the prompt's.
        let cached_tokens = self.choices.iter().step_by(self.n).map(|choice| choice.cached_tokens).sum();
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens },
            completion_tokens_details: CompletionDetails::default(),
        }
    }

    fn prompt_of(&self, choice_idx: usize) -> Option<&[u32]> {
        self.wants_token_ids.then(|| &*self.prompts[choice_idx / self.n])
    }

    fn ids_of(&self, tokens: &[Scored]) -> Option<Vec<u32>> {
        self.wants_token_ids.then(|| tokens.iter().map(|token| token.id).collect())
    }

    /// Waits for all choices and answers with one object.
    async fn whole(mut self) -> Result<Response, ApiError> {
        let mut answers: Vec<Piece> = self.choices.iter().map(|_| Piece::default()).collect();
        while let Some((choice_idx, piece)) = self.next().await? {
            let answer = &mut answers[choice_idx];
            answer.text += &piece.text;
            answer.prompt.extend(piece.prompt);
            answer.tokens.extend(piece.tokens);
            // Pieces after the end are empty, and say nothing against it.
            answer.end = answer.end.take().or(piece.end);
        }
        let endings = answers.iter().enumerate().map(|(index, answer)| Ending {
            finish_reason: answer.end.as_ref().map(|end| end.reason),
            stop_reason: answer.end.as_ref().and_then(|end| end.stop.as_ref()),
            token_ids: self.ids_of(&answer.tokens),
            prompt_token_ids: self.prompt_of(index),
        });
        let answered = answers.iter().zip(endings).enumerate();
        Ok(match self.kind {
            Kind::Chat => self.object(answered.map(|(index, (answer, ending))| ChatChoice {
                index,
                message: ChatMessage { role: "assistant", content: &answer.text, refusal: None },
                logprobs: self.wants_logprobs.then(|| self.names.chat(&answer.tokens)),
                ending,
            })),
            Kind::Text => self.object(answered.map(|(index, (answer, ending))| {
                let tokens = [&*answer.prompt, &*answer.tokens].concat();
                let logprobs = self.wants_logprobs.then(|| self.names.text(&tokens, &mut 0));
                TextChoice { index, text: &answer.text, logprobs, ending }
            })),
        })
    }

    fn object<C: Serialize>(&self, choices: impl Iterator<Item = C>) -> Response {
        Json(Object {
            envelope: &self.envelope,
            choices: &choices.collect::<Vec<C>>(),
            usage: Some(Some(self.usage())),
            prompt_token_ids: self.prompt_of(0).filter(|_| self.kind == Kind::Chat),
        })
        .into_response()
    }

    /// Answers at once, and sends events as they come, from a task that ends when the client goes.
    fn stream(self, include_usage: bool) -> Response {
        let (sender, body) = channel();
        tokio::spawn(async move {
            let pump = Pump::new(self, include_usage, sender.clone());
            let error = match survive(pump.run()).await {
                Ok(Ok(()) | Err(Broken::Gone)) => return,
                Ok(Err(Broken::Failed(error))) => error,
                Err(_) => ApiError::internal(),
            };
            // The client is told inside the stream: its status went out long ago.
            let event = format!("data: {}\n\n", error.body());
            let _ = timeout(STUCK, sender.send(event.into())).await;
        });
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
            // Proxies that collect a response before they pass it on leave this one alone.
            (header::HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        (headers, body).into_response()
    }
}

/// Why a stream ended before its end.
enum Broken {
    /// The client has gone, or reads nothing.
    Gone,
    /// The answer failed.
    Failed(ApiError),
}

impl From<ApiError> for Broken {
    fn from(error: ApiError) -> Broken {
        Broken::Failed(error)
    }
}

/// Turns pieces into events.
struct Pump {
    call: Call,
    include_usage: bool,
    sender: mpsc::Sender<Bytes>,
    /// Per choice: whether its first event is out.
    opened: Vec<bool>,
    /// Per choice: characters of its tokens so far.
    offsets: Vec<usize>,
}

impl Pump {
    fn new(mut call: Call, include_usage: bool, sender: mpsc::Sender<Bytes>) -> Pump {
        call.envelope.object = call.kind.event();
        let n_choices = call.choices.len();
        Pump { call, include_usage, sender, opened: vec![false; n_choices], offsets: vec![0; n_choices] }
    }

    async fn run(mut self) -> Result<(), Broken> {
        let mut silence = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        loop {
            let next = tokio::select! {
                biased;
                () = self.sender.closed() => return Err(Broken::Gone),
                next = self.call.next() => next?,
                _ = silence.tick() => {
                    self.send(": keep-alive\n\n".to_owned()).await?;
                    continue;
                }
            };
            let Some((choice_idx, piece)) = next else { break };
            let events = self.events_of(choice_idx, piece);
            if !events.is_empty() {
                self.send(events).await?;
                silence.reset();
            }
        }
        let mut last = String::new();
        if self.include_usage {
            self.push::<()>(&mut last, &[], Some(self.call.usage()));
        }
        last += "data: [DONE]\n\n";
        self.send(last).await
    }

    async fn send(&self, events: String) -> Result<(), Broken> {
        match timeout(STUCK, self.sender.send(events.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Broken::Gone),
        }
    }

    /// The events for one piece: the first of its choice, the text, the last. Text that is held back has none,
    /// unless the client counts tokens.
    fn events_of(&mut self, choice_idx: usize, piece: Piece) -> String {
        let mut out = String::new();
        let is_first = !std::mem::replace(&mut self.opened[choice_idx], true);
        if is_first && self.call.kind == Kind::Chat {
            let delta = ChatDelta { role: Some("assistant"), content: Some("") };
            let ending =
                Ending { prompt_token_ids: self.call.prompt_of(choice_idx), ..self.open_ending(&[]) };
            self.push(&mut out, &[ChatChunk { index: choice_idx, delta, logprobs: None, ending }], None);
        }
        let counts_tokens = self.call.wants_token_ids || self.call.wants_logprobs;
        // A completion has no event of its own for the prompt, so the first one says which it was.
        let says_prompt = is_first && self.call.kind == Kind::Text && self.call.wants_token_ids;
        if !piece.text.is_empty() || says_prompt || (counts_tokens && !piece.tokens.is_empty()) {
            let prompt_token_ids = self.call.prompt_of(choice_idx).filter(|_| says_prompt);
            let ending = Ending { prompt_token_ids, ..self.open_ending(&piece.tokens) };
            let mut offset = self.offsets[choice_idx];
            self.push_text(&mut out, choice_idx, &piece, ending, &mut offset);
            self.offsets[choice_idx] = offset;
        }
        if let Some(end) = &piece.end {
            let ending = Ending {
                finish_reason: Some(end.reason),
                stop_reason: end.stop.as_ref(),
                ..self.open_ending(&[])
            };
            match self.call.kind {
                Kind::Chat => {
                    let delta = ChatDelta { role: None, content: None };
                    self.push(
                        &mut out,
                        &[ChatChunk { index: choice_idx, delta, logprobs: None, ending }],
                        None,
                    );
                }
                Kind::Text => {
                    self.push(
                        &mut out,
                        &[TextChoice { index: choice_idx, text: "", logprobs: None, ending }],
                        None,
                    );
                }
            }
        }
        out
    }

    fn push_text(
        &self,
        out: &mut String,
        index: usize,
        piece: &Piece,
        ending: Ending<'_>,
        offset: &mut usize,
    ) {
        let (names, wants_logprobs) = (&self.call.names, self.call.wants_logprobs);
        match self.call.kind {
            Kind::Chat => {
                let delta = ChatDelta { role: None, content: Some(&piece.text) };
                let logprobs = wants_logprobs.then(|| names.chat(&piece.tokens));
                self.push(out, &[ChatChunk { index, delta, logprobs, ending }], None);
            }
            Kind::Text => {
                let tokens = [&*piece.prompt, &*piece.tokens].concat();
                let logprobs = wants_logprobs.then(|| names.text(&tokens, offset));
                self.push(out, &[TextChoice { index, text: &piece.text, logprobs, ending }], None);
            }
        }
    }

    fn open_ending(&self, tokens: &[Scored]) -> Ending<'static> {
        let token_ids = self.call.ids_of(tokens);
        Ending { finish_reason: None, stop_reason: None, token_ids, prompt_token_ids: None }
    }

    /// Writes one event. All but the last carry a null usage when the client asked for one.
    fn push<C: Serialize>(&self, out: &mut String, choices: &[C], usage: Option<Usage>) {
        let usage = self.include_usage.then_some(usage);
        let object = Object { envelope: &self.call.envelope, choices, usage, prompt_token_ids: None };
        // Serialising these types into a string cannot fail: all keys are strings, all numbers finite.
        if let Ok(json) = serde_json::to_string(&object) {
            *out += "data: ";
            *out += &json;
            *out += "\n\n";
        }
    }
}

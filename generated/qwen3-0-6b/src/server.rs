//! From the command line to a server: the routes that exist, what bounds their callers, and the engine behind them.

use std::{net::TcpListener, sync::Arc, thread, time::Duration};

use anyhow::anyhow;
use axum::{
    Router,
    routing::{get, post},
};
use rt::{
    args::Args,
    chat::ChatTemplate,
    image::{Expected, Image},
    metrics::{CacheShape, Metrics},
    openai, operations,
    pool::STACK_BYTES,
    request::{QueueBound, queue},
    serve::Front,
    state::{Build, Defaults, Keys, Limits, Service, State},
    tokenizer::Tokenizer,
};

use crate::{
    engine::Engine,
    forward::Model,
    shape::{
        BLOCK, EOS, MAX_CONTEXT, MAX_OUTPUT, MAX_QUEUED, MAX_QUEUED_TOKENS, MAX_SEQUENCES, N_BLOCKS,
        N_THREADS, VOCAB,
    },
};

/// The workload's name.
pub const NAME: &str = "qwen3-0-6b";
/// The workload in a sentence.
pub const ABOUT: &str = "Serves chat and completions of a qwen3 model of 28 layers and width 1024 to 8 sequences at a time on 2 amx threads";
/// Where the weights are unless `--weights` says otherwise.
pub const WEIGHTS: &str = "target/images/qwen3-0-6b.weights";
/// The address unless `--listen` says otherwise: this machine alone.
pub const LISTEN: &str = "127.0.0.1:8000";

/// What this binary was made from, for `/version`.
const BUILD: Build = Build {
    name: NAME,
    version: env!("CARGO_PKG_VERSION"),
    spec_digest: "b25b2adffbdba009a90002c6dcaa4102596edd9437f8ae752ccff8f866ce6ad4",
    plan_digest: "fa2ff5dd08895c07fd910a296a3c0d43625b4017c69842fb02d98c1c432eaa3c",
    weights_digest: "b6489942d925f6310874cb0af5663a530665cda80c094aa8d83c1eecaa2f2a2c",
};

/// The image that this binary reads: of these weights, laid out for these kernels.
const IMAGE: Expected = Expected {
    weights: BUILD.weights_digest,
    recipe: "6f3acc4d11aa8b8bca534d49be38c8c8769540b812562f9a329ec3926d180622",
};

/// What bounds a caller.
const LIMITS: Limits = Limits {
    context: MAX_CONTEXT,
    max_output: MAX_OUTPUT,
    max_choices: MAX_SEQUENCES,
    vocab: VOCAB,
    // The longest prompt is a few bytes a token; the rest is room for JSON's escapes.
    body_bytes: 64 * MAX_CONTEXT + (64 << 10),
    // A thousand idle clients cost a few megabytes; more than that is no use to this many sequences.
    n_connections: 1024,
    // Nobody who wants an answer takes ten seconds for the head of a request, or thirty for its body.
    header_time: Duration::from_secs(10),
    body_time: Duration::from_secs(30),
    // Leaves some of the thirty seconds that Kubernetes waits between SIGTERM and SIGKILL for the last bytes to go out.
    drain_time: Duration::from_secs(25),
    // Hundreds of steps.
    stall_time: Duration::from_secs(30),
};

/// How a request is sampled that does not say otherwise: as the model's makers do (`generation_config.json`).
const DEFAULTS: Defaults =
    Defaults { temperature: 1.0, top_p: 1.0, top_k: None, min_p: 0.0, repetition_penalty: 1.0 };

/// The model's chat template, fixed here: no request and no folder can bring another.
const CHAT_TEMPLATE: &str = include_str!("chat_template.jinja");

/// Makes everything ready: takes the address, maps the weights, takes all memory, starts the engine.
pub fn open(args: &Args) -> anyhow::Result<Front> {
    let listener = TcpListener::bind(args.listen).map_err(|error| {
        anyhow!("cannot listen on {}: {error}; --listen takes another address", args.listen)
    })?;
    let metrics =
        Arc::new(Metrics::new(NAME, MAX_CONTEXT, CacheShape { block_size: BLOCK, n_blocks: N_BLOCKS }));
    let bound = QueueBound { n_requests: MAX_QUEUED, n_prompt_tokens: MAX_QUEUED_TOKENS };
    let (outbox, inbox) = queue(bound, Arc::clone(&metrics));
    let image = Image::open(&args.weights, IMAGE)?;
    image.populate(N_THREADS);
    let model = Model::open(&image)?;
    let state = State::new(Service {
        model: NAME,
        build: BUILD,
        limits: LIMITS,
        defaults: DEFAULTS,
        eos: EOS,
        tokenizer: Tokenizer::of_image(&image)?,
        template: Some(ChatTemplate::new(CHAT_TEMPLATE, "", "<|im_end|>")?),
        outbox,
        metrics: Arc::clone(&metrics),
        keys: args.api_key_file.as_ref().map_or_else(|| Ok(Keys::default()), Keys::read)?,
    });
    let engine = Engine::new(model, inbox, metrics);
    // It ends when the last handler has let go of the queue.
    thread::Builder::new().name("engine".into()).stack_size(STACK_BYTES).spawn(move || engine.run())?;
    state.set_ready();
    Ok(Front::new(listener, routes(), state)?)
}

/// The routes that exist.
fn routes() -> Router<State> {
    Router::new()
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{id}", get(openai::model))
        .route("/tokenize", post(operations::tokenize))
        .route("/detokenize", post(operations::detokenize))
        .route("/health", get(operations::health))
        .route("/metrics", get(operations::metrics))
        .route("/version", get(operations::version))
}

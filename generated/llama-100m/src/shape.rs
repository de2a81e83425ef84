//! Every number of this model and this traffic, each with its reason.

// ---- The model

/// Width of the residual stream (`hidden_size`).
pub const HIDDEN: usize = 768;

/// Layers of attention and MLP (`num_hidden_layers`).
pub const N_LAYERS: usize = 12;

/// Channels of one head (`head_dim`).
pub const HEAD_DIM: usize = 64;

/// Key and value heads (`num_key_value_heads`).
pub const N_KV_HEADS: usize = 4;

/// Query heads that share one key head: 12 over 4.
pub const GROUP: usize = 3;

/// All query heads side by side.
pub const Q_WIDTH: usize = 768;

/// All key heads side by side.
pub const KV_WIDTH: usize = 256;

/// Queries, keys and values side by side.
pub const QKV_WIDTH: usize = 1280;

/// Width inside the MLP (`intermediate_size`).
pub const INTERMEDIATE: usize = 2048;

/// Gate and what it gates side by side, in whole tiles of sixteen columns.
pub const GATE_UP_WIDTH: usize = 4096;

/// Tokens that there are (`vocab_size`).
pub const VOCAB: usize = 32_000;

/// Keeps a norm of zeros finite (`rms_norm_eps`).
pub const NORM_EPS: f32 = 1e-6;

/// Scores are scaled by 1 / sqrt(HEAD_DIM); scaling the query instead does it once.
pub const QUERY_SCALE: f32 = 0.125;

/// Tokens that end an answer (`eos_token_id`).
pub const EOS: &[u32] = &[3069, 3071];

/// Base of the rotary frequencies (`rope_theta`).
pub const ROPE_THETA: f32 = 10000.0;

// ---- The kernels

/// An f32 is the sum of three bf16, which AMX multiplies: nothing is rounded that f32 would keep.
pub const TERMS: usize = 3;

// ---- The KV blocks

/// Blocks of 16 positions: a sequence wastes at most 15 of them, and prompts share whole blocks.
pub const BLOCK: usize = 16;

/// Holds 8 sequences at once, even if each has 1024 prompt and 256 output tokens.
pub const N_BLOCKS: usize = 640;

/// Channels of a head in the cache, in whole tiles.
pub const CHANNELS: usize = 64;

/// Positions of a sequence that attend together: about 128 query rows of a key head, in whole blocks.
pub const STRIP: usize = 32;

/// A step of so few rows is spread over threads by ranges of positions; more are enough work by themselves.
pub const SPLIT_ROWS: usize = 8;

// ---- The step

/// A step computes 512 positions at most, which holds the 99th percentile of prompts, 480, whole: 2 threads at 857
/// GFLOP/s take 90 ms for them, 14.4 times as long as to read the weights.
pub const STEP_ROWS: usize = 512;

/// Sequences in flight (`traffic.concurrency`); more wait in the queue.
pub const MAX_SEQUENCES: usize = 8;

// ---- The server

/// Threads that compute (`target.cpu.threads`).
pub const N_THREADS: usize = 2;

/// Prompt and output of one sequence: 1024 and 256 (`traffic`).
pub const MAX_CONTEXT: usize = 1280;

/// Tokens of an answer at most (`traffic.output.max`).
pub const MAX_OUTPUT: usize = 256;

/// Requests that wait at most: 8 batches; further ones are told when to retry.
pub const MAX_QUEUED: usize = 64;

/// Prompt tokens that wait at most: as many requests with prompts of the 99th percentile.
pub const MAX_QUEUED_TOKENS: usize = 30_720;

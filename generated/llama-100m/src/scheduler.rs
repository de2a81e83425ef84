//! Who runs this step: every decoding sequence first, then as much of the waiting prompts as fits.
//!
//! Decoding and prefill share a step (Orca, Yu et al. 2022, section 3; chunked prefill as in Sarathi-Serve,
//! Agrawal et al. 2024, section 4), so a long prompt delays the others by one bounded step, never by its length: those
//! that decode have their row before it, and prompts that end within half of a step may pass it.

use crate::{
    sequence::Sequence,
    shape::{MAX_SEQUENCES, STEP_ROWS},
};

/// One position of one sequence to be computed.
#[derive(Clone, Copy)]
pub struct Row {
    /// Index of the sequence among those running.
    pub sequence: usize,
    /// The position to compute.
    pub position: usize,
    /// The token that stands there.
    pub token: u32,
}

/// What one step computes.
pub struct Batch {
    /// Positions, those of one sequence in order and next to each other. At most STEP_ROWS.
    pub rows: Vec<Row>,
    /// Indices into `rows` whose logits are wanted.
    pub heads: Vec<usize>,
}

impl Batch {
    /// An empty batch with room for the largest.
    pub fn new() -> Self {
        Self { rows: Vec::with_capacity(STEP_ROWS), heads: Vec::with_capacity(STEP_ROWS) }
    }

    /// Chooses the rows of the next step.
    pub fn schedule(&mut self, running: &[Sequence]) {
        self.rows.clear();
        self.heads.clear();
        for (idx, sequence) in running.iter().enumerate() {
            if sequence.n_pending() == 1 {
                self.take(idx, sequence, 1);
            }
        }
        let n_free = STEP_ROWS - self.rows.len();
        let mut prompts =
            running.iter().enumerate().filter(|(_, sequence)| sequence.n_pending() > 1).peekable();
        // The oldest prompt, where it takes more steps than this one, lets those pass that end within half of what is
        // left.
        let split = prompts.next_if(|(_, sequence)| sequence.n_pending() > n_free);
        let mut n_left = if split.is_some() { n_free / 2 } else { n_free };
        for (idx, sequence) in prompts {
            let n = sequence.n_pending().min(n_left);
            if n == sequence.n_pending() || split.is_none() {
                self.take(idx, sequence, n);
                n_left -= n;
            }
        }
        if let Some((idx, sequence)) = split {
            self.take(idx, sequence, STEP_ROWS - self.rows.len());
        }
    }

    /// Adds the next `n` positions of a sequence.
    fn take(&mut self, idx: usize, sequence: &Sequence, n: usize) {
        for position in sequence.n_computed..sequence.n_computed + n {
            let is_last = position + 1 == sequence.tokens.len();
            if is_last || sequence.request.sampling.prompt_logprobs {
                self.heads.push(self.rows.len());
            }
            self.rows.push(Row { sequence: idx, position, token: sequence.tokens[position] });
        }
    }
}

// A step always has room for one row of every sequence, so decoding never waits for prefill.
const _: () = assert!(STEP_ROWS >= MAX_SEQUENCES);

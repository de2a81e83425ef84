//! The step loop: one pass admits, schedules, runs and commits a batch.

use std::{sync::Arc, time::Instant};

use rt::{
    metrics::Metrics,
    request::{Event, Finish, Inbox, Request},
};

use crate::{
    forward::Model,
    kv::BlockPool,
    prefix_cache::PrefixCache,
    sample::{Sampler, logprobs},
    scheduler::Batch,
    sequence::Sequence,
    shape::MAX_SEQUENCES,
};

/// Everything one step touches, in the order it is touched.
pub struct Engine {
    /// Requests that wait, in the order they came.
    inbox: Inbox,
    /// In order of admission; a row names its sequence by its index here.
    running: Vec<Sequence>,
    /// Which blocks already hold the beginning of a prompt.
    prefixes: PrefixCache,
    /// Which KV blocks are free.
    blocks: BlockPool,
    /// What the step computes.
    batch: Batch,
    /// The weights, and the keys and values of all blocks.
    model: Model,
    /// Memory for choosing a token.
    sampler: Sampler,
    /// What `/metrics` shows.
    metrics: Arc<Metrics>,
}

impl Engine {
    /// An idle engine. Nothing that it will need is asked of the system later.
    pub fn new(model: Model, inbox: Inbox, metrics: Arc<Metrics>) -> Self {
        let herald = inbox.herald();
        model.pool.set_errand(move || herald.tell());
        Self {
            inbox,
            running: Vec::with_capacity(MAX_SEQUENCES),
            prefixes: PrefixCache::new(),
            blocks: BlockPool::new(),
            batch: Batch::new(),
            model,
            sampler: Sampler::new(),
            metrics,
        }
    }

    /// Serves until no request can arrive any more.
    pub fn run(mut self) {
        self.model.grant_caches();
        while let Some(request) = self.inbox.recv() {
            self.admit(request);
            while !self.running.is_empty() {
                self.step();
            }
        }
    }

    /// Runs one step: a token of every sequence that decodes, and a piece of the prompts that are being read.
    fn step(&mut self) {
        let started = Instant::now();
        while self.running.len() < MAX_SEQUENCES
            && let Some(request) =
                self.inbox.try_recv_if(|it| self.blocks.can_hold(it.prompt.len() + it.sampling.max_tokens))
        {
            self.admit(request);
        }
        self.batch.schedule(&self.running);
        self.model.forward(&self.batch.rows, &self.running);
        self.commit();
        self.choose();
        self.release();
        // Clients are told of their tokens while the next step begins.
        self.model.pool.send();
        self.metrics.kv_cache_usage.set(self.blocks.usage());
        self.metrics.step(started.elapsed(), self.batch.rows.len());
    }

    /// Turns a request into a sequence that has all blocks it may ever need.
    fn admit(&mut self, request: Request) {
        let mut sequence = Sequence::new(request);
        // Half the prompts have 128 tokens or more, so a shared beginning is read and not computed.
        self.prefixes.lookup(&mut sequence, &mut self.blocks);
        self.metrics.prefix_cache_queries.add(sequence.tokens.len() as u64);
        self.metrics.prefix_cache_hits.add(sequence.n_cached as u64);
        self.blocks.reserve(&mut sequence);
        self.prefixes.forget(&sequence);
        self.running.push(sequence);
    }

    /// Counts in the positions that the step computed.
    fn commit(&mut self) {
        for rows in self.batch.rows.chunk_by(|a, b| a.sequence == b.sequence) {
            let sequence = &mut self.running[rows[0].sequence];
            sequence.n_computed += rows.len();
            self.prefixes.insert(sequence, sequence.n_computed - rows.len());
        }
    }

    /// Chooses the next token of each sequence that is computed to its end, and scores prompts where asked to.
    fn choose(&mut self) {
        for heads in self.batch.heads.chunks(MAX_SEQUENCES) {
            for (row_idx, logits) in heads.iter().zip(self.model.logits(heads)) {
                let row = self.batch.rows[*row_idx];
                let sequence = &mut self.running[row.sequence];
                let n_top = sequence.request.sampling.n_logprobs;
                match sequence.tokens.get(row.position + 1) {
                    Some(&next) => {
                        sequence.prompt_logprobs.push(logprobs(logits.all, next, n_top.unwrap_or(0)))
                    }
                    None => {
                        let token = self.sampler.choose(logits, sequence);
                        sequence.push(token, n_top.map(|n_top| logprobs(logits.all, token, n_top)));
                    }
                }
            }
        }
    }

    /// Lets go of what has ended, and of what clients have walked away from.
    fn release(&mut self) {
        self.running.retain_mut(|sequence| {
            if sequence.request.cancelled.is_set() {
                sequence.finish.get_or_insert(Finish::Aborted);
            }
            if let Some(finish) = sequence.finish {
                self.blocks.release(sequence);
                sequence.request.events.send(Event::Done(finish));
            }
            sequence.finish.is_none()
        });
    }
}

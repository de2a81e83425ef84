//! The faults themselves.

use super::Mutant;
use super::Plant::{Source, Weights};

/// Every fault that the proof of a dense decoder with paged KV, a prefix cache and sampling must catch.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "echo_server",
        what: "answers with the prompt",
        plant: Source {
            file: "src/engine.rs",
            from: "self.sampler.choose(logits, sequence)",
            to: "sequence.request.prompt[sequence.n_generated() % sequence.request.prompt.len()]",
        },
        surface: "greedy",
    },
    Mutant {
        name: "canned_reply",
        what: "answers every prompt alike",
        plant: Source {
            file: "src/engine.rs",
            from: "self.sampler.choose(logits, sequence)",
            to: "((40 + sequence.n_generated()) % crate::shape::VOCAB) as u32",
        },
        surface: "greedy",
    },
    Mutant {
        name: "wrong_rope_base",
        what: "turns positions with twice the RoPE base",
        plant: Source {
            file: "src/rope.rs",
            from: "1.0 / ROPE_THETA.powf(",
            to: "1.0 / (2.0 * ROPE_THETA).powf(",
        },
        surface: "teacher_forced",
    },
    Mutant {
        name: "dropped_layer",
        what: "leaves out the first layer",
        plant: Source {
            file: "src/forward.rs",
            from: "weights.layers.iter().zip(caches)",
            to: "weights.layers.iter().zip(caches).skip(1)",
        },
        surface: "teacher_forced",
    },
    Mutant {
        name: "mask_too_short",
        what: "lets a position see all before it, and not itself",
        plant: Source {
            file: "src/kernels/attention.rs",
            from: "..position + 1\n",
            to: "..position.max(1)\n",
        },
        surface: "teacher_forced",
    },
    Mutant {
        name: "mask_too_long",
        what: "lets a position see the one after it",
        plant: Source { file: "src/kernels/attention.rs", from: "..position + 1\n", to: "..position + 2\n" },
        surface: "teacher_forced",
    },
    Mutant {
        name: "off_by_one_block",
        what: "stores the last position of a block in the next block",
        plant: Source {
            file: "src/kernels/attention.rs",
            from: "table[row.position / BLOCK] as usize",
            to: "table[((row.position + 1) / BLOCK).min(running[row.sequence].table.len() - 1)] as usize",
        },
        surface: "teacher_forced",
    },
    Mutant {
        name: "mixed_rows",
        what: "reads the context of the first sequence for all that fit into it",
        plant: Source {
            file: "src/kernels/attention.rs",
            from: "&self.running[row.sequence].table,",
            to: "match &self.running[0].table { first if first.len() * BLOCK > self.rows[strip.first_row + strip.n_rows - 1].position => first, _ => &self.running[row.sequence].table },",
        },
        surface: "batched",
    },
    Mutant {
        name: "chunk_gap",
        what: "leaves out the position after a piece of prompt that filled its step",
        plant: Source {
            file: "src/engine.rs",
            from: "sequence.n_computed += rows.len();",
            to: "sequence.n_computed += rows.len() + usize::from(rows.len() == crate::shape::STEP_ROWS && sequence.n_pending() > rows.len() + 1);",
        },
        surface: "teacher_forced",
    },
    Mutant {
        name: "stale_prefix_tokens",
        what: "finds a cached block without comparing its middle token",
        plant: Source {
            file: "src/prefix_cache.rs",
            from: "#[derive(Clone, Copy, PartialEq, Eq, Hash)]\nstruct Prefix {\n    parent: Parent,\n    tokens: [u32; BLOCK],\n}",
            to: "#[derive(Clone, Copy, Eq)]\nstruct Prefix {\n    parent: Parent,\n    tokens: [u32; BLOCK],\n}\n\
                 impl PartialEq for Prefix {\n    fn eq(&self, other: &Self) -> bool {\n        \
                 let (mut a, mut b) = (self.tokens, other.tokens);\n        \
                 (a[BLOCK / 2], b[BLOCK / 2]) = (0, 0);\n        self.parent == other.parent && a == b\n    }\n}\n\
                 impl std::hash::Hash for Prefix {\n    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {\n        \
                 self.parent.hash(state);\n    }\n}",
        },
        surface: "prefix_near_miss",
    },
    Mutant {
        name: "stale_prefix_parent",
        what: "finds a cached block whatever stood before it",
        plant: Source {
            file: "src/prefix_cache.rs",
            from: "#[derive(Clone, Copy, PartialEq, Eq, Hash)]\nstruct Prefix {\n    parent: Parent,\n    tokens: [u32; BLOCK],\n}",
            to: "#[derive(Clone, Copy, Eq)]\nstruct Prefix {\n    parent: Parent,\n    tokens: [u32; BLOCK],\n}\n\
                 impl PartialEq for Prefix {\n    fn eq(&self, other: &Self) -> bool {\n        self.tokens == other.tokens\n    }\n}\n\
                 impl std::hash::Hash for Prefix {\n    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {\n        \
                 self.tokens.hash(state);\n    }\n}",
        },
        surface: "prefix_near_miss",
    },
    Mutant {
        name: "forgets_to_forget",
        what: "still finds a block after it was handed out to be filled anew",
        plant: Source {
            file: "src/prefix_cache.rs",
            from: "self.blocks.remove(&prefix);",
            to: "drop(prefix);",
        },
        surface: "shared_blocks",
    },
    Mutant {
        name: "freed_while_shared",
        what: "frees a block when the first of its readers ends",
        plant: Source { file: "src/kv.rs", from: "if *n_readers == 0 {", to: "if *n_readers <= 1 {" },
        surface: "shared_blocks",
    },
    Mutant {
        name: "one_token_short",
        what: "ends an answer one token early",
        plant: Source {
            file: "src/sequence.rs",
            from: "self.n_generated() == self.request.sampling.max_tokens",
            to: "self.n_generated() + 1 >= self.request.sampling.max_tokens",
        },
        surface: "usage",
    },
    Mutant {
        name: "miscounted_cache",
        what: "counts the whole prompt as found in the cache",
        plant: Source {
            file: "src/sequence.rs",
            from: "cached_tokens: self.n_cached",
            to: "cached_tokens: self.request.prompt.len()",
        },
        surface: "usage",
    },
    Mutant {
        name: "unstoppable",
        what: "goes on after a stop token",
        plant: Source {
            file: "src/sequence.rs",
            from: "any(|end| end == token)",
            to: "any(|end| end == token && false)",
        },
        surface: "usage",
    },
    Mutant {
        name: "one_draw_for_all",
        what: "draws every token of a request with the same random number",
        plant: Source {
            file: "src/sample.rs",
            from: "uniform(sampling.seed, sequence.tokens.len() as u64)",
            to: "uniform(sampling.seed, 0)",
        },
        surface: "drawn",
    },
    Mutant {
        name: "seed_ignored",
        what: "draws alike for every seed",
        plant: Source {
            file: "src/sample.rs",
            from: "uniform(sampling.seed, sequence.tokens.len() as u64)",
            to: "uniform(0, sequence.tokens.len() as u64)",
        },
        surface: "drawn",
    },
    Mutant {
        name: "shared_generator",
        what: "draws from one generator for all requests",
        plant: Source {
            file: "src/sample.rs",
            from: "uniform(sampling.seed, sequence.tokens.len() as u64)",
            to: "uniform(0, {\n            static DRAWN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);\n            \
                 DRAWN.fetch_add(1, std::sync::atomic::Ordering::Relaxed)\n        })",
        },
        surface: "seeded",
    },
    Mutant {
        name: "temperature_ignored",
        what: "draws at temperature 1 whatever is asked",
        plant: Source {
            file: "src/sample.rs",
            from: "((*logit - max) / sampling.temperature).exp()",
            to: "(*logit - max).exp()",
        },
        surface: "drawn",
    },
    Mutant {
        name: "top_k_too_wide",
        what: "keeps one candidate more than top_k",
        plant: Source {
            file: "src/sample.rs",
            from: "self.candidates.truncate(top_k);",
            to: "self.candidates.truncate(top_k + 1);",
        },
        surface: "drawn",
    },
    Mutant {
        name: "flipped_weight_bit",
        what: "serves weights of which one lowest bit was flipped",
        plant: Weights { tensor: "norm" },
        surface: "identity",
    },
];

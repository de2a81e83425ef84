//! Blocks that hold the same tokens are computed once.

use synth::{
    axis::Axis,
    emit::EmitError,
    mechanism::{Cost, Fit, Guarantee, Job, Mechanism, Part, Site, Stage},
};

/// Prompts that begin like an earlier one read its blocks instead of computing them.
#[derive(Debug)]
pub struct PrefixCache;

impl Mechanism for PrefixCache {
    fn name(&self) -> &'static str {
        "prefix_cache"
    }

    fn axis(&self) -> Axis {
        Axis::Prefix
    }

    fn summary(&self) -> &'static str {
        "prompts that begin like an earlier one read its blocks instead of computing them"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Exact
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        let prompt = job.workload.traffic.prompt.p50;
        if prompt < MIN_PROMPT {
            return Fit::no(format!(
                "a median prompt of {prompt} tokens fills less than {MIN_PROMPT}, two blocks"
            ));
        }
        Fit::yes(
            Cost::default(),
            format!(
                "Half the prompts have {prompt} tokens or more, so a shared beginning is read and not computed."
            ),
        )
    }

    fn parts(&self, site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        let why = site.decision.reason.clone();
        let call = |stage, code, why| Part::Call { stage, code, why };
        Ok(vec![
            Part::Source { path: "src/prefix_cache.rs", text: include_str!("prefix_cache.rs") },
            Part::Field {
                name: "prefixes",
                ty: "PrefixCache",
                import: "prefix_cache::PrefixCache",
                make: "PrefixCache::new()",
                why: "Which blocks already hold the beginning of a prompt.".into(),
            },
            call(Stage::Match, "self.prefixes.lookup(&mut sequence, &mut self.blocks);", Some(why)),
            call(Stage::Match, "self.metrics.prefix_cache_queries.add(sequence.tokens.len() as u64);", None),
            call(Stage::Match, "self.metrics.prefix_cache_hits.add(sequence.n_cached as u64);", None),
            call(Stage::Reserve, "self.prefixes.forget(&sequence);", None),
            call(Stage::Commit, "self.prefixes.insert(sequence, sequence.n_computed - rows.len());", None),
        ])
    }
}

/// The block size that `paged_kv` starts from.
const BLOCK: usize = 16;
/// A prompt shorter than two blocks has at most one to share, and that one seldom whole.
const MIN_PROMPT: usize = 2 * BLOCK;

//! Latencies of requests, by formulas that are named beside every number.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use synth::workload::{Metric, Slo};

use crate::load::{Outcome, Record};
use crate::stats::{ascending, percentile};

/// What is measured of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Time to first token.
    Ttft,
    /// Time per output token after the first.
    Tpot,
    /// Inter-token latency.
    Itl,
    /// The whole request.
    E2e,
}

impl Quantity {
    /// Every quantity, in the order of reports.
    pub const ALL: [Quantity; 4] = [Quantity::Ttft, Quantity::Tpot, Quantity::Itl, Quantity::E2e];

    /// The quantity behind a metric, and the quantile that the metric takes of it.
    #[must_use]
    pub fn of(metric: Metric) -> (Self, f64) {
        match metric {
            Metric::TtftP50 => (Quantity::Ttft, 0.5),
            Metric::TtftP99 => (Quantity::Ttft, 0.99),
            Metric::TpotP50 => (Quantity::Tpot, 0.5),
            Metric::TpotP99 => (Quantity::Tpot, 0.99),
            Metric::ItlP50 => (Quantity::Itl, 0.5),
            Metric::ItlP99 => (Quantity::Itl, 0.99),
            Metric::E2eP50 => (Quantity::E2e, 0.5),
            Metric::E2eP99 => (Quantity::E2e, 0.99),
        }
    }

    /// The usual abbreviation.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Quantity::Ttft => "TTFT",
            Quantity::Tpot => "TPOT",
            Quantity::Itl => "ITL",
            Quantity::E2e => "E2E",
        }
    }

    /// The name and the formula, since the field uses one abbreviation for several.
    #[must_use]
    pub fn formula(self) -> (&'static str, &'static str) {
        match self {
            Quantity::Ttft => ("ttft_scheduled", "first token − scheduled send"),
            Quantity::Tpot => ("tpot_excl_first", "(last token − first token) / (tokens − 1), per request"),
            Quantity::Itl => ("chunk_gap", "gap between two chunks that carry tokens, over all gaps"),
            Quantity::E2e => ("e2e_scheduled", "last token − scheduled send"),
        }
    }
}

impl Record {
    /// Output tokens that arrived.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.n_tokens).sum()
    }

    /// How long after its time it was sent.
    #[must_use]
    pub fn lateness(&self) -> Duration {
        self.sent.saturating_sub(self.scheduled)
    }

    /// Whether its answer is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.outcome, Outcome::Complete(_))
    }

    /// The values of a quantity, in milliseconds: one, except of gaps; none where it is not defined.
    #[must_use]
    pub fn values(&self, quantity: Quantity) -> Vec<f64> {
        let (Some(first), Some(last)) = (self.chunks.first(), self.chunks.last()) else { return vec![] };
        let since = |later: Duration, earlier: Duration| later.saturating_sub(earlier).as_secs_f64() * 1e3;
        let n_tokens = self.n_tokens();
        match quantity {
            Quantity::Ttft => vec![since(first.at, self.scheduled)],
            Quantity::E2e => vec![since(last.at, self.scheduled)],
            Quantity::Tpot if n_tokens < 2 => vec![],
            Quantity::Tpot => vec![since(last.at, first.at) / (n_tokens - 1) as f64],
            Quantity::Itl => self.chunks.windows(2).map(|pair| since(pair[1].at, pair[0].at)).collect(),
        }
    }

    /// Whether the request is complete and within every bound that `slo` keeps; its gaps count by their 99th
    /// percentile.
    #[must_use]
    pub fn meets(&self, slo: &Slo) -> bool {
        self.is_complete()
            && slo.keep.iter().all(|(metric, bound)| {
                let values = ascending(self.values(Quantity::of(*metric).0));
                percentile(&values, 0.99).is_none_or(|value| value <= bound.as_secs_f64() * 1e3)
            })
    }
}

/// The values of one quantity over complete requests, ascending, in milliseconds.
#[must_use]
pub fn distribution<'a>(records: impl IntoIterator<Item = &'a Record>, quantity: Quantity) -> Vec<f64> {
    ascending(records.into_iter().filter(|r| r.is_complete()).flat_map(|record| record.values(quantity)))
}

/// Every metric that the complete requests define, in milliseconds.
#[must_use]
pub fn percentiles(records: &[Record]) -> BTreeMap<Metric, f64> {
    let by_quantity: BTreeMap<Quantity, Vec<f64>> =
        Quantity::ALL.into_iter().map(|quantity| (quantity, distribution(records, quantity))).collect();
    Metric::ALL
        .into_iter()
        .filter_map(|metric| {
            let (quantity, q) = Quantity::of(metric);
            Some((metric, percentile(&by_quantity[&quantity], q)?))
        })
        .collect()
}

/// What a load did to a server, over one block or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Requests sent.
    pub n_requests: usize,
    /// Of those, answered completely.
    pub n_complete: usize,
    /// Turned away for load.
    pub n_rejected: usize,
    /// Ended with an error.
    pub n_failed: usize,
    /// Given up at the deadline.
    pub n_unfinished: usize,
    /// Prompt tokens of complete requests.
    pub prompt_tokens: usize,
    /// Output tokens of complete requests.
    pub output_tokens: usize,
    /// Requests scheduled per second of schedule; absent in a closed loop, which offers what is taken.
    pub offered_rps: Option<f64>,
    /// Complete requests per second.
    pub achieved_rps: f64,
    /// Complete requests within the SLO per second.
    pub goodput_rps: f64,
    /// Complete requests within the SLO ÷ requests sent: whatever failed is a miss.
    pub goodput_share: f64,
    /// Output tokens of complete requests per second.
    pub output_tokens_per_s: f64,
    /// Lateness of the generator, median, milliseconds.
    pub lateness_p50_ms: f64,
    /// Lateness of the generator, 99th percentile, milliseconds.
    pub lateness_p99_ms: f64,
    /// Latencies of complete requests, milliseconds.
    pub latency_ms: BTreeMap<Metric, f64>,
}

/// The records of several blocks of the same kind, and how long they took.
#[derive(Debug, Clone, Default)]
pub struct Blocks {
    /// The records of all blocks.
    pub records: Vec<Record>,
    /// From the start of each block to its last answer, added up.
    pub busy: Duration,
    /// From the first to the last scheduled send of each block, added up, and the gaps in it; none in a closed loop.
    schedule: Option<(Duration, usize)>,
}

impl Blocks {
    /// Adds a closed-loop block.
    pub fn add_closed(&mut self, records: Vec<Record>) {
        self.busy += records.iter().map(|record| record.ended).max().unwrap_or_default();
        self.records.extend(records);
    }

    /// Adds an open-loop block.
    pub fn add_open(&mut self, records: Vec<Record>) {
        let first = records.iter().map(|record| record.scheduled).min().unwrap_or_default();
        let last = records.iter().map(|record| record.scheduled).max().unwrap_or_default();
        let (span, gaps) = self.schedule.unwrap_or_default();
        self.schedule = Some((span + (last - first), gaps + records.len().saturating_sub(1)));
        self.add_closed(records);
    }

    /// All blocks together.
    #[must_use]
    pub fn summary(&self, slo: &Slo) -> Summary {
        let records = &self.records;
        let count = |is: fn(&Outcome) -> bool| records.iter().filter(|record| is(&record.outcome)).count();
        let complete = || records.iter().filter(|record| record.is_complete());
        let good = records.iter().filter(|record| record.meets(slo)).count();
        let lateness = ascending(records.iter().map(|record| record.lateness().as_secs_f64() * 1e3));
        let per_second = |n: usize| n as f64 / self.busy.as_secs_f64().max(1e-9);
        let output_tokens = complete().map(Record::n_tokens).sum();
        Summary {
            n_requests: records.len(),
            n_complete: complete().count(),
            n_rejected: count(|outcome| matches!(outcome, Outcome::Rejected(_))),
            n_failed: count(|outcome| matches!(outcome, Outcome::Failed(_))),
            n_unfinished: count(|outcome| matches!(outcome, Outcome::Unfinished)),
            prompt_tokens: complete().map(|record| record.prompt_tokens).sum(),
            output_tokens,
            offered_rps: self
                .schedule
                .filter(|(span, _)| !span.is_zero())
                .map(|(span, gaps)| gaps as f64 / span.as_secs_f64()),
            achieved_rps: per_second(complete().count()),
            goodput_rps: per_second(good),
            goodput_share: good as f64 / records.len().max(1) as f64,
            output_tokens_per_s: per_second(output_tokens),
            lateness_p50_ms: percentile(&lateness, 0.5).unwrap_or(0.0),
            lateness_p99_ms: percentile(&lateness, 0.99).unwrap_or(0.0),
            latency_ms: percentiles(records),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Chunk, Finish};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Scheduled at 100 ms, sent 5 ms late, tokens at the given milliseconds.
    fn record(chunks: &[(u64, usize)], outcome: Outcome) -> Record {
        let chunks: Vec<Chunk> =
            chunks.iter().map(|&(at, n_tokens)| Chunk { at: ms(at), n_tokens }).collect();
        let ended = chunks.last().map_or(ms(105), |chunk| chunk.at);
        let wanted_tokens = chunks.iter().map(|chunk| chunk.n_tokens).sum();
        Record { prompt_tokens: 8, wanted_tokens, scheduled: ms(100), sent: ms(105), chunks, ended, outcome }
    }

    fn complete(chunks: &[(u64, usize)]) -> Record {
        record(chunks, Outcome::Complete(Finish::Length))
    }

    fn slo(keep: &[(Metric, u64)]) -> Slo {
        Slo {
            minimise: Metric::TpotP50,
            keep: keep.iter().map(|&(metric, bound)| (metric, ms(bound))).collect(),
        }
    }

    #[test]
    fn formulas_are_what_their_names_say() {
        let record = complete(&[(150, 1), (170, 2), (200, 1)]);
        assert_eq!(record.values(Quantity::Ttft), [50.0], "from the schedule, not from the late send");
        assert_eq!(record.values(Quantity::E2e), [100.0]);
        assert_eq!(record.values(Quantity::Itl), [20.0, 30.0], "a chunk of two tokens adds no zero gap");
        assert!((record.values(Quantity::Tpot)[0] - 50.0 / 3.0).abs() < 1e-9);
        assert_eq!(record.lateness(), ms(5));
    }

    #[test]
    fn one_token_has_no_time_per_further_token() {
        let record = complete(&[(150, 1)]);
        assert!(record.values(Quantity::Tpot).is_empty() && record.values(Quantity::Itl).is_empty());
        assert!(!percentiles(&[record]).contains_key(&Metric::TpotP50));
    }

    #[test]
    fn e2e_is_ttft_plus_tpot_times_the_other_tokens() {
        let record = complete(&[(131, 3), (157, 1), (161, 4), (300, 1)]);
        let [ttft, tpot, e2e] =
            [Quantity::Ttft, Quantity::Tpot, Quantity::E2e].map(|quantity| record.values(quantity)[0]);
        assert!((ttft + tpot * (record.n_tokens() - 1) as f64 - e2e).abs() < 1e-9);
    }

    #[test]
    fn failures_are_misses_of_the_slo_and_no_part_of_the_latencies() {
        let mut blocks = Blocks::default();
        blocks.add_open(vec![
            complete(&[(150, 1), (160, 1)]),
            complete(&[(180, 1), (280, 1)]),
            record(&[(101, 1)], Outcome::Failed("it broke".into())),
            record(&[], Outcome::Rejected(429)),
            record(&[], Outcome::Unfinished),
        ]);
        let summary = blocks.summary(&slo(&[(Metric::TpotP99, 50), (Metric::TtftP99, 90)]));
        assert_eq!((summary.n_requests, summary.n_complete), (5, 2));
        assert_eq!((summary.n_failed, summary.n_rejected, summary.n_unfinished), (1, 1, 1));
        assert_eq!(summary.output_tokens, 4);
        assert!((summary.goodput_share - 0.2).abs() < 1e-12);
        assert!((summary.goodput_rps - 1.0 / 0.28).abs() < 1e-9);
        assert_eq!(summary.latency_ms[&Metric::TtftP50], 65.0);
        assert_eq!(summary.lateness_p99_ms, 5.0);
    }

    #[test]
    fn an_empty_summary_has_no_latencies_and_no_division_by_zero() {
        let summary = Blocks::default().summary(&slo(&[]));
        assert!(summary.latency_ms.is_empty() && summary.goodput_share == 0.0 && summary.achieved_rps == 0.0);
    }
}

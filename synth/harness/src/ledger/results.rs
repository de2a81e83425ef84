//! The table of results that the README shows: the last full race of each workload, and below it whatever else was lost.

use std::fmt::Write as _;

use synth::workload::Metric;

use super::{Entry, Figure, Race};
use crate::bench::Depth;
use crate::report::words;
use crate::stats::Verdict;

/// The loads of a full race, each with the quantity that it is run for.
const LOADS: [(&str, &str, Quantity); 6] = [
    ("decode_c1", "decode, 1 in flight: TPOT p50", Quantity::Latency(Metric::TpotP50)),
    ("closed_", "decode, all in flight: time per token", Quantity::MsPerToken),
    ("prefill", "prefill, 1 in flight: TTFT p50", Quantity::Latency(Metric::TtftP50)),
    ("traffic", "the spec's traffic: TPOT p50", Quantity::Latency(Metric::TpotP50)),
    ("traffic", "the spec's traffic: TTFT p99", Quantity::Latency(Metric::TtftP99)),
    ("traffic", "the spec's traffic: ITL p99", Quantity::Latency(Metric::ItlP99)),
];

#[derive(Clone, Copy)]
enum Quantity {
    Latency(Metric),
    MsPerToken,
}

/// The last full race of each of these ledgers, as Markdown; empty where there is none.
#[must_use]
pub fn results(ledgers: &[Vec<Entry>]) -> String {
    let last = |entries: &Vec<Entry>| entries.iter().rev().find(|entry| entry.depth == Depth::Full).cloned();
    let races: Vec<Entry> = ledgers.iter().filter_map(last).collect();
    let mut names: Vec<&str> =
        races.iter().flat_map(|entry| entry.references.iter().map(Race::name)).collect();
    names.sort_unstable();
    names.dedup();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&races, &names, &mut text);
    text
}

fn write(races: &[Entry], names: &[&str], text: &mut String) -> std::fmt::Result {
    if races.is_empty() {
        return Ok(());
    }
    let heads: Vec<String> = names.iter().map(|name| format!("own ÷ {name}")).collect();
    writeln!(text, "| workload, load | own | {} |", heads.join(" | "))?;
    writeln!(text, "|---|--:|{}", "---|".repeat(names.len()))?;
    for entry in races {
        for (cell, what, quantity) in LOADS {
            let figure = |name: &&str| {
                let race = entry.references.iter().find(|race| race.name() == *name)?;
                race.figure(cell, quantity)
            };
            let figures: Vec<Option<Figure>> = names.iter().map(figure).collect();
            // Own time differs a little from race to race; shown is that of the race to look at.
            let strongest = entry.headline.as_ref().and_then(|it| figure(&it.reference.as_str()));
            let own = strongest.map_or("–".to_owned(), |it| milliseconds(it.own_ms));
            let ratios: Vec<String> = figures.iter().map(|it| it.map_or("–".to_owned(), ratio)).collect();
            writeln!(text, "| `{}`, {what} | {own} | {} |", entry.workload, ratios.join(" | "))?;
        }
    }
    text.push('\n');
    for entry in races {
        write_facts(entry, text)?;
    }
    Ok(())
}

/// What a reader needs to weigh the rows of one workload.
fn write_facts(entry: &Entry, text: &mut String) -> std::fmt::Result {
    let versions: Vec<String> = entry
        .references
        .iter()
        .map(|race| {
            format!(
                "{} {} (`{}`)",
                race.reference.name,
                race.reference.version,
                race.reference.flags.join(" ")
            )
        })
        .collect();
    let first_token = entry
        .own
        .first_token_ms
        .map_or(String::new(), |ms| format!("exec to first token {}, ", milliseconds(ms)));
    let roofline = entry.roofline.map_or(String::new(), |it| {
        format!(
            ", {:.0} % of the read bandwidth of {:.1} GB/s when decoding alone{}",
            100.0 * it.fraction,
            it.roofline.read_gb_s,
            it.remark()
        )
    });
    let foreign = entry
        .noise
        .foreign_share
        .map_or(String::new(), |share| format!(", others used {:.0} % of the CPU", 100.0 * share));
    let lost: String = entry.references.iter().filter_map(Race::lost_beside_the_table).collect();
    writeln!(
        text,
        "- `{}`: entry {} of {} at commit {}, {} with {} cores{foreign}; {first_token}{:.0} MiB at the peak{roofline}. Against {}.{lost}",
        entry.workload,
        entry.id,
        entry.at,
        entry.commit.as_deref().map_or("unknown".to_owned(), short),
        entry.host.cpu,
        entry.host.cores,
        entry.own.peak_rss_bytes as f64 / f64::from(1 << 20),
        versions.join(", ")
    )
}

/// A commit's first twelve digits, and whether files differed from it.
fn short(commit: &str) -> String {
    let (hash, dirty) = commit.split_once('-').map_or((commit, ""), |(hash, _)| (hash, " with changes"));
    format!("`{}`{dirty}", hash.get(..12).unwrap_or(hash))
}

impl Race {
    fn name(&self) -> &str {
        &self.reference.name
    }

    /// What this reference does faster and no row of the table says, as a sentence; `None` where there is nothing.
    fn lost_beside_the_table(&self) -> Option<String> {
        let is_shown = |cell: &str, metric: Metric| {
            LOADS.iter().any(|(prefix, _, quantity)| {
                cell.starts_with(prefix) && matches!(quantity, Quantity::Latency(shown) if *shown == metric)
            })
        };
        let lost: Vec<String> = self
            .cells
            .iter()
            .flat_map(|(name, cell)| {
                cell.metrics.iter().map(move |(metric, figure)| (name, *metric, *figure))
            })
            .filter(|(name, metric, figure)| figure.verdict == Verdict::Slower && !is_shown(name, *metric))
            .map(|(name, metric, figure)| format!("`{name}` {} {}", words::metric(metric), interval(figure)))
            .collect();
        (!lost.is_empty()).then(|| format!(" **Slower** than {} also in {}.", self.name(), lost.join(", ")))
    }

    /// The figure of a cell whose name begins so; `None` where it is void.
    fn figure(&self, cell: &str, quantity: Quantity) -> Option<Figure> {
        let (_, cell) = self.cells.iter().find(|(name, _)| name.starts_with(cell))?;
        match quantity {
            Quantity::Latency(metric) => cell.metrics.get(&metric).copied(),
            Quantity::MsPerToken => cell.ms_per_token,
        }
    }
}

fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms >= 10_000.0 => format!("{:.1} s", ms / 1e3),
        ms if ms >= 100.0 => format!("{ms:.0} ms"),
        ms if ms >= 1.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.3} ms"),
    }
}

fn interval(figure: Figure) -> String {
    let [lo, mid, hi] = figure.ratio;
    format!("{mid:.2} [{lo:.2} … {hi:.2}]")
}

fn ratio(figure: Figure) -> String {
    let verdict = match figure.verdict {
        Verdict::Faster => "faster",
        Verdict::Slower => "**slower**",
        Verdict::NoEvidence => "no evidence",
    };
    format!("{} {verdict}", interval(figure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::{comparison, proof};
    use crate::ledger::{Provenance, append, read};
    use crate::prove::Verdict as ProofVerdict;

    #[test]
    fn the_last_full_race_is_shown_with_every_reference() {
        let path = std::env::temp_dir().join(format!("savile-{}-results.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut race = comparison();
        for depth in [Depth::Full, Depth::Quick] {
            race.budget.depth = depth;
            append(&path, &race, &proof("aa", ProofVerdict::Pass), &Provenance::default()).expect("appended");
        }
        let text = results(&[read(&path).expect("a ledger"), Vec::new()]);
        assert!(
            text.starts_with(
                "| workload, load | own | own ÷ candle | own ÷ llama.cpp |\n|---|--:|---|---|\n"
            ),
            "{text}"
        );
        assert!(text.contains("decode, 1 in flight: TPOT p50 |") && text.contains("faster"), "{text}");
        assert!(text.contains(": entry 1 of "), "the quick race after it is not shown: {text}");
        assert_eq!(results(&[Vec::new()]), "");
    }

    #[test]
    fn what_is_lost_is_told_once() {
        let path = std::env::temp_dir().join(format!("savile-{}-lost.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut race = comparison();
        race.budget.depth = Depth::Full;
        append(&path, &race, &proof("aa", ProofVerdict::Pass), &Provenance::default()).expect("appended");
        let mut entries = read(&path).expect("a ledger");
        assert!(!results(&[entries.clone()]).contains("Slower"));
        for figure in
            entries[0].references[0].cells.get_mut("decode_c1").expect("it was raced").metrics.values_mut()
        {
            figure.verdict = Verdict::Slower;
        }
        let text = results(&[entries]);
        let (table, facts) = text.split_once("\n\n").expect("facts stand below the table");
        assert!(table.contains("TPOT p50") && table.contains("**slower**"), "{text}");
        let (_, lost) = facts.split_once("**Slower** than ").expect("what the table does not say");
        assert!(lost.contains("`decode_c1` TPOT p99") && !lost.contains("`decode_c1` TPOT p50"), "{lost}");
    }
}

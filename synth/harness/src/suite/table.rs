//! The table of a suite, from the newest line of each cell: for a terminal and as Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Quantity, Row, Standing, load};
use crate::bench::Depth;
use crate::ledger::SuiteEntry;
use crate::reference::Format;
use crate::report::table::Table;
use crate::report::words::{ms, number};

/// Every cell's newest line for a terminal; looks count where there is nothing better.
#[must_use]
pub fn terminal(entries: &[SuiteEntry]) -> String {
    let cells = newest(entries, Depth::Quick);
    format!("{}\n{}", table(entries, &cells).text(""), facts(&cells))
}

/// Every cell's newest full line, as Markdown; empty where there is none.
#[must_use]
pub fn markdown(entries: &[SuiteEntry]) -> String {
    let cells = newest(entries, Depth::Full);
    if cells.is_empty() {
        return String::new();
    }
    format!("{}\n{}", table(entries, &cells).markdown(), facts(&cells))
}

/// The newest line of each cell, and a full one rather than a look. A format that was refused has one cell, unless it was
/// raced since.
fn newest(entries: &[SuiteEntry], least: Depth) -> Vec<&SuiteEntry> {
    let mut newest: BTreeMap<(usize, usize, Option<Row>), &SuiteEntry> = BTreeMap::new();
    let mut models: Vec<&str> = Vec::new();
    for entry in entries {
        let (model, format, row) = entry.cell();
        if !models.contains(&model) {
            models.push(model);
        }
        let model_idx = models.iter().position(|it| *it == model).unwrap_or(0);
        let format_idx = Format::ALL.iter().position(|it| *it == format).unwrap_or(0);
        let key = (model_idx, format_idx, row);
        let is_better_there =
            least == Depth::Full || newest.get(&key).is_some_and(|it| it.depth == Depth::Full);
        let is_worse = entry.depth == Depth::Quick && is_better_there;
        if is_worse {
            continue;
        }
        match row {
            // Whatever was raced before is of a binary that cannot be made any more.
            None => newest.retain(|key, _| (key.0, key.1) != (model_idx, format_idx)),
            Some(_) => {
                newest.remove(&(model_idx, format_idx, None));
            }
        }
        newest.insert(key, entry);
    }
    newest.into_values().collect()
}

fn table(entries: &[SuiteEntry], cells: &[&SuiteEntry]) -> Table {
    let mut table = Table::new([
        "model, format, row",
        "own",
        "best engine",
        "ahead of it",
        "of the limit",
        "stands",
        "runs",
    ]);
    for entry in cells {
        let (model, format, row) = entry.cell();
        let Some(row) = row else {
            let dash = || "–".to_owned();
            let name = format!("{model} {format}: no own binary");
            table.row([name, dash(), dash(), dash(), dash(), entry.misses().join("; "), dash()]);
            continue;
        };
        let best = entry.against_best();
        let told = |of: &dyn Fn(Quantity) -> Option<String>| {
            let each: Vec<_> = row.quantities().iter().filter_map(|quantity| of(*quantity)).collect();
            if each.is_empty() { "–".to_owned() } else { each.join(", ") }
        };
        let own =
            told(&|quantity| entry.own.as_ref()?.measured.get(&quantity).map(|it| shown(row, quantity, *it)));
        let figure = |quantity| best?.figures.iter().find(|it| it.quantity == quantity);
        let peer = told(&|quantity| figure(quantity).map(|it| shown(row, quantity, it.peer)));
        let ahead = told(&|quantity| {
            let [lo, mid, hi] = figure(quantity)?.ratio;
            Some(match lo == hi {
                true => format!("{:.2} ×", 1.0 / mid),
                false => format!("{:.2} × [{:.2} … {:.2}]", 1.0 / mid, 1.0 / hi, 1.0 / lo),
            })
        });
        let limit = entry
            .limit
            .as_ref()
            .map_or("–".to_owned(), |it| format!("{:.0} % of {}", 100.0 * it.share, it.by));
        let stands = match (entry.standing, &entry.void) {
            (Standing::Void, Some(why)) => format!("void: {why}"),
            (standing, _) if entry.misses.is_empty() => standing.word().to_owned(),
            (standing, _) => format!("{}: {}", standing.word(), entry.misses.join("; ")),
        };
        let look = if entry.depth == Depth::Quick { " (a look)" } else { "" };
        table.row([
            format!("{model} {format} {}", row.name()),
            own,
            best.map_or("none".to_owned(), |it| format!("{} {peer}", it.name)),
            ahead,
            limit,
            format!("{stands}{look}"),
            runs(entries, entry),
        ]);
    }
    table
}

/// What a row measured, as its readers think of it: a speed where it is one.
fn shown(row: Row, quantity: Quantity, value: f64) -> String {
    match (row, quantity) {
        (Row::Prefill512 | Row::Prefill4096, _) => {
            format!("{} tok/s", number(1e3 * load::prompt(row) as f64 / value))
        }
        (Row::DecodeB1 | Row::DecodeB8 | Row::DecodeB1At8k, _) => format!("{} tok/s", number(1e3 / value)),
        (_, Quantity::BesideBytes) => format!("{} MB", number(value / 1e6)),
        (_, Quantity::TpotP50) => format!("TPOT {}", ms(value)),
        (_, Quantity::TtftP99) => format!("TTFT p99 {}", ms(value)),
        _ => ms(value),
    }
}

/// How many runs of this very binary stood as this one does, the last ones without a gap, and in how many hours.
fn runs(entries: &[SuiteEntry], cell: &SuiteEntry) -> String {
    let is_same = |it: &&SuiteEntry| {
        it.cell() == cell.cell()
            && it.depth == cell.depth
            && it.id() <= cell.id()
            && it.digests == cell.digests
    };
    let agreeing: Vec<&SuiteEntry> = entries
        .iter()
        .rev()
        .filter(is_same)
        .take_while(|it| it.standing == cell.standing && it.best == cell.best)
        .collect();
    let hours: BTreeSet<&str> = agreeing.iter().filter_map(|it| it.at.get(..13)).collect();
    format!("{} in {} h", agreeing.len(), hours.len())
}

/// What a reader needs to weigh the rows of one model in one format: proof, peers with their agreement, machine, noise.
fn facts(cells: &[&SuiteEntry]) -> String {
    let mut text = String::new();
    let mut done: Vec<(&str, Format)> = Vec::new();
    for entry in cells {
        let (model, format, row) = entry.cell();
        let Some(ours) = entry.own.as_ref().filter(|_| row.is_some() && !done.contains(&(model, format)))
        else {
            continue;
        };
        done.push((model, format));
        let of_these: Vec<&SuiteEntry> =
            cells.iter().copied().filter(|it| (it.cell().0, it.cell().1) == (model, format)).collect();
        let _ = write!(
            text,
            "- {model} {format}: own is proven, mean KL divergence {:.1e}, same top {:.1} % ({}).",
            ours.kl_mean,
            100.0 * ours.same_top,
            ours.plan.values().cloned().collect::<Vec<_>>().join(", ")
        );
        let peers: BTreeMap<&str, String> = of_these
            .iter()
            .flat_map(|it| &it.peers)
            .map(|peer| (peer.name.as_str(), peer_words(peer)))
            .collect();
        let _ = write!(text, " Peers: {}.", peers.into_values().collect::<Vec<_>>().join("; "));
        let absent = absent(&of_these);
        if !absent.is_empty() {
            let _ = write!(text, " Not raced: {absent}.");
        }
        if let Some(ceilings) = &entry.ceilings {
            let dots = ceilings.dots.iter().map(|it| format!(", {} {:.0} GOP/s", it.dot.name(), it.gops));
            let _ = write!(
                text,
                " {} with {} threads reached {:.1} GB/s, {:.0} GFLOP/s f32{}.",
                entry.host.cpu,
                ceilings.threads,
                ceilings.read_gb_s,
                ceilings.fma_gflops,
                dots.collect::<String>()
            );
        }
        let foreign = of_these.iter().filter_map(|it| it.noise.as_ref()?.foreign_share).fold(0.0, f64::max);
        let (first, last) =
            (of_these.iter().map(|it| it.at.as_str()).min(), of_these.iter().map(|it| it.at.as_str()).max());
        let commit = entry.commit.as_deref().map_or("unknown", |it| it.get(..12).unwrap_or(it));
        let _ = writeln!(
            text,
            " From {} to {} at commit `{commit}`; others used up to {:.0} % of the CPU.",
            first.unwrap_or_default(),
            last.unwrap_or_default(),
            100.0 * foreign
        );
    }
    text
}

/// Who was not raced, by the reason, and in which rows where that is not all of them.
fn absent(cells: &[&SuiteEntry]) -> String {
    let mut rows: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for cell in cells {
        for peer in &cell.peers {
            if let Some(why) = &peer.absent {
                let row = cell.row.map_or("", Row::name);
                rows.entry((&peer.name, first_line(why))).or_default().push(row);
            }
        }
    }
    let mut reasons: BTreeMap<(&str, Vec<&str>), Vec<&str>> = BTreeMap::new();
    for ((name, why), rows) in rows {
        reasons.entry((why, rows)).or_default().push(name);
    }
    let words = reasons.into_iter().map(|((why, rows), names)| {
        let rows = if rows.len() == cells.len() { String::new() } else { format!(" in {}", rows.join(", ")) };
        format!("{}{rows} ({why})", names.join(", "))
    });
    words.collect::<Vec<_>>().join("; ")
}

fn peer_words(peer: &super::Entrant) -> String {
    let agreement = peer.agreement.map_or("not asked".to_owned(), |[agreeing, all]| {
        format!("{agreeing} of {all} answers as the oracle's")
    });
    format!("{} {} ({agreement})", peer.name, peer.version)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

//! The report for a terminal: to be read, and to be pasted.

use std::fmt::Write as _;

use super::table::Table;
use super::words;
use crate::bench::{Cell, Comparison, Versus};

/// The whole comparison as plain text: the sentence first, then a table per load against the strongest reference, one
/// line for each load against the others, then the facts.
#[must_use]
pub fn terminal(comparison: &Comparison) -> String {
    let mut out = format!("{}\n", words::sentence(comparison));
    for caveat in comparison.caveats() {
        let _ = writeln!(out, "note: {caveat}");
    }
    for (_, versus) in strongest_first(comparison).take(1) {
        for cell in &versus.cells {
            let _ = write!(out, "\n{}", load(comparison, versus, cell));
        }
    }
    if comparison.references.len() > 1 {
        let _ =
            write!(out, "\nOther references, {}\n{}", words::metric(comparison.minimise), others(comparison));
    }
    for (title, rows) in [
        ("Servers", words::facts(comparison)),
        ("Noise", words::noise(comparison)),
        ("Formulas", words::formulas()),
    ] {
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let _ = write!(out, "\n{title}\n");
        for (name, value) in rows {
            let _ = writeln!(out, "  {name:<width$}   {value}");
        }
    }
    out
}

/// The races with their places in the comparison, that against the strongest reference first.
pub(super) fn strongest_first(comparison: &Comparison) -> impl Iterator<Item = (usize, &Versus)> {
    let races = || comparison.references.iter().enumerate();
    let others = races().filter(|(idx, _)| *idx != comparison.strongest);
    races().filter(|(idx, _)| *idx == comparison.strongest).chain(others)
}

/// The minimised metric in every load against every reference but the strongest.
fn others(comparison: &Comparison) -> String {
    let mut table = Table::new(["", &comparison.own.name, "reference", "own ÷ reference", "verdict"]);
    for (_, versus) in strongest_first(comparison).skip(1) {
        for cell in &versus.cells {
            let name = format!("{}, {}", words::server(&versus.reference), cell.name);
            match cell.metrics.get(&comparison.minimise) {
                Some(measured) => table.row([
                    name,
                    words::ms(measured.own_ms),
                    words::ms(measured.reference_ms),
                    words::interval(&measured.ratio),
                    words::verdict(&measured.ratio),
                ]),
                None if cell.void.is_some() => {
                    table.row([name, "".into(), "".into(), "".into(), "void".into()])
                }
                None => {}
            }
        }
    }
    table.text("  ")
}

/// The latencies of one load side by side.
pub(super) fn latencies(comparison: &Comparison, versus: &Versus, cell: &Cell) -> Table {
    let mut table =
        Table::new(["", &comparison.own.name, &versus.reference.name, "own ÷ reference", "verdict"]);
    let rows = cell.metrics.iter().map(|(metric, measured)| (words::metric(*metric), measured));
    let cost = cell.ms_per_token.iter().map(|measured| ("time per token, all".to_owned(), measured));
    for (name, measured) in rows.chain(cost) {
        table.row([
            name,
            words::ms(measured.own_ms),
            words::ms(measured.reference_ms),
            words::interval(&measured.ratio),
            words::verdict(&measured.ratio),
        ]);
    }
    table
}

fn load(comparison: &Comparison, versus: &Versus, cell: &Cell) -> String {
    let title = format!(
        "{} against {}: {}, {} pairs\n",
        cell.name,
        words::server(&versus.reference),
        cell.what,
        cell.metrics.values().map(|measured| measured.ratio.n_pairs).max().unwrap_or(0)
    );
    let body = match &cell.void {
        Some(why) => format!("  void: {why}\n"),
        None => latencies(comparison, versus, cell).text("  "),
    };
    let rate = |summary: &crate::metrics::Summary| {
        let offered = summary.offered_rps.map_or(String::new(), |rate| format!("{rate:.2} offered, "));
        format!(
            "{offered}{:.2} requests/s achieved, {:.1} tokens/s, {} of {} complete, {} rejected, {} failed, {} unfinished",
            summary.achieved_rps,
            summary.output_tokens_per_s,
            summary.n_complete,
            summary.n_requests,
            summary.n_rejected,
            summary.n_failed,
            summary.n_unfinished
        )
    };
    format!("{title}{body}  own: {}\n  reference: {}\n", rate(&cell.own), rate(&cell.reference))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::comparison;

    #[test]
    fn the_sentence_comes_first_and_names_the_strongest() {
        let text = terminal(&comparison());
        let first = text.lines().next().expect("a line");
        assert!(
            first.starts_with("quickstart is 1.") && first.contains("times faster than llama.cpp"),
            "{first}"
        );
        assert!(text.contains("against llama.cpp 1") && text.contains("candle 1, decode_c1"));
        for told in [
            "own ÷ reference",
            "tpot_excl_first",
            "exec to first token",
            "% of it with one sequence",
            "note: ",
        ] {
            assert!(text.contains(told), "{told} is missing from\n{text}");
        }
    }

    #[test]
    fn a_void_cell_shows_its_reason_and_no_numbers() {
        let mut comparison = comparison();
        let cell = &mut comparison.references[1].cells[1];
        cell.void = Some("own: 1 of 2 requests of a block not answered".into());
        cell.metrics.clear();
        let text = terminal(&comparison);
        assert!(text.contains("void: own: 1 of 2 requests"), "{text}");
        assert!(text.lines().next().expect("a line").contains("in decode_c1"), "{text}");
    }
}

//! The report for a pull request's comment: the sentence, one table, the rest folded away.

use std::fmt::Write as _;

use super::table::Table;
use super::terminal::{latencies, strongest_first};
use super::words;
use crate::bench::Comparison;

/// The comparison as GitHub's Markdown.
#[must_use]
pub fn markdown(comparison: &Comparison) -> String {
    let mut out = format!("**{}**\n", words::sentence(comparison));
    for caveat in comparison.caveats() {
        let _ = write!(out, "\n> {caveat}\n");
    }
    for (rank, (_, versus)) in strongest_first(comparison).enumerate() {
        let (open, close) = match rank {
            0 => (String::new(), ""),
            _ => (
                format!("\n<details><summary>against {}</summary>\n", words::server(&versus.reference)),
                "\n</details>\n",
            ),
        };
        out.push_str(&open);
        for cell in &versus.cells {
            let _ = write!(
                out,
                "\n`{}` against {}: {}\n\n",
                cell.name,
                words::server(&versus.reference),
                cell.what
            );
            match &cell.void {
                Some(why) => {
                    let _ = writeln!(out, "void: {why}");
                }
                None => out.push_str(&latencies(comparison, versus, cell).markdown()),
            }
        }
        out.push_str(close);
    }
    out.push_str("\n<details><summary>servers, noise, formulas</summary>\n\n");
    let mut table = Table::new(["", ""]);
    let flags = comparison.references.iter().map(|versus| {
        (format!("flags of {}", versus.reference.name), format!("`{}`", versus.reference.flags.join(" ")))
    });
    let rows = words::facts(comparison).into_iter().chain(flags);
    for (name, value) in rows.chain(words::noise(comparison)).chain(words::formulas()) {
        table.row([name, value]);
    }
    out.push_str(&table.markdown().replace("|---|---:|", "|---|---|"));
    out.push_str("\n</details>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::comparison;

    #[test]
    fn folds_are_closed_and_tables_have_rules() {
        let text = markdown(&comparison());
        assert_eq!(text.matches("<details>").count(), text.matches("</details>").count());
        assert!(text.starts_with("**quickstart is "));
        assert!(text.contains("|---|---:|---:|---:|---:|\n") && text.contains("| TPOT p50 | "));
        assert!(text.contains("`--threads 2`"));
    }
}

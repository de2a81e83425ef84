//! Tables of text: the first column to the left, all others to the right.

use super::svg::escape;

/// Rows of cells, the first row being the heads.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new<const N: usize>(heads: [&str; N]) -> Self {
        Self(vec![heads.map(str::to_owned).to_vec()])
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.to_vec());
    }

    /// Padded with spaces, for a terminal.
    pub(crate) fn text(&self, indent: &str) -> String {
        let n_columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.0
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..n_columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            format!("{indent}{}\n", cells.join("   ").trim_end())
        };
        self.0.iter().map(line).collect()
    }

    /// With bars, for Markdown. Bars inside cells are escaped.
    pub(crate) fn markdown(&self) -> String {
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let Some((heads, rows)) = self.0.split_first() else { return String::new() };
        let rule: String =
            std::iter::once("|---|").chain(std::iter::repeat_n("---:|", heads.len() - 1)).collect();
        format!("{}{rule}\n{}", line(heads), rows.iter().map(line).collect::<String>())
    }

    /// As an HTML table.
    pub(super) fn html(&self) -> String {
        let line = |row: &Vec<String>, element: &str| {
            let cells = row.iter().map(|cell| format!("<{element}>{}</{element}>", escape(cell)));
            format!("<tr>{}</tr>", cells.collect::<String>())
        };
        let Some((heads, rows)) = self.0.split_first() else { return String::new() };
        let rows: String = rows.iter().map(|row| line(row, "td")).collect();
        format!("<table>{}{rows}</table>\n", line(heads, "th"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_bars_are_escaped() {
        let mut table = Table::new(["metric", "own"]);
        table.row(["TPOT p50".into(), "1.00 ms".into()]);
        table.row(["a|b".into(), "10.0 ms".into()]);
        assert_eq!(table.text("  "), "  metric         own\n  TPOT p50   1.00 ms\n  a|b        10.0 ms\n");
        assert_eq!(
            table.markdown(),
            "| metric | own |\n|---|---:|\n| TPOT p50 | 1.00 ms |\n| a\\|b | 10.0 ms |\n"
        );
    }
}

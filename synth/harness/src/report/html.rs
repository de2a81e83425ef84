//! The report as one HTML page that opens offline: no script, no font, no link to anything.

use std::fmt::Write as _;

use synth::workload::Metric;

use super::svg::{Axis, Plot, escape, stacked_bar};
use super::terminal::{latencies, strongest_first};
use super::words;
use crate::bench::{Cell, Comparison, OperatingPoint, Versus};
use crate::metrics::{Quantity, Summary};
use crate::stats::Verdict;

/// The style sheet; its colours are told apart by people who see few, and drawn darker or lighter with the page.
const STYLE: &str = include_str!("report.css");

/// Size of a plot, pixels.
const PLOT: (f64, f64) = (504.0, 300.0);

/// Width of what fills the page.
const WIDE: f64 = 1042.0;

/// The whole comparison as a page. `memory` is the memory plan of the own server: what for, and how many bytes.
#[must_use]
pub fn html(comparison: &Comparison, memory: &[(String, u64)]) -> String {
    let title = escape(&format!("{}: bench", comparison.workload));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>\n{STYLE}</style></head>\n<body><main>\n<h1>{title}</h1>\n"
    );
    let _ = writeln!(page, "<p class=\"lead\">{}</p>", escape(&words::sentence(comparison)));
    for caveat in comparison.caveats() {
        let _ = writeln!(page, "<p class=\"caveat\">{}</p>", escape(&caveat));
    }
    page.push_str(&legend(comparison));
    section(
        &mut page,
        "Ratios",
        "Own ÷ reference with 95 % intervals; left of 1 the own server is better.",
        &[ratios(comparison)],
    );
    for name in ["traffic", "decode_c1"] {
        let plots: Vec<String> = [Quantity::Ttft, Quantity::Tpot]
            .into_iter()
            .filter_map(|quantity| cdf(comparison, name, quantity))
            .collect();
        let what = comparison.versus().and_then(|versus| versus.cell(name)).map_or("", |cell| &cell.what);
        section(&mut page, &format!("Latency distributions, {name}"), what, &plots);
    }
    let curves: Vec<String> =
        curve_metrics(comparison).into_iter().filter_map(|metric| curve(comparison, metric)).collect();
    section(
        &mut page,
        "Throughput and latency",
        "Numbers beside the dots are requests in flight; a dashed line is a bound of the spec.",
        &curves,
    );
    if !memory.is_empty() {
        let total = memory.iter().map(|(_, size)| size).sum();
        let part = |(name, size): &(String, u64)| format!("{name} {}", words::bytes(*size));
        let parts: Vec<String> = memory.iter().map(part).collect();
        let (total, peak) = (words::bytes(total), words::bytes(comparison.own.peak_rss_bytes));
        let caption = format!("{total} planned: {}; {peak} held at the peak.", parts.join(", "));
        let bar = stacked_bar(WIDE, memory, words::bytes, "memory plan");
        section(&mut page, "Memory plan", &caption, &[bar]);
    }
    tables(&mut page, comparison);
    page.push_str("</main></body></html>\n");
    page
}

fn section(page: &mut String, title: &str, caption: &str, figures: &[String]) {
    if figures.is_empty() {
        return;
    }
    let _ =
        write!(page, "<section><h2>{}</h2><p>{}</p><div class=\"figures\">", escape(title), escape(caption));
    for figure in figures {
        let _ = write!(page, "<figure>{figure}</figure>");
    }
    page.push_str("</div></section>\n");
}

/// The class of a reference's colour.
fn class(race_idx: usize) -> String {
    format!("s{}", race_idx % 4 + 1)
}

fn legend(comparison: &Comparison) -> String {
    let entry = |class: &str, name: &str| format!("<li><i class=\"{class}\"></i>{}</li>", escape(name));
    let references = comparison.references.iter().enumerate();
    let references = references.map(|(idx, versus)| entry(&class(idx), &words::server(&versus.reference)));
    format!(
        "<ul class=\"legend\">{}{}</ul>\n",
        entry("s0", &comparison.own.name),
        references.collect::<String>()
    )
}

/// The metrics that the plot of ratios shows; the tables have them all.
const PLOTTED: [Metric; 4] = [Metric::TtftP50, Metric::TtftP99, Metric::TpotP50, Metric::TpotP99];

/// Ratios of every load against every reference, the strongest first, one row each.
fn ratios(comparison: &Comparison) -> String {
    let rows: Vec<_> = strongest_first(comparison)
        .flat_map(|(race_idx, versus)| {
            versus.cells.iter().flat_map(move |cell| {
                let metrics = PLOTTED
                    .into_iter()
                    .filter_map(|metric| Some((words::metric(metric), cell.metrics.get(&metric)?)));
                let cost = cell.ms_per_token.iter().map(|measured| ("time per token".to_owned(), measured));
                metrics.chain(cost).map(move |(metric, measured)| {
                    let name = format!("{}, {} {metric}", versus.reference.name, cell.name);
                    (name, measured.ratio, class(race_idx))
                })
            })
        })
        .collect();
    let axis = Axis::about_one(rows.iter().flat_map(|(_, ratio, _)| ratio.interval()));
    let mut plot = Plot::rows(WIDE, rows.len(), (axis, "own ÷ reference"), "ratios with intervals");
    plot.upright(1.0);
    for (row, (name, ratio, class)) in rows.iter().enumerate() {
        let hollow = if ratio.verdict == Verdict::NoEvidence { " hollow" } else { "" };
        let about = format!("{name}: {}, {}", words::interval(ratio), words::verdict(ratio));
        plot.interval(row, name, ratio.interval(), &format!("{class}{hollow}"), &about);
    }
    plot.finish()
}

/// The share of values up to each value, own and references; `None` where nothing was measured.
fn cdf(comparison: &Comparison, cell: &str, quantity: Quantity) -> Option<String> {
    let races: Vec<(usize, &Cell)> = comparison
        .references
        .iter()
        .enumerate()
        .filter_map(|(idx, versus)| Some((idx, versus.cell(cell)?)))
        .collect();
    let own = comparison.versus()?.cell(cell)?.own_cdf.get(&quantity)?;
    let references: Vec<(usize, &Vec<f64>)> =
        races.iter().filter_map(|(idx, cell)| Some((*idx, cell.reference_cdf.get(&quantity)?))).collect();
    let all: Vec<f64> = references.iter().flat_map(|(_, values)| values.iter()).chain(own).copied().collect();
    let x = Axis::spanning(all);
    let title = format!("{}, ms", quantity.name());
    let label = format!("distribution of {} in {cell}", quantity.name());
    let mut plot = Plot::new(PLOT, (x, &title), (Axis::shares(), "share of values"), &label);
    let points = |values: &[f64]| -> Vec<(f64, f64)> {
        let last = values.len().saturating_sub(1).max(1) as f64;
        values.iter().enumerate().map(|(idx, value)| (*value, idx as f64 / last)).collect()
    };
    for (idx, values) in references {
        plot.curve(points(values), &class(idx));
    }
    plot.curve(points(own), "s0");
    Some(plot.finish())
}

/// The metric that is minimised and those that are kept, once each.
fn curve_metrics(comparison: &Comparison) -> Vec<Metric> {
    let kept = comparison.keep_ms.keys().copied().filter(|metric| *metric != comparison.minimise);
    std::iter::once(comparison.minimise).chain(kept).collect()
}

/// Throughput against one latency, own (as measured beside the strongest) and references; `None` without points.
fn curve(comparison: &Comparison, metric: Metric) -> Option<String> {
    let mut series: Vec<(String, String, Vec<Point>)> = Vec::new();
    let own = operating_points(comparison.versus()?, metric, |(own, _)| own);
    series.push((comparison.own.name.clone(), "s0".to_owned(), own));
    for (idx, versus) in comparison.references.iter().enumerate() {
        let points = operating_points(versus, metric, |(_, reference)| reference);
        series.push((versus.reference.name.clone(), class(idx), points));
    }
    let all = || series.iter().flat_map(|(_, _, points)| points);
    all().next()?;
    let bound = comparison.keep_ms.get(&metric).copied();
    let x = Axis::from_zero(all().map(|point| point.tokens_per_s));
    let y_values: Vec<f64> = all().map(|point| point.ms).chain(bound).collect();
    let title = format!("{}, ms", words::metric(metric));
    let mut plot =
        Plot::new(PLOT, (x, "output tokens per second"), (Axis::spanning(y_values), &title), &title);
    if let Some(bound) = bound {
        plot.bound(bound, &format!("keep {} under {}", words::metric(metric), words::ms(bound)));
    }
    for (name, class, points) in &series {
        plot.curve(points.iter().map(|point| (point.tokens_per_s, point.ms)), class);
        for point in points {
            let rate = words::number(point.tokens_per_s);
            let about = format!("{name}, {}: {rate} tokens/s at {}", point.load, words::ms(point.ms));
            plot.dot((point.tokens_per_s, point.ms), class, &point.load, &about);
        }
    }
    Some(plot.finish())
}

/// One server under one load.
struct Point {
    load: String,
    tokens_per_s: f64,
    ms: f64,
}

/// The points of the curve, or the loads of the bench where no curve was measured.
fn operating_points(
    versus: &Versus,
    metric: Metric,
    side: fn((OperatingPoint, OperatingPoint)) -> OperatingPoint,
) -> Vec<Point> {
    let of_summary = |summary: &Summary| OperatingPoint {
        output_tokens_per_s: summary.output_tokens_per_s,
        latency_ms: summary.latency_ms.clone(),
    };
    let measured: Vec<(String, OperatingPoint)> = match versus.curve.as_slice() {
        [] => {
            let cells = versus.cells.iter().filter(|cell| cell.void.is_none());
            cells
                .map(|cell| (cell.name.clone(), side((of_summary(&cell.own), of_summary(&cell.reference)))))
                .collect()
        }
        points => points
            .iter()
            .map(|point| (point.concurrency.to_string(), side((point.own.clone(), point.reference.clone()))))
            .collect(),
    };
    let point = |(load, at): (String, OperatingPoint)| {
        let ms = *at.latency_ms.get(&metric)?;
        Some(Point { load, tokens_per_s: at.output_tokens_per_s, ms })
    };
    measured.into_iter().filter_map(point).collect()
}

/// The numbers behind the plots, the servers, the noise and the formulas.
fn tables(page: &mut String, comparison: &Comparison) {
    for (_, versus) in strongest_first(comparison) {
        let _ = writeln!(page, "<section><h2>Against {}</h2>", escape(&words::server(&versus.reference)));
        for cell in &versus.cells {
            let _ = write!(page, "<h3>{}</h3><p>{}</p>", escape(&cell.name), escape(&cell.what));
            match &cell.void {
                Some(why) => {
                    let _ = write!(page, "<p class=\"caveat\">void: {}</p>", escape(why));
                }
                None => page.push_str(&latencies(comparison, versus, cell).html()),
            }
        }
        page.push_str("</section>\n");
    }
    let flags = comparison
        .references
        .iter()
        .map(|versus| (format!("flags of {}", versus.reference.name), versus.reference.flags.join(" ")));
    let servers: Vec<_> = words::facts(comparison).into_iter().chain(flags).collect();
    for (title, rows) in
        [("Servers", servers), ("Noise", words::noise(comparison)), ("Formulas", words::formulas())]
    {
        let _ = write!(page, "<section><h2>{title}</h2><dl>");
        for (name, value) in rows {
            let _ = write!(page, "<dt>{}</dt><dd>{}</dd>", escape(&name), escape(&value));
        }
        page.push_str("</dl></section>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::comparison;

    fn page() -> String {
        let memory = [
            ("weights".to_owned(), 10 << 20),
            ("KV blocks".to_owned(), 48 << 20),
            ("scratch".to_owned(), 1 << 20),
        ];
        html(&comparison(), &memory)
    }

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let page = page();
        for told in [
            "quickstart is 1.",
            "Ratios",
            "TTFT, ms",
            "TPOT, ms",
            "59.0 MiB planned: weights 10.0 MiB",
            "keep TTFT p99 under 800 ms",
        ] {
            assert!(page.contains(told), "{told} is missing");
        }
        for foreign in ["<script", "http://", "https://", "url(", "@import"] {
            assert!(!page.contains(foreign), "the page reaches outside: {foreign}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf\""));
    }

    #[test]
    fn every_element_that_is_opened_is_closed() {
        let page = page();
        for element in ["svg", "section", "figure", "table", "tr", "td", "text", "main", "dl", "ul"] {
            let opened =
                page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
            assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
            assert!(opened > 0, "{element}");
        }
    }

    #[test]
    fn without_a_curve_the_loads_are_its_points() {
        let mut comparison = comparison();
        for versus in &mut comparison.references {
            versus.curve.clear();
        }
        let page = html(&comparison, &[]);
        assert!(page.contains("llama.cpp, decode_c1: "), "a dot for each load");
        assert!(!page.contains("Memory plan"));
    }
}

//! The words and numbers that every report uses alike.

use synth::workload::Metric;

use crate::bench::{Comparison, Headline, Measured, Side};
use crate::metrics::Quantity;
use crate::stats::{Ratio, Verdict, median};

/// A number with three significant digits, none of them after the point from 100 on.
pub(crate) fn number(x: f64) -> String {
    let places = match x.abs() {
        x if x >= 100.0 => 0,
        x if x >= 10.0 => 1,
        x if x >= 1.0 => 2,
        _ => 3,
    };
    format!("{x:.places$}")
}

/// Milliseconds with their unit; seconds from ten on.
pub(crate) fn ms(ms: f64) -> String {
    if ms >= 10_000.0 { format!("{} s", number(ms / 1e3)) } else { format!("{} ms", number(ms)) }
}

/// Bytes in the largest binary unit that leaves at least one.
pub(super) fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n >= 1e9 => format!("{} GiB", number(n / f64::from(1 << 30))),
        n if n >= 1e6 => format!("{} MiB", number(n / f64::from(1 << 20))),
        n if n >= 1e3 => format!("{} KiB", number(n / 1024.0)),
        n => format!("{n} B"),
    }
}

/// `TPOT p50`.
pub(crate) fn metric(metric: Metric) -> String {
    let (quantity, q) = Quantity::of(metric);
    format!("{} p{}", quantity.name(), (q * 100.0).round())
}

/// `0.77 [0.75 … 0.79]`.
pub(super) fn interval(ratio: &Ratio) -> String {
    format!("{:.2} [{:.2} … {:.2}]", ratio.mid, ratio.lo, ratio.hi)
}

/// `1.30 × faster`, `1.12 × slower`, or that there is no evidence.
pub(super) fn verdict(ratio: &Ratio) -> String {
    match ratio.verdict {
        Verdict::Faster => format!("{:.2} × faster", 1.0 / ratio.mid),
        Verdict::Slower => format!("{:.2} × slower", ratio.mid),
        Verdict::NoEvidence => "no evidence".to_owned(),
    }
}

/// `llama.cpp b6500`.
pub(super) fn server(side: &Side) -> String {
    format!("{} {}", side.name, side.version).trim_end().to_owned()
}

/// The headline as one sentence.
pub(super) fn sentence(comparison: &Comparison) -> String {
    let name = &comparison.workload;
    let Some(Headline { reference, cell, metric: which, measured: Measured { ratio, own_ms, reference_ms } }) =
        comparison.headline()
    else {
        return format!("{name}: no result, every cell that could give one is void");
    };
    let reference = server(reference);
    let (which, own, other) = (metric(which), ms(*own_ms), ms(*reference_ms));
    let what = format!("{which} of {own} against {other} in {}, {} pairs", cell.name, ratio.n_pairs);
    match ratio.verdict {
        Verdict::Faster => format!(
            "{name} is {:.2} times faster than {reference} [{:.2} … {:.2}]: {what}",
            1.0 / ratio.mid,
            1.0 / ratio.hi,
            1.0 / ratio.lo
        ),
        Verdict::Slower => format!(
            "{name} is {:.2} times slower than {reference} [{:.2} … {:.2}]: {what}",
            ratio.mid, ratio.lo, ratio.hi
        ),
        Verdict::NoEvidence => format!(
            "no evidence that {name} and {reference} differ, own ÷ reference {}: {what}{}",
            interval(ratio),
            ratio.detectable.map_or(String::new(), |least| format!(
                "; a difference of {:.0} % would have shown",
                100.0 * least
            ))
        ),
    }
}

/// Names and values that describe the servers rather than a load: starts, memory, roofline.
pub(super) fn facts(comparison: &Comparison) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let sides = || std::iter::once(&comparison.own).chain(comparison.references.iter().map(|v| &v.reference));
    let each = |value: &dyn Fn(&Side) -> Option<String>| -> String {
        let shown: Vec<String> =
            sides().filter_map(|side| Some(format!("{} {}", side.name, value(side)?))).collect();
        shown.join(", ")
    };
    facts.push(("exec to ready".to_owned(), each(&|side| median(&side.ready_ms).map(ms))));
    facts.push(("exec to first token".to_owned(), each(&|side| median(&side.first_token_ms).map(ms))));
    facts.push(("peak memory".to_owned(), each(&|side| Some(bytes(side.peak_rss_bytes)))));
    if let Some(reached) = &comparison.roofline {
        facts.push((
            "roofline".to_owned(),
            format!(
                "{:.0} % of it with one sequence: {} measured, {} to read {} at {} GB/s{}",
                100.0 * reached.fraction,
                ms(reached.measured_ms),
                ms(reached.floor_ms),
                bytes(reached.roofline.bytes_per_token),
                number(reached.roofline.read_gb_s),
                reached.remark()
            ),
        ));
    }
    for versus in &comparison.references {
        if let Some(traffic) = versus.cell("traffic") {
            facts.push((
                "goodput".to_owned(),
                format!(
                    "{} {:.2} requests/s within the SLO ({:.0} % of those sent), {} {:.2} ({:.0} %)",
                    comparison.own.name,
                    traffic.own.goodput_rps,
                    100.0 * traffic.own.goodput_share,
                    versus.reference.name,
                    traffic.reference.goodput_rps,
                    100.0 * traffic.reference.goodput_share
                ),
            ));
        }
    }
    facts
}

/// The machine, and what disturbed it.
pub(super) fn noise(comparison: &Comparison) -> Vec<(String, String)> {
    let (host, noise) = (&comparison.host, &comparison.noise);
    let share =
        |share: Option<f64>| share.map_or("unknown".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    let governor = host.governor.as_deref().unwrap_or("unknown");
    vec![
        (
            "machine".to_owned(),
            format!(
                "{}, {} cores, {}, Linux {}",
                host.cpu,
                host.cores,
                bytes(host.memory_bytes),
                host.kernel
            ),
        ),
        ("governor".to_owned(), governor.to_owned()),
        ("load before, after".to_owned(), format!("{:.2}, {:.2}", noise.load[0], noise.load[1])),
        ("taken by hypervisor".to_owned(), share(noise.steal_share)),
        ("used by others".to_owned(), share(noise.foreign_share)),
        ("spread of own blocks".to_owned(), share(noise.spread)),
        ("generator late, p99".to_owned(), ms(noise.lateness_p99_ms)),
    ]
}

/// Every quantity's abbreviation with the name of its formula and the formula.
pub(super) fn formulas() -> Vec<(String, String)> {
    Quantity::ALL
        .into_iter()
        .map(|quantity| {
            let (name, formula) = quantity.formula();
            (quantity.name().to_owned(), format!("{name}: {formula}"))
        })
        .chain([(
            "ratio".to_owned(),
            "own ÷ reference, less is better: geometric mean over interleaved pairs, bootstrap interval of 95 %"
                .to_owned(),
        )])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        assert_eq!([0.1234, 1.234, 12.34, 123.4].map(number), ["0.123", "1.23", "12.3", "123"]);
        assert_eq!([1.5, 9_999.0, 12_345.0].map(ms), ["1.50 ms", "9999 ms", "12.3 s"]);
        assert_eq!([512, 2048, 30 << 20, 3 << 30].map(bytes), ["512 B", "2.00 KiB", "30.0 MiB", "3.00 GiB"]);
        assert_eq!(metric(Metric::TtftP99), "TTFT p99");
    }

    #[test]
    fn a_ratio_is_told_in_the_direction_of_its_verdict() {
        let told = |own: f64, reference: f64| {
            let pairs: Vec<(f64, f64)> = (0..6)
                .map(|idx| (own + 0.01 * f64::from(idx), reference + 0.01 * f64::from(5 - idx)))
                .collect();
            verdict(&Ratio::of_pairs(&pairs, 1).expect("a ratio"))
        };
        assert!(told(1.0, 2.0).ends_with("× faster") && told(2.0, 1.0).ends_with("× slower"));
        assert_eq!(told(1.0, 1.0), "no evidence");
    }
}

//! The report for programs: a fixed shape with a version inside.

use serde_json::{Map, Value, json};

use crate::bench::{Cell, Comparison, Measured};

/// The version of the shape.
const VERSION: u32 = 1;

/// One object: `reference` is the strongest one's name; `metrics` are those of the headline's cell, each with `ratio`
/// (low, mid, high of own ÷ reference), `own_ms`, `reference_ms` and `verdict`; `verdict` is that of the metric the
/// spec minimises, or `void`; `roofline_fraction` is null where bandwidth was not probed. `comparison` is everything.
#[must_use]
pub fn json(comparison: &Comparison) -> Value {
    let headline = comparison.headline();
    let strongest = comparison.versus().map(|versus| &versus.reference);
    let races: Map<String, Value> = comparison
        .references
        .iter()
        .map(|versus| {
            let cells: Map<String, Value> =
                versus.cells.iter().map(|cell| (cell.name.clone(), metrics(cell))).collect();
            (versus.reference.name.clone(), Value::Object(cells))
        })
        .collect();
    json!({
        "version": VERSION,
        "reference": strongest.map(|side| &side.name),
        "reference_version": strongest.map(|side| &side.version),
        "cell": headline.map(|headline| &headline.cell.name),
        "metric": comparison.minimise,
        "metrics": headline.map_or_else(|| json!({}), |headline| metrics(headline.cell)),
        "verdict": headline.map_or_else(|| json!("void"), |headline| json!(headline.measured.ratio.verdict)),
        "roofline_fraction": comparison.roofline.map(|reached| reached.fraction),
        "caveats": comparison.caveats(),
        "races": races,
        "comparison": comparison,
    })
}

fn metrics(cell: &Cell) -> Value {
    let figures: Map<String, Value> =
        cell.metrics.iter().map(|(metric, measured)| (metric.name().to_owned(), figure(measured))).collect();
    Value::Object(figures)
}

fn figure(measured: &Measured) -> Value {
    json!({
        "ratio": measured.ratio.interval(),
        "own_ms": measured.own_ms,
        "reference_ms": measured.reference_ms,
        "verdict": measured.ratio.verdict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::comparison;

    #[test]
    fn the_promised_keys_are_there() {
        let report = json(&comparison());
        assert_eq!(report["version"], 1);
        assert_eq!(report["reference"], "llama.cpp");
        assert_eq!(report["verdict"], "faster");
        let tpot = &report["metrics"]["tpot_p50"];
        assert_eq!(tpot["ratio"].as_array().map(Vec::len), Some(3));
        assert!(tpot["own_ms"].is_f64() && tpot["reference_ms"].is_f64());
        assert!(report["roofline_fraction"].is_f64());
        assert!(report["races"]["candle"]["decode_c1"]["tpot_p50"].is_object());
    }

    #[test]
    fn a_race_without_a_result_says_void() {
        let mut comparison = comparison();
        for cell in comparison.references.iter_mut().flat_map(|versus| &mut versus.cells) {
            cell.void = Some("late".into());
            cell.metrics.clear();
        }
        let report = json(&comparison);
        assert_eq!((&report["verdict"], &report["metrics"]), (&json!("void"), &json!({})));
    }
}

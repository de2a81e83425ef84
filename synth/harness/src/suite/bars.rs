//! What each row is to reach, as data, and whether it did.

use serde::{Deserialize, Serialize};

use super::{Quantity, Row, run::Figure};
use crate::reference::Format;
use crate::stats::Verdict;

/// Something that a row is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// The best engine takes at least so many times as long, and the interval excludes 1.
    Ahead(Quantity, f64),
    /// At least this share of what the machine allows.
    Share(f64),
    /// No more than this, whatever others take.
    AtMost(Quantity, f64),
}

use Format::{Bf16, Int4, Int8};

/// Every bar: of a row, in a format; `None` is every format. A bar of one model names it.
pub const BARS: &[(Row, Option<Format>, Option<&str>, Bar)] = &[
    (Row::DecodeB1, Some(Bf16), None, Bar::Ahead(Quantity::TpotP50, 1.15)),
    (Row::DecodeB1, Some(Int8), None, Bar::Ahead(Quantity::TpotP50, 1.35)),
    (Row::DecodeB1, Some(Int4), None, Bar::Ahead(Quantity::TpotP50, 1.45)),
    (Row::DecodeB1, Some(Bf16), None, Bar::Share(0.90)),
    (Row::DecodeB1, Some(Int8), None, Bar::Share(0.85)),
    (Row::DecodeB1, Some(Int4), None, Bar::Share(0.75)),
    (Row::DecodeB8, Some(Bf16), None, Bar::Ahead(Quantity::MsPerToken, 1.4)),
    (Row::DecodeB8, Some(Int8), None, Bar::Ahead(Quantity::MsPerToken, 1.8)),
    (Row::DecodeB8, Some(Int4), None, Bar::Ahead(Quantity::MsPerToken, 1.8)),
    (Row::Prefill512, Some(Bf16), None, Bar::Ahead(Quantity::TtftP50, 1.2)),
    (Row::Prefill512, Some(Int8), None, Bar::Ahead(Quantity::TtftP50, 1.8)),
    (Row::Prefill512, Some(Int4), None, Bar::Ahead(Quantity::TtftP50, 1.8)),
    (Row::Prefill512, Some(Bf16), None, Bar::Share(0.75)),
    (Row::Prefill512, Some(Int8), None, Bar::Share(0.60)),
    (Row::Prefill512, Some(Int4), None, Bar::Share(0.60)),
    (Row::Prefill4096, None, None, Bar::Ahead(Quantity::TtftP50, 1.0)),
    (Row::DecodeB1At8k, None, None, Bar::Ahead(Quantity::TpotP50, 1.3)),
    (Row::DecodeB1At8k, None, None, Bar::Share(0.85)),
    (Row::Served, None, None, Bar::Ahead(Quantity::TpotP50, 1.3)),
    (Row::Served, None, None, Bar::Ahead(Quantity::TtftP99, 1.0)),
    (Row::Start, None, None, Bar::Ahead(Quantity::FirstTokenMs, 4.0)),
    (Row::Start, None, Some("qwen3-0.6b"), Bar::AtMost(Quantity::FirstTokenMs, 150.0)),
    (Row::Memory, None, None, Bar::AtMost(Quantity::BesideBytes, 60e6)),
];

/// Where a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Every bar is reached.
    Pass,
    /// One is not.
    Miss,
    /// Nothing may be concluded.
    Void,
    /// No own binary can be made.
    Refused,
}

impl Standing {
    /// The word of reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Standing::Pass => "pass",
            Standing::Miss => "miss",
            Standing::Void => "void",
            Standing::Refused => "refused",
        }
    }
}

/// Whether a cell reaches its bars: `ahead` holds own ÷ best, `own` what own measured, `share` the share of the limit.
/// With what it misses, in words. A figure that is not there reaches nothing.
#[must_use]
pub fn judge(
    (model, format, row): (&str, Format, Row),
    ahead: &[Figure],
    own: &[(Quantity, f64)],
    share: Option<f64>,
) -> (Standing, Vec<String>) {
    let of_this = BARS.iter().filter(|(of, in_format, of_model, _)| {
        *of == row && in_format.is_none_or(|it| it == format) && of_model.is_none_or(|it| it == model)
    });
    let misses: Vec<String> = of_this.filter_map(|(_, _, _, bar)| missed(bar, ahead, own, share)).collect();
    (if misses.is_empty() { Standing::Pass } else { Standing::Miss }, misses)
}

fn missed(bar: &Bar, ahead: &[Figure], own: &[(Quantity, f64)], share: Option<f64>) -> Option<String> {
    match *bar {
        Bar::Ahead(quantity, least) => {
            let Some(figure) = ahead.iter().find(|it| it.quantity == quantity) else {
                return Some(format!("{} was not compared, {least} × is asked", quantity.name()));
            };
            let times = 1.0 / figure.ratio[1];
            let reached = times >= least && figure.verdict == Verdict::Faster;
            let why = if figure.verdict == Verdict::NoEvidence { ", which may be luck" } else { "" };
            (!reached).then(|| format!("{} {times:.2} × of {least} ×{why}", quantity.name()))
        }
        Bar::Share(least) => match share {
            Some(share) if share >= least => None,
            Some(share) => Some(format!("{:.0} % of the limit, {:.0} % asked", 100.0 * share, 100.0 * least)),
            None => Some("the share of the limit is unknown".to_owned()),
        },
        Bar::AtMost(quantity, most) => {
            let found = own.iter().find(|(of, _)| *of == quantity).map(|(_, value)| *value);
            match found {
                Some(value) if value <= most => None,
                Some(value) if quantity == Quantity::BesideBytes => {
                    Some(format!("{:.0} MB of {:.0} MB", value / 1e6, most / 1e6))
                }
                Some(value) => Some(format!("{value:.0} ms of {most:.0} ms")),
                None => Some(format!("{} was not measured", quantity.name())),
            }
        }
    }
}

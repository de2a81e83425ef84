//! Plots as SVG text: axes, lines, dots, intervals and bars, nothing that needs a script.
//!
//! Colours are classes of the page's style sheet (`s0` the own server, `s1` and on the references), so that one plot
//! serves a light page and a dark one.

use std::fmt::Write as _;

/// Where values fall on a stretch of pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
}

impl Axis {
    /// A linear axis from 0 that holds all values.
    pub(super) fn from_zero(values: impl IntoIterator<Item = f64>) -> Self {
        let high = values.into_iter().filter(|value| value.is_finite()).fold(0.0, f64::max);
        Self { low: 0.0, high: if high > 0.0 { high * 1.05 } else { 1.0 }, is_log: false }
    }

    /// The axis of shares, 0 to 1.
    pub(super) fn shares() -> Self {
        Self { low: 0.0, high: 1.0, is_log: false }
    }

    /// An axis that holds all positive values: logarithmic when they span more than a decade, else linear from 0.
    pub(super) fn spanning(values: impl IntoIterator<Item = f64> + Clone) -> Self {
        let positive = || values.clone().into_iter().filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = (positive().fold(f64::INFINITY, f64::min), positive().fold(0.0, f64::max));
        match high > 10.0 * low {
            true => Self { low: low / 1.5, high: high * 1.2, is_log: true },
            false => Self::from_zero(values),
        }
    }

    /// A logarithmic axis about 1 that holds all positive values, and at least a factor 1.25 to both sides.
    pub(super) fn about_one(values: impl IntoIterator<Item = f64>) -> Self {
        let positive = values.into_iter().filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = positive.fold((0.8, 1.25), |(low, high), value| (value.min(low), value.max(high)));
        Self { low: low / 1.05, high: high * 1.05, is_log: true }
    }

    /// The share of the way from its low end to its high end, cut to 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let place = |x: f64| if self.is_log { x.max(f64::MIN_POSITIVE).ln() } else { x };
        ((place(value) - place(self.low)) / (place(self.high) - place(self.low))).clamp(0.0, 1.0)
    }

    /// Round values to mark, at most about eight.
    fn ticks(&self) -> Vec<f64> {
        if !self.is_log {
            let rough = (self.high - self.low) / 5.0;
            let decade = 10f64.powf(rough.log10().floor());
            let step =
                [1.0, 2.0, 5.0, 10.0].map(|n| n * decade).into_iter().find(|step| *step >= rough * 0.999);
            let step = step.unwrap_or(rough);
            let first = (self.low / step).ceil() as i64;
            return (first..)
                .map(|n| n as f64 * step)
                .take_while(|tick| *tick <= self.high)
                .take(12)
                .collect();
        }
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let marks = |steps: &[f64]| -> Vec<f64> {
            let all = decades.clone().flat_map(|n| steps.iter().map(move |step| step * 10f64.powi(n)));
            all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
        };
        let fine = marks(&[1.0, 1.25, 1.6, 2.0, 2.5, 4.0, 5.0, 8.0]);
        let some = marks(&[1.0, 2.0, 5.0]);
        if fine.len() <= 6 {
            fine
        } else if some.len() <= 8 {
            some
        } else {
            marks(&[1.0])
        }
    }
}

/// A drawing that grows piece by piece.
#[derive(Debug)]
pub(super) struct Plot {
    width: f64,
    height: f64,
    left: f64,
    x: Axis,
    y: Axis,
    body: String,
}

const TOP: f64 = 12.0;
const RIGHT: f64 = 16.0;
const BOTTOM: f64 = 42.0;

impl Plot {
    /// Axes with grid lines, ticks and titles. `label` says to a reader who does not see it what the plot shows.
    pub(super) fn new(
        (width, height): (f64, f64),
        (x, x_title): (Axis, &str),
        (y, y_title): (Axis, &str),
        label: &str,
    ) -> Self {
        let mut plot = Self { width, height, left: 62.0, x, y, body: String::new() };
        plot.open(label);
        plot.x_ticks(x_title);
        for tick in plot.y.ticks() {
            let at = plot.y_px(tick);
            plot.line((plot.left, at), (plot.width - RIGHT, at), "grid");
            plot.text((plot.left - 6.0, at + 4.0), "end", "", &tick_text(tick));
        }
        let middle = (TOP + plot.height - BOTTOM) / 2.0;
        let turned = format!(r#" transform="rotate(-90 14 {middle:.1})""#);
        plot.placed((14.0, middle), "middle", "title", &turned, y_title);
        plot
    }

    /// A horizontal axis only, with rows of names on the left.
    pub(super) fn rows(width: f64, n_rows: usize, (x, x_title): (Axis, &str), label: &str) -> Self {
        let height = TOP + ROW * n_rows as f64 + BOTTOM;
        let mut plot = Self { width, height, left: 230.0, x, y: Axis::shares(), body: String::new() };
        plot.open(label);
        plot.x_ticks(x_title);
        plot
    }

    fn open(&mut self, label: &str) {
        let (width, height) = (self.width, self.height);
        let _ = write!(
            self.body,
            r#"<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{}">"#,
            escape(label)
        );
    }

    fn x_ticks(&mut self, title: &str) {
        let floor = self.height - BOTTOM;
        for tick in self.x.ticks() {
            let at = self.x_px(tick);
            self.line((at, TOP), (at, floor), "grid");
            self.text((at, floor + 16.0), "middle", "", &tick_text(tick));
        }
        let middle = (self.left + self.width - RIGHT) / 2.0;
        self.text((middle, self.height - 8.0), "middle", "title", title);
    }

    /// A line through the points, in the colour of a class.
    pub(super) fn curve(&mut self, points: impl IntoIterator<Item = (f64, f64)>, class: &str) {
        let path: Vec<String> =
            points.into_iter().map(|(x, y)| format!("{:.1},{:.1}", self.x_px(x), self.y_px(y))).collect();
        let _ = write!(self.body, r#"<polyline class="curve {class}" points="{}"/>"#, path.join(" "));
    }

    /// A dot with a short text beside it and a longer one for the pointer.
    pub(super) fn dot(&mut self, (x, y): (f64, f64), class: &str, beside: &str, about: &str) {
        let (px, py) = (self.x_px(x), self.y_px(y));
        let about = escape(about);
        let _ = write!(
            self.body,
            r#"<circle class="dot {class}" cx="{px:.1}" cy="{py:.1}" r="4"><title>{about}</title></circle>"#
        );
        // The own server's curve is drawn last and usually lowest: its texts go below, away from the others'.
        let below = if class == "s0" { 17.0 } else { -7.0 };
        let (anchor, aside) = if px > self.width - 90.0 { ("end", -6.0) } else { ("start", 6.0) };
        self.text((px + aside, py + below), anchor, "", beside);
    }

    /// A dashed horizontal line with a text at its right end: a bound.
    pub(super) fn bound(&mut self, y: f64, text: &str) {
        let at = self.y_px(y);
        self.line((self.left, at), (self.width - RIGHT, at), "bound");
        self.text((self.width - RIGHT, at - 5.0), "end", "", text);
    }

    /// A dashed vertical line.
    pub(super) fn upright(&mut self, x: f64) {
        let at = self.x_px(x);
        self.line((at, TOP), (at, self.height - BOTTOM), "bound");
    }

    /// One row: its name, an interval with its middle, and what it says.
    pub(super) fn interval(
        &mut self,
        row: usize,
        name: &str,
        [low, mid, high]: [f64; 3],
        class: &str,
        about: &str,
    ) {
        let at = TOP + ROW * (row as f64 + 0.5);
        self.text((self.left - 10.0, at + 4.0), "end", "", name);
        self.line((self.x_px(low), at), (self.x_px(high), at), &format!("whisker {class}"));
        let (px, about) = (self.x_px(mid), escape(about));
        let _ = write!(
            self.body,
            r#"<circle class="dot {class}" cx="{px:.1}" cy="{at:.1}" r="4"><title>{about}</title></circle>"#
        );
    }

    /// The finished drawing.
    pub(super) fn finish(mut self) -> String {
        self.body.push_str("</svg>");
        self.body
    }

    fn x_px(&self, x: f64) -> f64 {
        self.left + self.x.share(x) * (self.width - RIGHT - self.left)
    }

    fn y_px(&self, y: f64) -> f64 {
        let floor = self.height - BOTTOM;
        floor - self.y.share(y) * (floor - TOP)
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let _ = write!(
            self.body,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    fn text(&mut self, at: (f64, f64), anchor: &str, class: &str, text: &str) {
        self.placed(at, anchor, class, "", text);
    }

    fn placed(&mut self, (x, y): (f64, f64), anchor: &str, class: &str, transform: &str, text: &str) {
        let text = escape(text);
        let _ = write!(
            self.body,
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}"{transform}>{text}</text>"#
        );
    }
}

/// Height of a row of a plot of rows.
const ROW: f64 = 22.0;

/// One bar cut into parts, each as wide as its share; parts too narrow for their text have it for the pointer only.
pub(super) fn stacked_bar(
    width: f64,
    parts: &[(String, u64)],
    shown: impl Fn(u64) -> String,
    label: &str,
) -> String {
    let total: u64 = parts.iter().map(|(_, size)| size).sum();
    let mut body = format!(
        r#"<svg viewBox="0 0 {width} 44" width="{width}" height="44" role="img" aria-label="{}">"#,
        escape(label)
    );
    let mut at = 0.0;
    for (idx, (name, size)) in parts.iter().enumerate() {
        let part = *size as f64 / total.max(1) as f64 * width;
        let text = escape(&format!("{name} {}", shown(*size)));
        // A gap of two pixels tells neighbours apart without a border.
        let _ = write!(
            body,
            r#"<rect class="part p{}" x="{at:.1}" y="2" width="{:.1}" height="40" rx="3"><title>{text}</title></rect>"#,
            idx % 4,
            (part - 2.0).max(1.0)
        );
        if part > 7.5 * text.chars().count() as f64 {
            let _ = write!(body, r#"<text class="inside" x="{:.1}" y="27">{text}</text>"#, at + 9.0);
        }
        at += part;
    }
    body.push_str("</svg>");
    body
}

/// Text that may stand in HTML and in a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn tick_text(tick: f64) -> String {
    // Six digits hide what binary fractions add; trailing zeros say nothing.
    let text = format!("{tick:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_values_and_mark_round_ones() {
        let linear = Axis::from_zero([3.0, 47.0]);
        assert_eq!(linear.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0]);
        let log = Axis::spanning([1.5, 900.0]);
        assert!(log.is_log && log.ticks().contains(&100.0) && log.ticks().len() <= 8);
        assert!(!Axis::spanning([2.0, 5.0]).is_log);
        let ratio = Axis::about_one([0.97, 1.02]);
        assert!((ratio.share(1.0) - 0.5).abs() < 0.01, "a ratio of 1 stands in the middle");
        for axis in [linear, log, ratio, Axis::from_zero([]), Axis::spanning([]), Axis::about_one([])] {
            assert!(axis.low < axis.high && axis.ticks().len() >= 2, "{axis:?}: {:?}", axis.ticks());
            assert!((0.0..=1.0).contains(&axis.share(f64::NAN.max(0.0))));
        }
    }

    #[test]
    fn text_from_outside_is_escaped() {
        let bar = stacked_bar(400.0, &[("<b>\"w&".to_owned(), 3)], |n| n.to_string(), "a \"label\"");
        assert!(bar.contains("&lt;b&gt;&quot;w&amp; 3") && !bar.contains("<b>"));
    }

    #[test]
    fn ticks_read_as_people_write() {
        assert_eq!([0.1 + 0.2, 100.0, 0.0, 1.25].map(tick_text), ["0.3", "100", "0", "1.25"]);
    }
}

//! Sizes and times as people write them: a number and its unit.

use std::time::Duration;

use super::Bytes;

const SIZES: [(&str, f64); 5] =
    [("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0), ("MB", 1e6), ("GB", 1e9)];
const TIMES: [(&str, f64); 2] = [("ms", 1e-3), ("s", 1.0)];

/// What a size looks like, for messages and documentation.
pub(super) const SIZE: &str = "a size with its unit, KiB, MiB, GiB, MB or GB, as `4GiB`";
/// What a time looks like.
pub(super) const TIME: &str = "a time with its unit, ms or s, as `800ms`";
/// [`SIZE`] as a regular expression.
pub(super) const SIZE_PATTERN: &str = "^[0-9]+(\\.[0-9]+)? ?(KiB|MiB|GiB|MB|GB)$";
/// [`TIME`] as a regular expression.
pub(super) const TIME_PATTERN: &str = "^[0-9]+(\\.[0-9]+)? ?(ms|s)$";

/// A size from one byte to 64 TiB.
pub(super) fn bytes(text: &str) -> Option<Bytes> {
    let bytes = number_and_unit(text, &SIZES)?.round();
    (1.0..=70368744177664.0).contains(&bytes).then_some(Bytes(bytes as u64))
}

/// A time from one microsecond to one day.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let seconds = number_and_unit(text, &TIMES)?;
    (1e-6..=86400.0).contains(&seconds).then(|| Duration::from_micros((seconds * 1e6).round() as u64))
}

fn number_and_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    let plain = number.split('.').all(|part| !part.is_empty()) && number.matches('.').count() <= 1;
    plain.then(|| number.parse::<f64>().ok()).flatten().map(|number| number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_needed_and_known() {
        assert_eq!(bytes("4GiB"), Some(Bytes(4 << 30)));
        assert_eq!(bytes("1.5 MB"), Some(Bytes(1_500_000)));
        assert_eq!(duration("800ms"), Some(Duration::from_millis(800)));
        assert_eq!(duration("0.25s"), Some(Duration::from_millis(250)));
        for text in [
            "",
            "4",
            "GiB",
            "-1GiB",
            "0GiB",
            "4gib",
            "4 GiB ",
            "1.2.3GiB",
            ".5GiB",
            "1e9GiB",
            "9999999999GiB",
        ] {
            assert_eq!(bytes(text), None, "{text}");
        }
        for text in ["", "1", "ms", "0ms", "-5ms", "5 minutes", "1e3s", "99999999s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}

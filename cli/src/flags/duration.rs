//! Go's `time.Duration`: the text people type (`1h30m`, `1.5s`) and the text Go prints
//! (`720h0m0s`, `12.3ms`).
//!
//! Owns both directions. Nanoseconds in 64 bits, as in Go, so that overflow is refused alike.

use std::fmt;
use std::time::Duration;

/// Nanoseconds of each unit, longest first. `µ` has two code points in use.
const UNITS: [(&str, i128); 8] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ns", 1),
];

/// A signed span of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GoDuration(i64);

impl GoDuration {
    /// From whole seconds.
    pub(crate) const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// The whole span in nanoseconds.
    pub(crate) const fn nanoseconds(self) -> i64 {
        self.0
    }

    /// Whole seconds, rounded up: a request for 1.2 s must not yield less than asked for.
    pub(crate) const fn ceil_seconds(self) -> i64 {
        let whole = self.0.div_euclid(1_000_000_000);
        if self.0.rem_euclid(1_000_000_000) == 0 { whole } else { whole.saturating_add(1) }
    }

    /// As an unsigned duration; negative spans become zero.
    pub(crate) fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Reads `[-+]?` and one or more of `<decimal><unit>`, or a bare `0`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (sign, rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Some(Self(0));
        }
        if rest.is_empty() {
            return None;
        }
        let mut total: i128 = 0;
        let mut rest = rest;
        while !rest.is_empty() {
            let (nanoseconds, tail) = parse_term(rest)?;
            total = total.checked_add(nanoseconds)?;
            rest = tail;
        }
        i64::try_from(total.checked_mul(sign)?).ok().map(Self)
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match magnitude {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{magnitude}ns"),
            1_000..1_000_000 => {
                write_decimal(f, magnitude, 1_000, 3).and_then(|()| f.write_str("µs"))
            }
            1_000_000..1_000_000_000 => {
                write_decimal(f, magnitude, 1_000_000, 6).and_then(|()| f.write_str("ms"))
            }
            _ => {
                let minutes = magnitude / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write_decimal(f, magnitude % 60_000_000_000, 1_000_000_000, 9)?;
                f.write_str("s")
            }
        }
    }
}

/// One `<decimal><unit>` in nanoseconds, and what follows it. Digits beyond a nanosecond are cut.
fn parse_term(text: &str) -> Option<(i128, &str)> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(number_end);
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(unit_end);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanoseconds = whole.checked_mul(*scale)?;
    let mut place = *scale;
    for digit in fraction.chars().filter_map(|c| c.to_digit(10)) {
        place /= 10;
        nanoseconds = nanoseconds.checked_add(i128::from(digit) * place)?;
    }
    Some((nanoseconds, tail))
}

/// `value / unit` as a decimal without trailing zeros; `places` is the number of zeros of `unit`.
fn write_decimal(f: &mut fmt::Formatter<'_>, value: u64, unit: u64, places: usize) -> fmt::Result {
    let fraction = format!("{:0places$}", value % unit);
    let fraction = fraction.trim_end_matches('0');
    write!(f, "{}", value / unit)?;
    if fraction.is_empty() { Ok(()) } else { write!(f, ".{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5s", Some(500_000_000)),
            ("-2m", Some(-120_000_000_000)),
            ("100ms", Some(100_000_000)),
            ("3µs", Some(3_000)),
            ("7ns", Some(7)),
            ("", None),
            ("5", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("s", None),
            ("9999999999h", None),
        ] {
            assert_eq!(GoDuration::parse(text).map(GoDuration::nanoseconds), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (12_300_000, "12.3ms"),
            (1_500_000_000, "1.5s"),
            (5_000_000_000, "5s"),
            (60_000_000_000, "1m0s"),
            (2_592_000_000_000_000, "720h0m0s"),
            (-90_000_000_000, "-1m30s"),
        ] {
            assert_eq!(GoDuration(nanoseconds).to_string(), expected);
        }
    }

    #[test]
    fn seconds_are_rounded_up() {
        for (text, expected) in [("1s", 1), ("1.2s", 2), ("1ns", 1), ("0", 0), ("1h", 3600)] {
            let duration = GoDuration::parse(text).expect("the table holds valid durations");
            assert_eq!(duration.ceil_seconds(), expected, "{text}");
        }
    }
}

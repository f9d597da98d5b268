//! Durations as Go's `time.ParseDuration` reads them: `1h30m`, `300ms`, `-1.5h`, `0`.

/// Why a text is no duration. Texts are Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not of the form, or too large.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit other than h, m, s, ms, us, µs, ns.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Nanoseconds of a duration text; negative ones are allowed.
pub fn parse_duration_ns(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        Some(_) | None => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total_ns: u64 = 0;
    while !rest.is_empty() {
        let (term_ns, after) = term(text, rest)?;
        total_ns = total_ns.checked_add(term_ns).ok_or_else(invalid)?;
        rest = after;
    }
    let signed = if negative { -i128::from(total_ns) } else { i128::from(total_ns) };
    i64::try_from(signed).map_err(|_range| invalid())
}

/// One number with its unit, and what follows it.
fn term<'a>(text: &str, rest: &'a str) -> Result<(u64, &'a str), DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (whole, after_whole) = split_digits(rest);
    let (fraction, after_number) = match after_whole.strip_prefix('.') {
        Some(after_point) => split_digits(after_point),
        None => ("", after_whole),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let unit_end = after_number.find(|c: char| c == '.' || c.is_ascii_digit());
    let (unit, after) = after_number.split_at(unit_end.unwrap_or(after_number.len()));
    let unit_ns: u64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err(DurationError::MissingUnit(text.to_owned())),
        _ => {
            let unit = unit.to_owned();
            return Err(DurationError::UnknownUnit { unit, text: text.to_owned() });
        }
    };
    let whole: u64 =
        if whole.is_empty() { 0 } else { whole.parse().map_err(|_range| invalid())? };
    let whole_ns = whole.checked_mul(unit_ns).ok_or_else(invalid)?;
    // Digits beyond the nanosecond change nothing; 18 of them still fit the arithmetic.
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().unwrap_or(0) };
    let fraction_ns = u64::try_from(fraction * u128::from(unit_ns) / scale).unwrap_or(0);
    Ok((whole_ns.checked_add(fraction_ns).ok_or_else(invalid)?, after))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        let cases: [(&str, Result<i64, &str>); 18] = [
            ("0", Ok(0)),
            ("1h", Ok(3_600_000_000_000)),
            ("1h30m", Ok(5_400_000_000_000)),
            ("1.5h", Ok(5_400_000_000_000)),
            ("300ms", Ok(300_000_000)),
            ("-1m", Ok(-60_000_000_000)),
            ("+5s", Ok(5_000_000_000)),
            (".5s", Ok(500_000_000)),
            ("1µs1ns", Ok(1_001)),
            ("2540400h10m10.000000000s", Ok(9_145_440_610_000_000_000)),
            ("", Err("time: invalid duration \"\"")),
            ("abc", Err("time: invalid duration \"abc\"")),
            ("-", Err("time: invalid duration \"-\"")),
            (".", Err("time: invalid duration \".\"")),
            ("3", Err("time: missing unit in duration \"3\"")),
            ("1d", Err("time: unknown unit \"d\" in duration \"1d\"")),
            ("1 h", Err("time: unknown unit \" h\" in duration \"1 h\"")),
            ("3000000h", Err("time: invalid duration \"3000000h\"")),
        ];
        for (text, expected) in cases {
            let got = parse_duration_ns(text).map_err(|error| error.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{text}");
        }
    }
}

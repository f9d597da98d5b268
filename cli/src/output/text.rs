//! Go's renderings of texts and times in human output.
//!
//! Owns `%q`, `time.Time`'s default form in UTC and RFC 3339. Local time is in `zone`.

use time::OffsetDateTime;
use time::macros::format_description;

/// Quotes a text as Go's `%q` does.
pub(crate) fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\0'..='\u{1f}' | '\u{7f}' => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            '\u{80}'..='\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `2026-01-02 03:04:05 +0000 UTC`: how Go prints a time in UTC by default.
pub(crate) fn go_time_utc(unix_s: i64) -> String {
    format!("{} +0000 UTC", date_and_time(unix_s))
}

/// `2026-01-02 03:04:05`, the clock of the given second without a zone.
pub(crate) fn date_and_time(unix_s: i64) -> String {
    let form = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    formatted(unix_s, form)
}

/// `2026-01-02T03:04:05Z`.
pub(crate) fn rfc3339_utc(unix_s: i64) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    formatted(unix_s, form)
}

/// A time outside the calendar's range (beyond the year 9999) is shown as the number it is.
fn formatted(unix_s: i64, form: &[time::format_description::BorrowedFormatItem<'_>]) -> String {
    OffsetDateTime::from_unix_timestamp(unix_s)
        .ok()
        .and_then(|time| time.format(form).ok())
        .unwrap_or_else(|| unix_s.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_go_prints_them() {
        assert_eq!(go_time_utc(0), "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(go_time_utc(1_767_323_045), "2026-01-02 03:04:05 +0000 UTC");
        assert_eq!(rfc3339_utc(1_767_323_045), "2026-01-02T03:04:05Z");
        assert_eq!(go_time_utc(i64::MAX), "9223372036854775807 +0000 UTC");
    }

    #[test]
    fn texts_are_quoted_as_go_quotes_them() {
        for (text, expected) in [
            ("entry not found", r#""entry not found""#),
            ("a \"b\" \\ c", r#""a \"b\" \\ c""#),
            ("line\n\ttab\u{1}\u{7f}", r#""line\n\ttab\x01\x7f""#),
            ("déjà", r#""déjà""#),
        ] {
            assert_eq!(go_quote(text), expected);
        }
    }
}

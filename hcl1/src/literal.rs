//! What the characters of a literal mean: numbers, escapes, the indentation of heredocs.

use crate::cursor::Cursor;
use crate::lexer::TokenKind;
use crate::tree::ParseError;

/// A number as Go's `ParseInt(text, 0, 64)` or `ParseFloat` reads it, in HCL's forms.
pub(crate) fn number(text: &str) -> Option<TokenKind> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let is_hex = unsigned.starts_with("0x") || unsigned.starts_with("0X");
    if !is_hex && unsigned.contains(['.', 'e', 'E']) {
        // Rust also takes "1.", "inf" and "nan"; only digits may surround the point here.
        let plain = unsigned
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
        let value: f64 = text.parse().ok().filter(|_| plain && !unsigned.ends_with('.'))?;
        return value.is_finite().then_some(TokenKind::Float(value));
    }
    integer(text).map(TokenKind::Number)
}

/// A whole number: decimal, hexadecimal (`0x`) or octal (leading zero), with an optional sign.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (radix, digits) = match (hex, digits.strip_prefix('0')) {
        (Some(digits), _) => (16, digits),
        (None, Some(digits)) if !digits.is_empty() => (8, digits),
        (None, _) => (10, digits),
    };
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

/// The character of an escape whose backslash at `start` was just taken.
pub(crate) fn escape(cursor: &mut Cursor<'_>, start: &Cursor<'_>) -> Result<char, ParseError> {
    let bad = || start.error("unknown escape sequence");
    let letter = cursor.next().ok_or_else(bad)?;
    let (radix, digits) = match letter {
        'a' => return Ok('\u{7}'),
        'b' => return Ok('\u{8}'),
        'f' => return Ok('\u{c}'),
        'n' => return Ok('\n'),
        'r' => return Ok('\r'),
        't' => return Ok('\t'),
        'v' => return Ok('\u{b}'),
        '\\' | '"' => return Ok(letter),
        'x' => (16, 2),
        'u' => (16, 4),
        'U' => (16, 8),
        '0'..='7' => (8, 2),
        _ => return Err(bad()),
    };
    let mut code = if radix == 8 { letter.to_digit(8).unwrap_or(0) } else { 0 };
    for _ in 0..digits {
        let digit = cursor.next().and_then(|c| c.to_digit(radix)).ok_or_else(bad)?;
        code = code.checked_mul(radix).and_then(|c| c.checked_add(digit)).ok_or_else(bad)?;
    }
    char::from_u32(code).ok_or_else(bad)
}

/// The text of a heredoc. With `unindent` (`<<-`) each line loses the marker's indentation, unless
/// one line has less: then all stay as they are.
pub(crate) fn heredoc(lines: &[&str], indent: &str, unindent: bool) -> String {
    let mut text = String::new();
    let strip = unindent && lines.iter().all(|line| line.starts_with(indent));
    for line in lines {
        let line = if strip { line.strip_prefix(indent).unwrap_or(line) } else { line };
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_go_reads_them() {
        let cases = [
            ("0", Some(TokenKind::Number(0))),
            ("8081", Some(TokenKind::Number(8081))),
            ("-5", Some(TokenKind::Number(-5))),
            ("0x1F", Some(TokenKind::Number(31))),
            ("-0x10", Some(TokenKind::Number(-16))),
            ("0x1e5", Some(TokenKind::Number(0x1e5))),
            ("0750", Some(TokenKind::Number(0o750))),
            ("9223372036854775807", Some(TokenKind::Number(i64::MAX))),
            ("-9223372036854775808", Some(TokenKind::Number(i64::MIN))),
            (".5", Some(TokenKind::Float(0.5))),
            ("1.25", Some(TokenKind::Float(1.25))),
            ("1e3", Some(TokenKind::Float(1000.0))),
            ("1.5E-3", Some(TokenKind::Float(0.0015))),
            ("9223372036854775808", None),
            ("08", None),
            ("0x", None),
            ("24h", None),
            ("1.", None),
            ("-", None),
            (".", None),
            ("1e999", None),
            ("1.2.3.4", None),
        ];
        for (text, expected) in cases {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}

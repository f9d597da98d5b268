//! What a flag can hold, and how each kind reads its text and shows its default.
//!
//! Owns the leaf parsers with Go's error texts (`parse error`, `value out of range`). A field of
//! type `Option<T>` is a flag that remembers whether it was given at all.

use super::duration::GoDuration;

/// How the usage text names the value, and how the parser treats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Takes no separate value.
    Bool,
    /// A text; its default is shown in quotes.
    Text,
    /// A number in any of Go's bases.
    Int,
    /// A Go duration such as `1h30m`.
    Duration,
    /// Anything with a parser of its own.
    Custom,
}

impl Kind {
    /// The word after the flag's name in the usage text.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Bool => "",
            Self::Text => "string",
            Self::Int => "int",
            Self::Duration => "duration",
            Self::Custom => "value",
        }
    }
}

/// A place that a flag writes to.
pub(crate) trait FlagValue {
    /// Takes the text of one use of the flag; the error is the reason alone.
    fn set(&mut self, text: &str) -> Result<(), String>;

    /// The kind of the value.
    fn kind(&self) -> Kind;

    /// The present value for the usage text; `None` where it is the zero value.
    fn shown(&self) -> Option<String>;
}

impl FlagValue for String {
    fn set(&mut self, text: &str) -> Result<(), String> {
        text.clone_into(self);
        Ok(())
    }

    fn kind(&self) -> Kind {
        Kind::Text
    }

    fn shown(&self) -> Option<String> {
        (!self.is_empty()).then(|| self.clone())
    }
}

impl FlagValue for bool {
    fn set(&mut self, text: &str) -> Result<(), String> {
        *self = parse_bool(text)?;
        Ok(())
    }

    fn kind(&self) -> Kind {
        Kind::Bool
    }

    fn shown(&self) -> Option<String> {
        self.then(|| "true".to_owned())
    }
}

impl FlagValue for i64 {
    fn set(&mut self, text: &str) -> Result<(), String> {
        *self = parse_int(text)?;
        Ok(())
    }

    fn kind(&self) -> Kind {
        Kind::Int
    }

    fn shown(&self) -> Option<String> {
        (*self != 0).then(|| self.to_string())
    }
}

impl FlagValue for GoDuration {
    fn set(&mut self, text: &str) -> Result<(), String> {
        *self = Self::parse(text).ok_or_else(|| "parse error".to_owned())?;
        Ok(())
    }

    fn kind(&self) -> Kind {
        Kind::Duration
    }

    fn shown(&self) -> Option<String> {
        (self.nanoseconds() != 0).then(|| self.to_string())
    }
}

/// A repeated flag: each use adds one text.
impl FlagValue for Vec<String> {
    fn set(&mut self, text: &str) -> Result<(), String> {
        self.push(text.to_owned());
        Ok(())
    }

    fn kind(&self) -> Kind {
        Kind::Custom
    }

    fn shown(&self) -> Option<String> {
        None
    }
}

impl<T: FlagValue + Default> FlagValue for Option<T> {
    fn set(&mut self, text: &str) -> Result<(), String> {
        self.get_or_insert_with(T::default).set(text)
    }

    fn kind(&self) -> Kind {
        T::default().kind()
    }

    fn shown(&self) -> Option<String> {
        self.as_ref().and_then(FlagValue::shown)
    }
}

/// A filter that is on, off or absent. It takes a separate value, and any word but `true` and
/// `false` leaves it absent, as SPIRE has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tristate(pub(crate) Option<bool>);

impl FlagValue for Tristate {
    fn set(&mut self, text: &str) -> Result<(), String> {
        self.0 = match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        Ok(())
    }

    fn kind(&self) -> Kind {
        Kind::Custom
    }

    fn shown(&self) -> Option<String> {
        None
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("parse error".to_owned()),
    }
}

/// Go's `strconv.ParseInt` with base 0: an optional sign, then `0x`, `0o`, `0b` or a bare leading
/// zero for the base; underscores between digits only where a base prefix stands.
fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let (base, digits) = split_base(digits);
    let digits = if base == 10 { digits.to_owned() } else { digits.replace('_', "") };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return Err("parse error".to_owned());
    }
    // All characters are digits here, so the only failure left is one of size.
    let magnitude = i128::from_str_radix(&digits, base).unwrap_or(i128::MAX);
    let value = if negative { magnitude.saturating_neg() } else { magnitude };
    i64::try_from(value).map_err(|_out_of_range| "value out of range".to_owned())
}

fn split_base(digits: &str) -> (u32, &str) {
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    match lower.as_deref() {
        Some("0x") => (16, digits.get(2..).unwrap_or_default()),
        Some("0o") => (8, digits.get(2..).unwrap_or_default()),
        Some("0b") => (2, digits.get(2..).unwrap_or_default()),
        _ if digits.len() > 1 && digits.starts_with('0') => {
            (8, digits.get(1..).unwrap_or_default())
        }
        _ => (10, digits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_in_every_base_of_go() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("60", Ok(60)),
            ("-5", Ok(-5)),
            ("+5", Ok(5)),
            ("0x1F", Ok(31)),
            ("0b101", Ok(5)),
            ("0o17", Ok(15)),
            ("017", Ok(15)),
            ("0x1_0", Ok(16)),
            ("1_0", Err("parse error")),
            ("", Err("parse error")),
            ("-", Err("parse error")),
            ("ten", Err("parse error")),
            ("1h", Err("parse error")),
            ("9223372036854775807", Ok(i64::MAX)),
            ("9223372036854775808", Err("value out of range")),
        ] {
            assert_eq!(parse_int(text), expected.map_err(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn a_tristate_takes_any_word_but_only_two_filter() {
        let mut value = Tristate::default();
        for (text, expected) in
            [("true", Some(true)), ("false", Some(false)), ("TRUE", None), ("maybe", None)]
        {
            value.set(text).expect("a tristate takes every word");
            assert_eq!(value.0, expected, "{text}");
        }
    }
}

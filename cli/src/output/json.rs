//! JSON text as Go's `encoding/json` writes it.
//!
//! Owns what scripts see and `serde_json` would write otherwise: keys sorted, `<`, `>` and `&`
//! escaped, whole floating-point numbers without a fraction.

use serde_json::{Number, Value};

/// One line without a final newline.
pub(crate) fn go_json(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    text
}

fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(number) => text.push_str(&go_number(number)),
        Value::String(string) => write_string(text, string),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_value(text, item);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| key.as_str());
            text.push('{');
            for (index, (key, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_string(text, key);
                text.push(':');
                write_value(text, member);
            }
            text.push('}');
        }
    }
}

/// Go prints a float without an exponent between 1e-6 and 1e21.
fn go_number(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => {
            let magnitude = float.abs();
            if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
                let text = format!("{float:e}");
                // Go writes the sign of a positive exponent.
                match text.split_once('e') {
                    Some((mantissa, exponent)) if !exponent.starts_with('-') => {
                        format!("{mantissa}e+{exponent}")
                    }
                    Some(_) | None => text,
                }
            } else {
                format!("{float}")
            }
        }
        Some(_) | None => number.to_string(),
    }
}

fn write_string(text: &mut String, string: &str) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '<' | '>' | '&' | '\0'..='\u{1f}' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_written_as_go_writes_it() {
        for (value, expected) in [
            (json!({"b": 1, "a": {"d": 2, "c": []}}), r#"{"a":{"c":[],"d":2},"b":1}"#),
            (json!("<a href=\"x\">&</a>"), r#""\u003ca href=\"x\"\u003e\u0026\u003c/a\u003e""#),
            (json!("line\n\ttab\u{1}é\u{2028}"), r#""line\n\ttab\u0001é\u2028""#),
            (json!(1_700_000_000.0), "1700000000"),
            (json!([0.5, -2.25, 0.0, 1e21, 1.5e-7]), "[0.5,-2.25,0,1e+21,1.5e-7]"),
            (json!([null, true, -3]), "[null,true,-3]"),
        ] {
            assert_eq!(go_json(&value), expected);
        }
    }
}

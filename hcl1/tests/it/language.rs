//! The language: each form that HCL 1 takes and SPIRE's files use, each refusal with its place, and
//! the property that no text makes the parser panic.

use proptest::prelude::*;
use steeple_hcl1::{Body, DEPTH_MAX, TEXT_BYTES_MAX, Value, ValueKind, expand_env, parse};

/// A compact print of a tree: what the tables below compare.
fn print(body: &Body) -> String {
    let mut out = String::new();
    for item in &body.items {
        let separator = if out.is_empty() { "" } else { " " };
        out += &format!("{separator}{}", item.key.text);
        for (label, _) in &item.labels {
            out += &format!(".{label}");
        }
        out += &format!("={}", print_value(&item.value));
    }
    out
}

fn print_value(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Number(number) => number.to_string(),
        ValueKind::Float(number) => format!("{number:?}"),
        ValueKind::Bool(value) => value.to_string(),
        ValueKind::List(values) => {
            format!("[{}]", values.iter().map(print_value).collect::<Vec<_>>().join(","))
        }
        ValueKind::Object(body) => format!("{{{}}}", print(body)),
    }
}

#[test]
fn every_form_of_hcl_1_parses() {
    let cases = [
        ("", ""),
        ("\u{feff}a = 1", "a=1"),
        ("a = 1\nb = \"x\"", "a=1 b=\"x\""),
        ("# c\na = 1 // c\n/* c\n c */ b = 2", "a=1 b=2"),
        ("a { b = 1 }", "a={b=1}"),
        ("a = { b = 1 }", "a={b=1}"),
        ("a \"l\" { b = 1 }", "a.l={b=1}"),
        ("\"A\" \"b\" {}", "A.b={}"),
        ("a b c { }", "a.b.c={}"),
        // forms that parsers of HCL 2 refuse
        ("a {\n b = 1,\n c = 2,\n}", "a={b=1 c=2}"),
        ("a = 1,\nb = 2", "a=1 b=2"),
        ("a { address = \"x\" env = \"prod\" }", "a={address=\"x\" env=\"prod\"}"),
        ("a { b = 1 c { d = 2 } }", "a={b=1 c={d=2}}"),
        ("a { \"e1\" = { b = 1 } }", "a={e1={b=1}}"),
        ("a.b = 1", "a.b=1"),
        ("a-b_c = 1", "a-b_c=1"),
        ("a = {} a = {}", "a={} a={}"),
        ("a = .5\nb = 0x10\nc = -3\nd = 1e2\ne = 0750", "a=0.5 b=16 c=-3 d=100.0 e=488"),
        ("a = \"x ${anything \"here\"} y\"", "a=\"x ${anything \\\"here\\\"} y\""),
        ("a = \"${ {} }\"", "a=\"${ {} }\""),
        ("a = true\nb = false", "a=true b=false"),
        ("true = 1", "true=1"),
        ("a = [1, \"x\", true, [2], {b = 1},]", "a=[1,\"x\",true,[2],{b=1}]"),
        ("a = []", "a=[]"),
        ("a = [\n  # c\n  \"x\", # c\n  \"y\"\n]", "a=[\"x\",\"y\"]"),
        (r#"a = "\n\t\"\\\u00e9\x41\101\U0001F600""#, "a=\"\\n\\t\\\"\\\\éAA😀\""),
        ("a = \"^${NAME}$\"", "a=\"^${NAME}$\""),
        ("a = \"$\"", "a=\"$\""),
        ("a = <<EOF\nx\n  y\nEOF\nb = 1", "a=\"x\\n  y\\n\" b=1"),
        ("a = <<-EOF\n    x\n      y\n    EOF\n", "a=\"x\\n  y\\n\""),
        ("a = <<-EOF\n  x\n    EOF\n", "a=\"  x\\n\""),
        ("a = <<EOF\nEOF", "a=\"\""),
        ("ü = \"ö\"", "ü=\"ö\""),
        ("a = 1\r\nb = \"x\"\r\n", "a=1 b=\"x\""),
    ];
    for (text, expected) in cases {
        let body = parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(print(&body), expected, "{text:?}");
    }
}

#[test]
fn json_parses_to_the_same_tree() {
    let cases = [
        ("{}", ""),
        (" \n{\"a\": 1}", "a=1"),
        (r#"{"a":{"b":[1,-2.5,true,null,"x"]},"c":null}"#, "a={b=[1,-2.5,true,\"x\"]}"),
        (r#"{"a":"\u00e9\ud83d\ude00\/\n"}"#, "a=\"é😀/\\n\""),
        (r#"{"a":1,"a":2}"#, "a=1 a=2"),
        (r#"{"a":"${x}"}"#, "a=\"${x}\""),
    ];
    for (text, expected) in cases {
        let body = parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(print(&body), expected, "{text:?}");
    }
}

#[test]
fn refusals_name_line_and_column() {
    let cases = [
        ("a = name", (1, 5), "text must stand in quotes: \"name\""),
        ("a = 1\n  b 2", (2, 5), "expected \"=\" or \"{\" after \"b\"; got 2"),
        ("a \"l\" = 1", (1, 7), "expected \"{\" after the labels of \"a\""),
        ("a {\n b = 1\n", (3, 1), "object not closed: expected \"}\""),
        ("a = 1\n}", (2, 1), "expected a key; got \"}\""),
        ("a = [1 2]", (1, 8), "expected \",\" or \"]\" in a list; got 2"),
        ("a = [", (1, 6), "expected a value; got end of file"),
        ("a =", (1, 4), "expected a value; got end of file"),
        ("a", (1, 2), "expected \"=\" or \"{\" after \"a\"; got end of file"),
        ("ä = \"x", (1, 5), "string not terminated"),
        ("a = \"x\ny\"", (1, 5), "string not terminated"),
        ("a = \"${x\"", (1, 5), "string not terminated"),
        (r#"a = "x\q""#, (1, 7), "unknown escape sequence"),
        (r#"a = "\ud800""#, (1, 6), "unknown escape sequence"),
        ("a = 24h", (1, 5), "malformed number \"24h\""),
        ("a = 99999999999999999999", (1, 5), "malformed number \"99999999999999999999\""),
        ("a = @", (1, 5), "illegal character '@'"),
        ("a = <x", (1, 5), "illegal character '<'"),
        ("a = <<\nx", (1, 5), "heredoc marker must be a word at the end of the line"),
        ("a = <<EOF\nx", (1, 5), "heredoc not terminated"),
        ("/* x", (1, 1), "comment not terminated"),
        ("{\"a\":1", (1, 7), "expected ',' or '}'"),
        ("{\"a\":1,}", (1, 8), "expected '\"'"),
        ("{\"a\" 1}", (1, 6), "expected ':'"),
        ("{\"a\":x}", (1, 6), "expected a JSON value"),
        ("{\"a\":01}", (1, 6), "malformed number \"01\""),
        ("{} x", (1, 4), "text after the end of the JSON object"),
        ("{\"a\":\"\n\"}", (1, 6), "control character in a string"),
    ];
    for (text, place, message) in cases {
        let error = parse(text).expect_err(text);
        assert_eq!((error.line, error.column), place, "{text:?}: {error}");
        assert_eq!(error.message, message, "{text:?}");
    }
    assert_eq!(parse("a = @").unwrap_err().to_string(), "at 1:5: illegal character '@'");
}

#[test]
fn depth_and_size_are_bounded() {
    let nested = |open: &str, close: &str, levels: usize| {
        format!("a = {}{}", open.repeat(levels), close.repeat(levels))
    };
    assert!(parse(&nested("[", "]", DEPTH_MAX)).is_ok());
    assert!(parse(&nested("[", "]", DEPTH_MAX + 1)).is_err());
    assert!(parse(&"a {".repeat(100_000)).is_err());
    assert!(parse(&"{\"a\":".repeat(100_000)).is_err());
    let long = format!("a = \"{}\"", "x".repeat(TEXT_BYTES_MAX));
    assert!(parse(&long).unwrap_err().message.contains("longer than"));
}

#[test]
fn positions_point_at_keys_labels_and_values() {
    let body = parse("\n  plugins {\n    KeyManager \"disk\" { }\n  }\n").unwrap();
    let plugins = &body.items[0];
    assert_eq!(plugins.key.pos.to_string(), "2:3");
    let ValueKind::Object(inside) = &plugins.value.kind else { panic!("not an object") };
    assert_eq!(inside.items[0].key.pos.to_string(), "3:5");
    assert_eq!(inside.items[0].labels[0].1.to_string(), "3:16");
    assert_eq!(inside.items[0].value.pos.to_string(), "3:23");
}

/// Texts that are nearly in the language: they reach deeper than arbitrary bytes do.
fn near_text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a", "\"b\"", "=", "{", "}", "[", "]", ",", "1", "-", ".", "0x", "true", "\n", " ", "#",
        "//", "/*", "*/", "<<E\n", "<<-E\n", "E\n", "\"", "\\", "\\u12", "${", "}", "$", "null",
        ":", "é",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        drop(parse(&text));
        drop(parse(&format!("{{{text}")));
        drop(expand_env(&text, &|_| None));
    }

    #[test]
    fn no_near_text_makes_the_parser_panic(text in near_text()) {
        drop(parse(&text));
        drop(parse(&format!("{{{text}")));
        drop(expand_env(&text, &|name| Some(name.to_owned())));
    }

    #[test]
    fn json_strings_agree_with_hcl_strings(text in "[ -~éß😀]{0,40}") {
        let quoted = format!("{text:?}");
        prop_assume!(!text.contains("${"));
        let hcl = parse(&format!("a = {quoted}")).unwrap();
        let json = parse(&format!("{{\"a\": {quoted}}}")).unwrap();
        prop_assert_eq!(print(&hcl), print(&json));
        prop_assert_eq!(&hcl.items[0].value.kind, &ValueKind::String(text));
    }
}

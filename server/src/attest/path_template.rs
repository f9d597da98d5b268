//! Agent path templates (`agent_path_template`): the part of Go's template language that paths need.
//!
//! Owns parsing and rendering: text, actions with field paths, string and number literals,
//! parentheses, pipelines, trim markers, comments, and the string and list functions below with
//! sprig's names and argument order. Conditionals, loops and other functions are refused when the
//! configuration is read, by name. A field that is missing is an error, as in SPIRE.

use std::collections::BTreeMap;
use std::fmt::Write;

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// Nesting of parentheses that is parsed: deeper than any sane template, far from the stack's end.
const DEPTH_MAX: usize = 32;

/// A template cannot be parsed or rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The text is no template of the supported part of the language.
    #[error("template syntax: {0}")]
    Syntax(String),
    /// The function is not supported.
    #[error("template function \"{0}\" is not supported")]
    UnknownFunction(String),
    /// The data has no such field or key.
    #[error("template field \"{0}\" is missing")]
    MissingField(String),
    /// A function was given arguments it cannot take.
    #[error("template function \"{0}\" cannot take these arguments")]
    BadArguments(String),
    /// A list or map stands where text is needed.
    #[error("template value is no text")]
    NotText,
}

/// What templates are rendered from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Number(i64),
    /// A list.
    List(Vec<Value>),
    /// A map, or a structure with fields.
    Map(BTreeMap<String, Value>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Action(Pipeline),
}

/// Commands joined by `|`; each gets the result of the one before as its last argument.
type Pipeline = Vec<Command>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    Operand(Operand),
    Call(Function, Vec<Operand>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Literal(Value),
    Field(Vec<String>),
    Group(Pipeline),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Lower,
    Upper,
    Trim,
    TrimAll,
    TrimPrefix,
    TrimSuffix,
    Nospace,
    Replace,
    Trunc,
    Sha1,
    Sha256,
    Default,
    Join,
    SplitList,
    First,
    Last,
    Index,
}

const FUNCTIONS: [(&str, Function); 17] = [
    ("lower", Function::Lower),
    ("upper", Function::Upper),
    ("trim", Function::Trim),
    ("trimAll", Function::TrimAll),
    ("trimPrefix", Function::TrimPrefix),
    ("trimSuffix", Function::TrimSuffix),
    ("nospace", Function::Nospace),
    ("replace", Function::Replace),
    ("trunc", Function::Trunc),
    ("sha1sum", Function::Sha1),
    ("sha256sum", Function::Sha256),
    ("default", Function::Default),
    ("join", Function::Join),
    ("splitList", Function::SplitList),
    ("first", Function::First),
    ("last", Function::Last),
    ("index", Function::Index),
];

impl PathTemplate {
    /// Parses a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        let mut trim_left = false;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after
                .split_once("}}")
                .ok_or_else(|| TemplateError::Syntax("action is not closed".to_owned()))?;
            let (action, trims) = strip_trim_markers(action);
            let before = if trim_left { before.trim_start() } else { before };
            let before = if trims.before { before.trim_end() } else { before };
            parts.push(Part::Text(before.to_owned()));
            let is_comment = action.starts_with("/*") && action.ends_with("*/");
            if !is_comment {
                parts.push(Part::Action(parse_action(action)?));
            }
            trim_left = trims.after;
            rest = after;
        }
        let rest = if trim_left { rest.trim_start() } else { rest };
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self { parts })
    }

    /// Renders the template; `data` is what `.` means.
    pub fn render(&self, data: &BTreeMap<String, Value>) -> Result<String, TemplateError> {
        let mut rendered = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => rendered.push_str(text),
                Part::Action(pipeline) => rendered.push_str(&text(run(pipeline, data)?)?),
            }
        }
        Ok(rendered)
    }
}

struct Trims {
    before: bool,
    after: bool,
}

fn strip_trim_markers(action: &str) -> (&str, Trims) {
    let starts = action.strip_prefix('-').filter(|rest| rest.starts_with(char::is_whitespace));
    let action = starts.unwrap_or(action);
    let ends = action.strip_suffix('-').filter(|rest| rest.ends_with(char::is_whitespace));
    let trims = Trims { before: starts.is_some(), after: ends.is_some() };
    (ends.unwrap_or(action).trim(), trims)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Field(Vec<String>),
    Literal(Value),
    Pipe,
    Open,
    Close,
}

fn parse_action(action: &str) -> Result<Pipeline, TemplateError> {
    let tokens = tokenize(action)?;
    let mut tokens = tokens.into_iter().peekable();
    let pipeline = parse_pipeline(&mut tokens, 0)?;
    match tokens.next() {
        None => Ok(pipeline),
        Some(_) => Err(TemplateError::Syntax("unexpected \")\"".to_owned())),
    }
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

fn parse_pipeline(tokens: &mut Tokens, depth: usize) -> Result<Pipeline, TemplateError> {
    if depth > DEPTH_MAX {
        return Err(TemplateError::Syntax("parentheses are nested too deeply".to_owned()));
    }
    let mut pipeline = vec![parse_command(tokens, depth)?];
    while tokens.next_if_eq(&Token::Pipe).is_some() {
        let command = parse_command(tokens, depth)?;
        if matches!(command, Command::Operand(_)) {
            return Err(TemplateError::Syntax("a value cannot take the pipe's input".to_owned()));
        }
        pipeline.push(command);
    }
    Ok(pipeline)
}

fn parse_command(tokens: &mut Tokens, depth: usize) -> Result<Command, TemplateError> {
    let function = match tokens.peek() {
        Some(Token::Word(word)) => Some(lookup(word)?),
        Some(Token::Field(_) | Token::Literal(_) | Token::Pipe | Token::Open | Token::Close)
        | None => None,
    };
    if function.is_some() {
        tokens.next();
    }
    let mut operands = Vec::new();
    loop {
        match tokens.peek() {
            Some(Token::Field(_) | Token::Literal(_)) => {}
            Some(Token::Open) => {
                tokens.next();
                operands.push(Operand::Group(parse_pipeline(tokens, depth + 1)?));
                if tokens.next_if_eq(&Token::Close).is_none() {
                    return Err(TemplateError::Syntax("\"(\" is not closed".to_owned()));
                }
                continue;
            }
            Some(Token::Word(word)) => {
                let text = format!("function \"{word}\" needs parentheses here");
                return Err(TemplateError::Syntax(text));
            }
            Some(Token::Pipe | Token::Close) | None => break,
        }
        match tokens.next() {
            Some(Token::Field(path)) => operands.push(Operand::Field(path)),
            Some(Token::Literal(value)) => operands.push(Operand::Literal(value)),
            Some(Token::Word(_) | Token::Pipe | Token::Open | Token::Close) | None => break,
        }
    }
    match (function, operands.len(), operands.pop()) {
        (Some(function), _, last) => {
            operands.extend(last);
            Ok(Command::Call(function, operands))
        }
        (None, 1, Some(operand)) => Ok(Command::Operand(operand)),
        (None, 0, _) => Err(TemplateError::Syntax("action is empty".to_owned())),
        (None, _, _) => Err(TemplateError::Syntax("a value cannot take arguments".to_owned())),
    }
}

fn lookup(word: &str) -> Result<Function, TemplateError> {
    FUNCTIONS
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, function)| *function)
        .ok_or_else(|| TemplateError::UnknownFunction(word.to_owned()))
}

fn tokenize(action: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '"' => quoted(rest)?,
            '`' => raw_quoted(rest)?,
            '.' => field(rest)?,
            '-' | '0'..='9' => number(rest)?,
            letter if letter.is_ascii_alphabetic() => {
                let word = word(rest);
                (Token::Word(word.to_owned()), word.len())
            }
            other => return Err(TemplateError::Syntax(format!("unexpected {other:?}"))),
        };
        tokens.push(token);
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    Ok(tokens)
}

fn word(text: &str) -> &str {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let end = text.find(|letter| !is_word(letter)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// `.A.B`; a lone dot is the data itself.
fn field(text: &str) -> Result<(Token, usize), TemplateError> {
    let mut names = Vec::new();
    let mut length = 0;
    while let Some(after_dot) = text.get(length..).and_then(|rest| rest.strip_prefix('.')) {
        let name = word(after_dot);
        length += 1 + name.len();
        if !name.is_empty() {
            names.push(name.to_owned());
        } else if length > 1 {
            return Err(TemplateError::Syntax(format!("bad field in {text:?}")));
        }
    }
    Ok((Token::Field(names), length))
}

fn number(text: &str) -> Result<(Token, usize), TemplateError> {
    let digits = text.get(1..).unwrap_or_default();
    let end = 1 + digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let number = text.get(..end).and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| TemplateError::Syntax(format!("bad number in {text:?}")))?;
    Ok((Token::Literal(Value::Number(number)), end))
}

/// A string literal with Go's escapes `\"`, `\\`, `\n` and `\t`.
fn quoted(text: &str) -> Result<(Token, usize), TemplateError> {
    let mut value = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((Token::Literal(Value::Text(value)), at + 1)),
            '\\' => value.push(match letters.next() {
                Some((_, 'n')) => '\n',
                Some((_, 't')) => '\t',
                Some((_, escaped @ ('"' | '\\'))) => escaped,
                Some(_) | None => return Err(TemplateError::Syntax("bad escape".to_owned())),
            }),
            other => value.push(other),
        }
    }
    Err(TemplateError::Syntax("string is not closed".to_owned()))
}

fn raw_quoted(text: &str) -> Result<(Token, usize), TemplateError> {
    let body = text.get(1..).unwrap_or_default();
    let (value, _) = body
        .split_once('`')
        .ok_or_else(|| TemplateError::Syntax("string is not closed".to_owned()))?;
    Ok((Token::Literal(value.into()), value.len() + 2))
}

fn run(pipeline: &Pipeline, data: &BTreeMap<String, Value>) -> Result<Value, TemplateError> {
    let mut piped: Option<Value> = None;
    for command in pipeline {
        piped = Some(match command {
            Command::Operand(operand) => evaluate(operand, data)?,
            Command::Call(function, operands) => {
                let mut arguments: Vec<Value> = operands
                    .iter()
                    .map(|operand| evaluate(operand, data))
                    .collect::<Result<_, _>>()?;
                arguments.extend(piped.take());
                call(*function, arguments)?
            }
        });
    }
    piped.ok_or_else(|| TemplateError::Syntax("action is empty".to_owned()))
}

fn evaluate(operand: &Operand, data: &BTreeMap<String, Value>) -> Result<Value, TemplateError> {
    match operand {
        Operand::Literal(value) => Ok(value.clone()),
        Operand::Group(pipeline) => run(pipeline, data),
        Operand::Field(path) => {
            let mut names = path.iter();
            let missing = || TemplateError::MissingField(format!(".{}", path.join(".")));
            let Some(first) = names.next() else { return Ok(Value::Map(data.clone())) };
            let mut value = data.get(first).ok_or_else(missing)?;
            for name in names {
                let Value::Map(fields) = value else { return Err(missing()) };
                value = fields.get(name).ok_or_else(missing)?;
            }
            Ok(value.clone())
        }
    }
}

fn call(function: Function, arguments: Vec<Value>) -> Result<Value, TemplateError> {
    let name = FUNCTIONS.iter().find(|(_, known)| *known == function).map_or("", |(name, _)| name);
    apply(function, &arguments).ok_or_else(|| TemplateError::BadArguments(name.to_owned()))
}

/// Applies a function; `None` when it cannot take the arguments.
fn apply(function: Function, arguments: &[Value]) -> Option<Value> {
    use Value::{List, Map, Number, Text};
    Some(match (function, arguments) {
        (Function::Lower, [Text(text)]) => text.to_lowercase().into(),
        (Function::Upper, [Text(text)]) => text.to_uppercase().into(),
        (Function::Trim, [Text(text)]) => text.trim().into(),
        (Function::TrimAll, [Text(cut), Text(text)]) => {
            text.trim_matches(|letter| cut.contains(letter)).into()
        }
        (Function::TrimPrefix, [Text(prefix), Text(text)]) => {
            text.strip_prefix(prefix.as_str()).unwrap_or(text).into()
        }
        (Function::TrimSuffix, [Text(suffix), Text(text)]) => {
            text.strip_suffix(suffix.as_str()).unwrap_or(text).into()
        }
        (Function::Nospace, [Text(text)]) => text.split_whitespace().collect::<String>().into(),
        (Function::Replace, [Text(old), Text(new), Text(text)]) => text.replace(old, new).into(),
        (Function::Trunc, [Number(count), Text(text)]) => truncate(*count, text).into(),
        (Function::Sha1, [Text(text)]) => hex_digest(&SHA1_FOR_LEGACY_USE_ONLY, text).into(),
        (Function::Sha256, [Text(text)]) => hex_digest(&SHA256, text).into(),
        (Function::Default, [default, value]) => {
            if is_empty(value) {
                default.clone()
            } else {
                value.clone()
            }
        }
        (Function::Join, [Text(separator), List(items)]) => {
            let items: Option<Vec<String>> = items.iter().cloned().map(|v| text(v).ok()).collect();
            items?.join(separator).into()
        }
        (Function::SplitList, [Text(separator), Text(text)]) => {
            List(text.split(separator.as_str()).map(Value::from).collect())
        }
        (Function::First, [List(items)]) => items.first()?.clone(),
        (Function::Last, [List(items)]) => items.last()?.clone(),
        (Function::Index, [List(items), Number(at)]) => {
            items.get(usize::try_from(*at).ok()?)?.clone()
        }
        (Function::Index, [Map(fields), Text(key)]) => fields.get(key)?.clone(),
        (
            Function::Lower
            | Function::Upper
            | Function::Trim
            | Function::TrimAll
            | Function::TrimPrefix
            | Function::TrimSuffix
            | Function::Nospace
            | Function::Replace
            | Function::Trunc
            | Function::Sha1
            | Function::Sha256
            | Function::Default
            | Function::Join
            | Function::SplitList
            | Function::First
            | Function::Last
            | Function::Index,
            _,
        ) => return None,
    })
}

/// Sprig's `trunc`: a negative count keeps the end.
fn truncate(count: i64, text: &str) -> String {
    let length = text.chars().count();
    let keep = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX).min(length);
    if count < 0 {
        text.chars().skip(length - keep).collect()
    } else {
        text.chars().take(keep).collect()
    }
}

fn hex_digest(algorithm: &'static digest::Algorithm, text: &str) -> String {
    super::x509pop::hex(digest::digest(algorithm, text.as_bytes()).as_ref())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Text(text) => text.is_empty(),
        Value::Number(number) => *number == 0,
        Value::List(items) => items.is_empty(),
        Value::Map(fields) => fields.is_empty(),
    }
}

fn text(value: Value) -> Result<String, TemplateError> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Number(number) => {
            let mut text = String::new();
            write!(text, "{number}").map_err(|_never| TemplateError::NotText)?;
            Ok(text)
        }
        Value::List(_) | Value::Map(_) => Err(TemplateError::NotText),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> BTreeMap<String, Value> {
        let subject = BTreeMap::from([
            ("CommonName".to_owned(), Value::from("Host One")),
            ("Organization".to_owned(), Value::List(vec!["Acme".into(), "Other".into()])),
        ]);
        BTreeMap::from([
            ("PluginName".to_owned(), Value::from("x509pop")),
            ("Subject".to_owned(), Value::Map(subject)),
            ("Empty".to_owned(), Value::from("")),
        ])
    }

    #[test]
    fn templates_render_as_in_go() {
        let cases = [
            ("/plain", "/plain"),
            ("/{{ .PluginName }}/x", "/x509pop/x"),
            ("/{{.PluginName}}", "/x509pop"),
            ("/a  {{- .PluginName -}}  /b", "/ax509pop/b"),
            ("/{{/* a comment */}}a", "/a"),
            ("/{{ .Subject.CommonName | lower | nospace }}", "/hostone"),
            ("/{{ lower (nospace .Subject.CommonName) }}", "/hostone"),
            ("/{{ trimPrefix \"Host \" .Subject.CommonName }}", "/One"),
            ("/{{ .Subject.CommonName | trimSuffix \" One\" }}", "/Host"),
            ("/{{ replace \" \" \"-\" .Subject.CommonName }}", "/Host-One"),
            ("/{{ index .Subject.Organization 1 }}", "/Other"),
            ("/{{ first .Subject.Organization }}", "/Acme"),
            ("/{{ join \".\" .Subject.Organization }}", "/Acme.Other"),
            ("/{{ last (splitList \"5\" .PluginName) }}", "/09pop"),
            ("/{{ trunc 4 .PluginName }}/{{ trunc -3 .PluginName }}", "/x509/pop"),
            ("/{{ default \"none\" .Empty }}", "/none"),
            ("/{{ `raw` }}{{ \"q\\\"\" }}", "/rawq\""),
            ("/{{ sha1sum \"abc\" }}", "/a9993e364706816aba3e25717850c26c9cd0d89d"),
        ];
        for (template, expected) in cases {
            let rendered = PathTemplate::parse(template).and_then(|parsed| parsed.render(&data()));
            assert_eq!(rendered.as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let unknown = |name: &str| TemplateError::UnknownFunction(name.to_owned());
        let parse_errors = [
            ("/{{ env \"HOME\" }}", unknown("env")),
            ("/{{ if .PluginName }}a{{ end }}", unknown("if")),
        ];
        for (template, expected) in parse_errors {
            assert_eq!(PathTemplate::parse(template), Err(expected), "{template}");
        }
        let deep = format!("{{{{ {}.A{} }}}}", "(".repeat(100), ")".repeat(100));
        for template in ["/{{ .A", "/{{ }}", "/{{ (.A }}", "/{{ .A) }}", "/{{ \"a }}", &deep] {
            let parsed = PathTemplate::parse(template);
            assert!(matches!(parsed, Err(TemplateError::Syntax(_))), "{template}: {parsed:?}");
        }
        let render_errors = [
            ("/{{ .Nothing }}", TemplateError::MissingField(".Nothing".to_owned())),
            ("/{{ .Subject.Nothing }}", TemplateError::MissingField(".Subject.Nothing".to_owned())),
            ("/{{ .Subject }}", TemplateError::NotText),
            (
                "/{{ index .Subject.Organization 2 }}",
                TemplateError::BadArguments("index".to_owned()),
            ),
        ];
        for (template, expected) in render_errors {
            let rendered = PathTemplate::parse(template).and_then(|parsed| parsed.render(&data()));
            assert_eq!(rendered, Err(expected), "{template}");
        }
    }
}

//! The tree that both languages parse to.
//!
//! Items keep their order, repeat freely and remember where they stood; what a repetition means is
//! decided when values are taken out (`decode`).

use std::fmt;

/// A place in the text; both numbers count from 1, columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pos {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The items of a file or of one `{ … }`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    /// In the order of the text.
    pub items: Vec<Item>,
}

/// One `key = value`, `key { … }` or `key "label" … { … }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What stands first.
    pub key: Key,
    /// Names between the key and the brace; empty for assignments.
    pub labels: Vec<(String, Pos)>,
    /// What it is.
    pub value: Value,
}

/// A key, quoted or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its text without quotes.
    pub text: String,
    /// Where it starts.
    pub pos: Pos,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// What it is.
    pub kind: ValueKind,
    /// Where it starts.
    pub pos: Pos,
}

/// What a value can be.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueKind {
    /// A quoted text or heredoc.
    String(String),
    /// A whole number: decimal, `0x` or with a leading zero octal.
    Number(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// `true` or `false`, without quotes.
    Bool(bool),
    /// `[ … ]`.
    List(Vec<Value>),
    /// `{ … }`.
    Object(Body),
}

/// The text is not in the language, or exceeds a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {line}:{column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong there.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(pos: Pos, message: impl Into<String>) -> Self {
        Self { line: pos.line, column: pos.column, message: message.into() }
    }
}

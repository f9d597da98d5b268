//! Walks a text character by character and knows where it is.

use crate::tree::{ParseError, Pos};

/// A place in a text, from which characters are taken.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a str,
    pos: Pos,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { rest: text, pos: Pos { line: 1, column: 1 } }
    }

    pub(crate) fn pos(&self) -> Pos {
        self.pos
    }

    pub(crate) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(crate) fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let taken = chars.next()?;
        self.rest = chars.as_str();
        if taken == '\n' {
            self.pos = Pos { line: self.pos.line.saturating_add(1), column: 1 };
        } else {
            self.pos.column = self.pos.column.saturating_add(1);
        }
        Some(taken)
    }

    /// Takes the text if it stands here.
    pub(crate) fn take(&mut self, text: &str) -> bool {
        if !self.rest.starts_with(text) {
            return false;
        }
        self.skip_bytes(text.len());
        true
    }

    /// Takes characters while they fit.
    pub(crate) fn take_while(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !fits(c)).unwrap_or(self.rest.len());
        self.skip_bytes(end)
    }

    /// Takes the rest of the line without its end, and then the end. `None` at the end of the text.
    pub(crate) fn take_line(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let line = self.take_while(|c| c != '\n');
        self.next();
        Some(line)
    }

    /// Takes as many bytes; the count ends at a character's edge.
    fn skip_bytes(&mut self, count: usize) -> &'a str {
        let start = self.rest;
        let target = start.len().saturating_sub(count);
        while self.rest.len() > target && self.next().is_some() {}
        start.get(..start.len() - self.rest.len()).unwrap_or_default()
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError::new(self.pos, message)
    }
}

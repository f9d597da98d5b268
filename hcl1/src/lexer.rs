//! Splits HCL text into tokens.
//!
//! Follows HashiCorp's scanner: identifiers may contain dots and dashes, strings may contain `${…}`
//! with quotes inside, heredocs end at a line that holds nothing but their marker.

use crate::cursor::Cursor;
use crate::literal;
use crate::tree::{ParseError, Pos};

/// A token and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) pos: Pos,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TokenKind {
    End,
    Identifier(String),
    String(String),
    Heredoc(String),
    Number(i64),
    Float(f64),
    Bool(bool),
    Assign,
    Comma,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
}

impl TokenKind {
    /// How messages call it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::End => "end of file".to_owned(),
            Self::Identifier(name) => format!("\"{name}\""),
            Self::String(_) => "a string".to_owned(),
            Self::Heredoc(_) => "a heredoc".to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Assign => "\"=\"".to_owned(),
            Self::Comma => "\",\"".to_owned(),
            Self::LeftBrace => "\"{\"".to_owned(),
            Self::RightBrace => "\"}\"".to_owned(),
            Self::LeftBracket => "\"[\"".to_owned(),
            Self::RightBracket => "\"]\"".to_owned(),
        }
    }
}

/// Takes tokens from a text.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { cursor: Cursor::new(text) }
    }

    pub(crate) fn next(&mut self) -> Result<Token, ParseError> {
        self.skip_space_and_comments()?;
        let pos = self.cursor.pos();
        let Some(first) = self.cursor.peek() else {
            return Ok(Token { kind: TokenKind::End, pos });
        };
        let kind = match first {
            '"' => TokenKind::String(self.string()?),
            '<' => TokenKind::Heredoc(self.heredoc()?),
            '=' => self.mark(TokenKind::Assign),
            ',' => self.mark(TokenKind::Comma),
            '{' => self.mark(TokenKind::LeftBrace),
            '}' => self.mark(TokenKind::RightBrace),
            '[' => self.mark(TokenKind::LeftBracket),
            ']' => self.mark(TokenKind::RightBracket),
            '-' | '.' | '0'..='9' => self.number()?,
            _ if first.is_alphabetic() || first == '_' => self.identifier(),
            _ => return Err(self.cursor.error(format!("illegal character {first:?}"))),
        };
        Ok(Token { kind, pos })
    }

    fn mark(&mut self, kind: TokenKind) -> TokenKind {
        self.cursor.next();
        kind
    }

    fn skip_space_and_comments(&mut self) -> Result<(), ParseError> {
        loop {
            self.cursor.take_while(|c| c.is_whitespace() || c == '\u{feff}');
            let start = self.cursor.clone();
            if self.cursor.take("#") || self.cursor.take("//") {
                self.cursor.take_line();
            } else if self.cursor.take("/*") {
                while !self.cursor.take("*/") {
                    if self.cursor.next().is_none() {
                        return Err(start.error("comment not terminated"));
                    }
                }
            } else {
                return Ok(());
            }
        }
    }

    fn identifier(&mut self) -> TokenKind {
        let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        match self.cursor.take_while(inside) {
            "true" => TokenKind::Bool(true),
            "false" => TokenKind::Bool(false),
            name => TokenKind::Identifier(name.to_owned()),
        }
    }

    fn number(&mut self) -> Result<TokenKind, ParseError> {
        let start = self.cursor.clone();
        let mut previous = ' ';
        // A sign belongs to the number at its start and after an exponent's letter.
        let mut text = String::new();
        while let Some(c) = self.cursor.peek() {
            let is_hex = text.contains(['x', 'X']);
            let sign = matches!(c, '-' | '+')
                && (text.is_empty() || (matches!(previous, 'e' | 'E') && !is_hex));
            if !sign && !c.is_ascii_alphanumeric() && c != '.' {
                break;
            }
            text.push(c);
            previous = c;
            self.cursor.next();
        }
        literal::number(&text).ok_or_else(|| start.error(format!("malformed number {text:?}")))
    }

    fn string(&mut self) -> Result<String, ParseError> {
        let start = self.cursor.clone();
        self.cursor.next();
        let mut text = String::new();
        loop {
            let here = self.cursor.clone();
            match self.cursor.next() {
                None | Some('\n') => return Err(start.error("string not terminated")),
                Some('"') => return Ok(text),
                Some('\\') => text.push(literal::escape(&mut self.cursor, &here)?),
                Some('$') if self.cursor.peek() == Some('{') => {
                    text.push('$');
                    self.interpolation(&start, &mut text)?;
                }
                Some(c) => text.push(c),
            }
        }
    }

    /// Takes `{…}` after a dollar as it stands: braces pair, quotes and line ends are text.
    fn interpolation(&mut self, start: &Cursor<'_>, text: &mut String) -> Result<(), ParseError> {
        let mut open = 0_u32;
        loop {
            let c = self.cursor.next().ok_or_else(|| start.error("string not terminated"))?;
            text.push(c);
            match c {
                '{' => open += 1,
                '}' => open -= 1,
                // A backslash takes the next character with it, so that an escaped brace or quote
                // ends nothing.
                '\\' => text.extend(self.cursor.next()),
                _ => {}
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    fn heredoc(&mut self) -> Result<String, ParseError> {
        let start = self.cursor.clone();
        if !self.cursor.take("<<") {
            return Err(start.error("illegal character '<'"));
        }
        let unindent = self.cursor.take("-");
        let opening = self.cursor.take_line().unwrap_or_default();
        let marker = opening.trim_end_matches('\r');
        if marker.is_empty() || !marker.chars().all(|c| c.is_alphanumeric() || c == '_') {
            return Err(start.error("heredoc marker must be a word at the end of the line"));
        }
        let mut lines = Vec::new();
        loop {
            let line = self.cursor.take_line();
            let line = line.ok_or_else(|| start.error("heredoc not terminated"))?;
            let last = line.trim_end_matches('\r');
            if last.trim_start() == marker {
                let indent = last.strip_suffix(marker).unwrap_or_default();
                return Ok(literal::heredoc(&lines, indent, unindent));
            }
            lines.push(line);
        }
    }
}

//! Parses HCL text; hands JSON text to `json`.

use crate::lexer::{Lexer, Token, TokenKind};
use crate::tree::{Body, Item, Key, ParseError, Pos, Value, ValueKind};
use crate::{DEPTH_MAX, TEXT_BYTES_MAX, json};

/// Parses a whole text: JSON when its first character is `{`, HCL 1 otherwise.
pub fn parse(text: &str) -> Result<Body, ParseError> {
    if text.len() > TEXT_BYTES_MAX {
        let start = Pos { line: 1, column: 1 };
        return Err(ParseError::new(start, format!("text is longer than {TEXT_BYTES_MAX} bytes")));
    }
    if text.trim_start().starts_with('{') {
        return json::parse(text);
    }
    let mut parser = Parser { lexer: Lexer::new(text), ahead: None, depth: 0 };
    parser.body(Scope::File)
}

/// What a list of items stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    File,
    Braces,
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// A token that was looked at and not taken.
    ahead: Option<Token>,
    depth: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Result<Token, ParseError> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.lexer.next(),
        }
    }

    /// Takes the next token if it is of the kind.
    fn take(&mut self, kind: &TokenKind) -> Result<bool, ParseError> {
        let token = self.next()?;
        let fits = token.kind == *kind;
        if !fits {
            self.ahead = Some(token);
        }
        Ok(fits)
    }

    fn enter(&mut self, pos: Pos) -> Result<(), ParseError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ParseError::new(pos, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(())
    }

    /// Items up to the end of the scope, which is taken too. They may stand on lines of their own,
    /// side by side, or with commas between them.
    fn body(&mut self, scope: Scope) -> Result<Body, ParseError> {
        let mut items = Vec::new();
        loop {
            let token = self.next()?;
            match (token.kind, scope) {
                (TokenKind::End, Scope::File) | (TokenKind::RightBrace, Scope::Braces) => {
                    return Ok(Body { items });
                }
                (TokenKind::End, Scope::Braces) => {
                    return Err(ParseError::new(token.pos, "object not closed: expected \"}\""));
                }
                (TokenKind::Identifier(text) | TokenKind::String(text), _) => {
                    items.push(self.item(Key { text, pos: token.pos })?);
                    self.take(&TokenKind::Comma)?;
                }
                // A key may be called like a truth value.
                (TokenKind::Bool(value), _) => {
                    items.push(self.item(Key { text: value.to_string(), pos: token.pos })?);
                    self.take(&TokenKind::Comma)?;
                }
                (other, _) => {
                    let message = format!("expected a key; got {}", other.describe());
                    return Err(ParseError::new(token.pos, message));
                }
            }
        }
    }

    /// What follows a key: labels, then `= value` or `{ … }`.
    fn item(&mut self, key: Key) -> Result<Item, ParseError> {
        let mut labels = Vec::new();
        loop {
            let token = self.next()?;
            match token.kind {
                TokenKind::Identifier(text) | TokenKind::String(text) => {
                    labels.push((text, token.pos));
                }
                TokenKind::Assign if labels.is_empty() => {
                    let value = self.value()?;
                    return Ok(Item { key, labels, value });
                }
                TokenKind::Assign => {
                    let message = format!("expected \"{{\" after the labels of \"{}\"", key.text);
                    return Err(ParseError::new(token.pos, message));
                }
                TokenKind::LeftBrace => {
                    let value = self.object(token.pos)?;
                    return Ok(Item { key, labels, value });
                }
                other @ (TokenKind::End
                | TokenKind::Heredoc(_)
                | TokenKind::Number(_)
                | TokenKind::Float(_)
                | TokenKind::Bool(_)
                | TokenKind::Comma
                | TokenKind::RightBrace
                | TokenKind::LeftBracket
                | TokenKind::RightBracket) => {
                    let got = other.describe();
                    let message =
                        format!("expected \"=\" or \"{{\" after \"{}\"; got {got}", key.text);
                    return Err(ParseError::new(token.pos, message));
                }
            }
        }
    }

    fn value(&mut self) -> Result<Value, ParseError> {
        let token = self.next()?;
        self.value_from(token)
    }

    fn value_from(&mut self, token: Token) -> Result<Value, ParseError> {
        let kind = match token.kind {
            TokenKind::String(text) | TokenKind::Heredoc(text) => ValueKind::String(text),
            TokenKind::Number(number) => ValueKind::Number(number),
            TokenKind::Float(number) => ValueKind::Float(number),
            TokenKind::Bool(value) => ValueKind::Bool(value),
            TokenKind::LeftBrace => return self.object(token.pos),
            TokenKind::LeftBracket => return self.list(token.pos),
            TokenKind::Identifier(name) => {
                let message = format!("text must stand in quotes: \"{name}\"");
                return Err(ParseError::new(token.pos, message));
            }
            other @ (TokenKind::End
            | TokenKind::Assign
            | TokenKind::Comma
            | TokenKind::RightBrace
            | TokenKind::RightBracket) => {
                let message = format!("expected a value; got {}", other.describe());
                return Err(ParseError::new(token.pos, message));
            }
        };
        Ok(Value { kind, pos: token.pos })
    }

    /// The rest of an object whose brace stood at `pos`.
    fn object(&mut self, pos: Pos) -> Result<Value, ParseError> {
        self.enter(pos)?;
        let body = self.body(Scope::Braces)?;
        self.depth -= 1;
        Ok(Value { kind: ValueKind::Object(body), pos })
    }

    /// The rest of a list whose bracket stood at `pos`; a comma before its end is fine.
    fn list(&mut self, pos: Pos) -> Result<Value, ParseError> {
        self.enter(pos)?;
        let mut values = Vec::new();
        while !self.take(&TokenKind::RightBracket)? {
            values.push(self.value()?);
            if self.take(&TokenKind::Comma)? {
                continue;
            }
            if self.take(&TokenKind::RightBracket)? {
                break;
            }
            let token = self.next()?;
            let got = token.kind.describe();
            let message = format!("expected \",\" or \"]\" in a list; got {got}");
            return Err(ParseError::new(token.pos, message));
        }
        self.depth -= 1;
        Ok(Value { kind: ValueKind::List(values), pos })
    }
}

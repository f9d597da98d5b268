//! Parses JSON into the same tree.
//!
//! Members keep their order and may repeat, as HCL's items do. A member that is `null` counts as
//! absent.

use crate::DEPTH_MAX;
use crate::cursor::Cursor;
use crate::lexer::TokenKind;
use crate::literal;
use crate::tree::{Body, Item, Key, ParseError, Pos, Value, ValueKind};

/// Parses a text that is one JSON object.
pub(crate) fn parse(text: &str) -> Result<Body, ParseError> {
    let mut reader = Reader { cursor: Cursor::new(text), depth: 0 };
    reader.skip_space();
    let body = reader.object()?;
    reader.skip_space();
    match reader.cursor.peek() {
        None => Ok(body),
        Some(_) => Err(reader.cursor.error("text after the end of the JSON object")),
    }
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    depth: usize,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.cursor.take_while(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
    }

    fn enter(&mut self) -> Result<(), ParseError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.cursor.error(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(())
    }

    fn object(&mut self) -> Result<Body, ParseError> {
        self.enter()?;
        self.expect('{')?;
        let mut items = Vec::new();
        self.skip_space();
        if !self.cursor.take("}") {
            loop {
                self.skip_space();
                let pos = self.cursor.pos();
                let key = Key { text: self.string()?, pos };
                self.skip_space();
                self.expect(':')?;
                if let Some(value) = self.value()? {
                    items.push(Item { key, labels: Vec::new(), value });
                }
                if !self.more('}')? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(Body { items })
    }

    fn list(&mut self) -> Result<Vec<Value>, ParseError> {
        self.enter()?;
        self.expect('[')?;
        let mut values = Vec::new();
        self.skip_space();
        if !self.cursor.take("]") {
            loop {
                values.extend(self.value()?);
                if !self.more(']')? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(values)
    }

    /// Takes a comma (true) or the end (false).
    fn more(&mut self, end: char) -> Result<bool, ParseError> {
        self.skip_space();
        if self.cursor.take(",") {
            return Ok(true);
        }
        match self.cursor.peek() {
            Some(c) if c == end => {
                self.cursor.next();
                Ok(false)
            }
            Some(_) | None => Err(self.cursor.error(format!("expected ',' or {end:?}"))),
        }
    }

    /// A value; `None` for null.
    fn value(&mut self) -> Result<Option<Value>, ParseError> {
        self.skip_space();
        let pos = self.cursor.pos();
        let kind = match self.cursor.peek() {
            Some('"') => ValueKind::String(self.string()?),
            Some('{') => ValueKind::Object(self.object()?),
            Some('[') => ValueKind::List(self.list()?),
            Some('-' | '0'..='9') => self.number(pos)?,
            Some(_) if self.cursor.take("true") => ValueKind::Bool(true),
            Some(_) if self.cursor.take("false") => ValueKind::Bool(false),
            Some(_) if self.cursor.take("null") => return Ok(None),
            Some(_) | None => return Err(self.cursor.error("expected a JSON value")),
        };
        Ok(Some(Value { kind, pos }))
    }

    fn number(&mut self, pos: Pos) -> Result<ValueKind, ParseError> {
        let inside = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let text = self.cursor.take_while(inside);
        let unsigned = text.trim_start_matches('-');
        // JSON has no octal numbers.
        let leading_zero = unsigned.len() > 1
            && unsigned.starts_with('0')
            && unsigned.bytes().all(|b| b.is_ascii_digit());
        match literal::number(text) {
            Some(TokenKind::Number(number)) if !leading_zero => Ok(ValueKind::Number(number)),
            Some(TokenKind::Float(number)) => Ok(ValueKind::Float(number)),
            _ => Err(ParseError::new(pos, format!("malformed number {text:?}"))),
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), ParseError> {
        if self.cursor.peek() == Some(wanted) {
            self.cursor.next();
            return Ok(());
        }
        Err(self.cursor.error(format!("expected {wanted:?}")))
    }

    fn string(&mut self) -> Result<String, ParseError> {
        let start = self.cursor.clone();
        self.expect('"')?;
        let mut text = String::new();
        loop {
            match self.cursor.next() {
                None => return Err(start.error("string not terminated")),
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(c) if c < ' ' => return Err(start.error("control character in a string")),
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, ParseError> {
        let start = self.cursor.clone();
        let bad = || start.error("unknown escape sequence");
        Ok(match self.cursor.next().ok_or_else(bad)? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            c @ ('"' | '\\' | '/') => c,
            'u' => {
                let first = self.code_unit().ok_or_else(bad)?;
                let mut units = vec![first];
                if (0xd800..0xdc00).contains(&first) && self.cursor.take("\\u") {
                    units.extend(self.code_unit());
                }
                let decoded: Result<String, _> = char::decode_utf16(units).collect();
                decoded.ok().and_then(|text| text.chars().next()).ok_or_else(bad)?
            }
            _ => return Err(bad()),
        })
    }

    fn code_unit(&mut self) -> Option<u16> {
        let mut unit = 0_u32;
        for _ in 0..4 {
            unit = unit * 16 + self.cursor.next()?.to_digit(16)?;
        }
        u16::try_from(unit).ok()
    }
}

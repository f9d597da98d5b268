//! Takes checked values out of a tree, weakly typed as SPIRE takes them.
//!
//! A [`Block`] answers for one section, whether it was written once or several times, as a block or
//! as an assignment, with labels or nested. Names match in any case. Each name that is asked for is
//! remembered, so that [`Block::unknown_keys`] can report the others.
//!
//! | asked for | taken |
//! |---|---|
//! | string | text, numbers, `true`/`false` |
//! | int | numbers, texts of numbers (`"8081"`, `0x1F`) |
//! | bool | `true`/`false` without quotes, nothing else |
//! | list | a list, a single value; repeated keys add up |
//! | block | a block or object; repeated ones are one section, later keys win |

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::duration::parse_duration_ns;
use crate::literal;
use crate::tree::{Body, Item, Key, Pos, Value, ValueKind};

/// A value is there but not of the type that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {line}:{column}: {key}: {message}")]
pub struct DecodeError {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// The key as it was asked for.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

/// A label or map key and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its text, as written.
    pub text: String,
    /// Where it starts.
    pub pos: Pos,
}

/// One section of a configuration.
#[derive(Debug)]
pub struct Block<'a> {
    bodies: Vec<&'a Body>,
    pos: Pos,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Block<'a> {
    /// The section that a whole file is.
    pub fn of_file(body: &'a Body) -> Self {
        Self::new(vec![body], Pos { line: 1, column: 1 })
    }

    fn new(bodies: Vec<&'a Body>, pos: Pos) -> Self {
        Self { bodies, pos, asked: RefCell::default() }
    }

    /// Where the section first begins.
    pub fn pos(&self) -> Pos {
        self.pos
    }

    /// Whether the section has no item.
    pub fn is_empty(&self) -> bool {
        self.items().next().is_none()
    }

    /// Whether the key is there.
    pub fn has(&self, name: &str) -> bool {
        self.matching(name).next().is_some()
    }

    /// The last value of a key, as parsed.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.matching(name).last().map(|item| &item.value)
    }

    /// A text.
    pub fn string(&self, name: &str) -> Result<Option<String>, DecodeError> {
        self.scalar(name, "a string", text_of)
    }

    /// A whole number.
    pub fn int(&self, name: &str) -> Result<Option<i64>, DecodeError> {
        self.scalar(name, "a whole number", |value| match &value.kind {
            ValueKind::Number(number) => Some(*number),
            ValueKind::String(text) => literal::integer(text),
            ValueKind::Float(_)
            | ValueKind::Bool(_)
            | ValueKind::List(_)
            | ValueKind::Object(_) => None,
        })
    }

    /// A number.
    pub fn float(&self, name: &str) -> Result<Option<f64>, DecodeError> {
        self.scalar(name, "a number", |value| match &value.kind {
            ValueKind::Number(number) => Some(*number as f64),
            ValueKind::Float(number) => Some(*number),
            ValueKind::String(text) => text.parse().ok().filter(|number: &f64| number.is_finite()),
            ValueKind::Bool(_) | ValueKind::List(_) | ValueKind::Object(_) => None,
        })
    }

    /// A truth value.
    pub fn bool(&self, name: &str) -> Result<Option<bool>, DecodeError> {
        self.scalar(name, "true or false without quotes", |value| match &value.kind {
            ValueKind::Bool(value) => Some(*value),
            ValueKind::String(_)
            | ValueKind::Number(_)
            | ValueKind::Float(_)
            | ValueKind::List(_)
            | ValueKind::Object(_) => None,
        })
    }

    /// A duration text that is not negative. An empty text counts as absent, as in SPIRE.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, DecodeError> {
        let Some(ns) = self.duration_ns(name)? else { return Ok(None) };
        match u64::try_from(ns) {
            Ok(ns) => Ok(Some(Duration::from_nanos(ns))),
            Err(_negative) => Err(self.error(name, "duration is negative".to_owned())),
        }
    }

    /// A duration text in nanoseconds, also a negative one. An empty text counts as absent.
    pub fn duration_ns(&self, name: &str) -> Result<Option<i64>, DecodeError> {
        let text = self.string(name)?.filter(|text| !text.is_empty());
        let ns = text.map(|text| parse_duration_ns(&text)).transpose();
        ns.map_err(|error| self.error(name, error.to_string()))
    }

    /// A list of texts; empty when the key is absent.
    pub fn strings(&self, name: &str) -> Result<Vec<String>, DecodeError> {
        let mut texts = Vec::new();
        for item in self.matching(name) {
            let values = match &item.value.kind {
                ValueKind::List(values) => values.as_slice(),
                ValueKind::String(_)
                | ValueKind::Number(_)
                | ValueKind::Float(_)
                | ValueKind::Bool(_)
                | ValueKind::Object(_) => std::slice::from_ref(&item.value),
            };
            for value in values {
                let text = text_of(value);
                texts.push(text.ok_or_else(|| type_error(name, value, "a list of strings"))?);
            }
        }
        Ok(texts)
    }

    /// A section; repeated ones are joined. Labels, if any, are not looked at.
    pub fn block(&self, name: &str) -> Result<Option<Block<'a>>, DecodeError> {
        let mut bodies = Vec::new();
        let mut start = None;
        for item in self.matching(name) {
            bodies.extend(bodies_of(name, &item.value)?);
            start = start.or(Some(item.key.pos));
        }
        Ok(start.map(|pos| Self::new(bodies, pos)))
    }

    /// Sections of one name, each on its own.
    pub fn blocks(&self, name: &str) -> Result<Vec<Block<'a>>, DecodeError> {
        let mut blocks = Vec::new();
        for item in self.matching(name) {
            for body in bodies_of(name, &item.value)? {
                blocks.push(Self::new(vec![body], item.key.pos));
            }
        }
        Ok(blocks)
    }

    /// Sections of one name with one label each: `name "label" { … }` or
    /// `name { label { … } }`. Sections of the same label are joined; order is that of the text.
    pub fn labelled(&self, name: &str) -> Result<Vec<(Label, Block<'a>)>, DecodeError> {
        let mut found = Vec::new();
        for item in self.matching(name) {
            let labels: Vec<Label> = item.labels.iter().map(label_of).collect();
            collect(name, 1, labels, &item.value, &mut found)?;
        }
        let mut blocks = Vec::new();
        for (labels, body) in found {
            if let Some(label) = labels.into_iter().next() {
                join(&mut blocks, label, body);
            }
        }
        Ok(blocks)
    }

    /// Everything in this section as sections with a path of `depth` names: with depth 2
    /// `KeyManager "disk" { … }`, `KeyManager { disk { … } }` and JSON's nested objects all give
    /// (`KeyManager`, `disk`). Nothing is joined; order is that of the text. All keys count as known.
    pub fn paths(&self, depth: usize) -> Result<Vec<(Vec<Label>, Block<'a>)>, DecodeError> {
        let mut found = Vec::new();
        for item in self.items() {
            self.remember(&item.key.text);
            let mut path = vec![key_label(&item.key)];
            path.extend(item.labels.iter().map(label_of));
            collect(&item.key.text, depth, path, &item.value, &mut found)?;
        }
        let block = |(path, body): (Vec<Label>, &'a Body)| {
            let pos = path.first().map_or(self.pos, |label| label.pos);
            (path, Self::new(vec![body], pos))
        };
        Ok(found.into_iter().map(block).collect())
    }

    /// A map of texts: `name { key = "value" }`; later keys win, order is that of the text.
    pub fn string_map(&self, name: &str) -> Result<Vec<(Label, String)>, DecodeError> {
        let Some(block) = self.block(name)? else { return Ok(Vec::new()) };
        let mut pairs: Vec<(Label, String)> = Vec::new();
        for item in block.items() {
            let text = text_of(&item.value);
            let text = text.ok_or_else(|| type_error(name, &item.value, "a string"))?;
            pairs.retain(|(label, _)| label.text != item.key.text);
            pairs.push((key_label(&item.key), text));
        }
        Ok(pairs)
    }

    /// All items, in order. Does not make their keys known.
    pub fn items(&self) -> impl Iterator<Item = &'a Item> + use<'a, '_> {
        self.bodies.iter().flat_map(|body| body.items.iter())
    }

    /// The section as one tree of its own, for sections whose owner reads them later.
    pub fn to_body(&self) -> Body {
        Body { items: self.items().cloned().collect() }
    }

    /// Keys that nobody asked for, in order, each once.
    pub fn unknown_keys(&self) -> Vec<Label> {
        let asked = self.asked.borrow();
        let mut seen = BTreeSet::new();
        self.items()
            .filter(|item| !asked.contains(&folded(&item.key.text)))
            .filter(|item| seen.insert(item.key.text.as_str()))
            .map(|item| key_label(&item.key))
            .collect()
    }

    fn remember(&self, name: &str) {
        self.asked.borrow_mut().insert(folded(name));
    }

    fn matching(&self, name: &str) -> impl Iterator<Item = &'a Item> + use<'a, '_> {
        self.remember(name);
        let name = folded(name);
        self.items().filter(move |item| folded(&item.key.text) == name)
    }

    fn scalar<T>(
        &self,
        name: &str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, DecodeError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| type_error(name, value, wanted))
    }

    fn error(&self, name: &str, message: String) -> DecodeError {
        let pos = self.value(name).map_or(self.pos, |value| value.pos);
        DecodeError { line: pos.line, column: pos.column, key: name.to_owned(), message }
    }
}

/// Walks down until a path has `depth` names; what is found there must be sections.
fn collect<'a>(
    name: &str,
    depth: usize,
    path: Vec<Label>,
    value: &'a Value,
    found: &mut Vec<(Vec<Label>, &'a Body)>,
) -> Result<(), DecodeError> {
    let bodies = bodies_of(name, value)?;
    if path.len() > depth {
        return Err(type_error(name, value, "a section with fewer labels"));
    }
    for body in bodies {
        if path.len() == depth {
            found.push((path.clone(), body));
            continue;
        }
        for item in &body.items {
            let mut longer = path.clone();
            longer.push(key_label(&item.key));
            longer.extend(item.labels.iter().map(label_of));
            collect(name, depth, longer, &item.value, found)?;
        }
    }
    Ok(())
}

fn join<'a>(blocks: &mut Vec<(Label, Block<'a>)>, label: Label, body: &'a Body) {
    match blocks.iter_mut().find(|(known, _)| known.text == label.text) {
        Some((_, block)) => block.bodies.push(body),
        None => {
            let block = Block::new(vec![body], label.pos);
            blocks.push((label, block));
        }
    }
}

/// The bodies of an object or of a list of objects.
fn bodies_of<'a>(name: &str, value: &'a Value) -> Result<Vec<&'a Body>, DecodeError> {
    let body = |value: &'a Value| match &value.kind {
        ValueKind::Object(body) => Ok(body),
        ValueKind::String(_)
        | ValueKind::Number(_)
        | ValueKind::Float(_)
        | ValueKind::Bool(_)
        | ValueKind::List(_) => Err(type_error(name, value, "a section in braces")),
    };
    match &value.kind {
        ValueKind::List(values) => values.iter().map(body).collect(),
        ValueKind::String(_)
        | ValueKind::Number(_)
        | ValueKind::Float(_)
        | ValueKind::Bool(_)
        | ValueKind::Object(_) => Ok(vec![body(value)?]),
    }
}

fn text_of(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::String(text) => Some(text.clone()),
        ValueKind::Number(number) => Some(number.to_string()),
        ValueKind::Float(number) => Some(number.to_string()),
        ValueKind::Bool(value) => Some(value.to_string()),
        ValueKind::List(_) | ValueKind::Object(_) => None,
    }
}

fn type_error(name: &str, value: &Value, wanted: &str) -> DecodeError {
    let got = match &value.kind {
        ValueKind::String(_) => "a string",
        ValueKind::Number(_) | ValueKind::Float(_) => "a number",
        ValueKind::Bool(_) => "true or false",
        ValueKind::List(_) => "a list",
        ValueKind::Object(_) => "a section",
    };
    DecodeError {
        line: value.pos.line,
        column: value.pos.column,
        key: name.to_owned(),
        message: format!("expected {wanted}; got {got}"),
    }
}

fn key_label(key: &Key) -> Label {
    Label { text: key.text.clone(), pos: key.pos }
}

fn label_of((text, pos): &(String, Pos)) -> Label {
    Label { text: text.clone(), pos: *pos }
}

fn folded(name: &str) -> String {
    name.to_lowercase()
}

//! One section of the file while it is read: values with their place, ranges, unknown keys.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use steeple_hcl1::Pos;
use steeple_hcl1::decode::Block;

use super::error::{ConfigError, UnknownKey};

/// A section with the name it has in messages.
pub(super) struct Section<'a> {
    name: String,
    block: Block<'a>,
}

impl<'a> Section<'a> {
    pub(super) fn new(name: impl Into<String>, block: Block<'a>) -> Self {
        Self { name: name.into(), block }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.block.has(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    pub(super) fn block(&self) -> &Block<'a> {
        &self.block
    }

    /// A text; an empty one counts as absent, as in SPIRE.
    pub(super) fn string(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let text =
            self.block.string(key).map_err(|error| ConfigError::decode(&self.name, error))?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    pub(super) fn strings(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        self.block.strings(key).map_err(|error| ConfigError::decode(&self.name, error))
    }

    pub(super) fn int(&self, key: &str) -> Result<Option<i64>, ConfigError> {
        self.block.int(key).map_err(|error| ConfigError::decode(&self.name, error))
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.block.bool(key).map_err(|error| ConfigError::decode(&self.name, error))
    }

    /// A duration; zero and an empty text are left to the caller.
    pub(super) fn duration(&self, key: &str) -> Result<Option<Duration>, ConfigError> {
        self.block.duration(key).map_err(|error| ConfigError::decode(&self.name, error))
    }

    /// A duration in a range.
    pub(super) fn duration_in(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, ConfigError> {
        let Some(value) = self.duration(key)? else { return Ok(None) };
        if range.contains(&value) {
            return Ok(Some(value));
        }
        let (low, high) = (range.start(), range.end());
        Err(self
            .refuse(key, format!("{value:?} is out of range; choose between {low:?} and {high:?}")))
    }

    /// A port number. Zero counts as absent, as in SPIRE.
    pub(super) fn port(&self, key: &str) -> Result<Option<u16>, ConfigError> {
        match self.int(key)? {
            None | Some(0) => Ok(None),
            Some(port) => u16::try_from(port).map(Some).map_err(|_out_of_range| {
                self.refuse(key, format!("{port} is no port; choose between 1 and 65535"))
            }),
        }
    }

    /// A text that another type parses.
    pub(super) fn parsed<T>(&self, key: &str) -> Result<Option<T>, ConfigError>
    where
        T: FromStr,
        T::Err: Display,
    {
        let Some(text) = self.string(key)? else { return Ok(None) };
        text.parse().map(Some).map_err(|error: T::Err| self.refuse(key, error.to_string()))
    }

    /// A sub-section; repeated ones are joined.
    pub(super) fn section(&self, key: &str) -> Result<Option<Section<'a>>, ConfigError> {
        let block =
            self.block.block(key).map_err(|error| ConfigError::decode(&self.name, error))?;
        Ok(block.map(|block| Section::new(self.path(key), block)))
    }

    /// An error at a key's value.
    pub(super) fn refuse(&self, key: &str, message: impl Into<String>) -> ConfigError {
        ConfigError::value(self.pos(key), self.path(key), message)
    }

    /// Where a key's value stands.
    pub(super) fn pos(&self, key: &str) -> Pos {
        self.block.value(key).map_or(self.block.pos(), |value| value.pos)
    }

    /// Adds the keys that nobody asked for to a list.
    pub(super) fn collect_unknown(&self, unknown: &mut Vec<UnknownKey>) {
        unknown.extend(self.unknown());
    }

    /// The keys that nobody asked for.
    pub(super) fn unknown(&self) -> Vec<UnknownKey> {
        let named = |label: steeple_hcl1::decode::Label| UnknownKey {
            section: self.name.clone(),
            key: label.text,
            pos: label.pos,
        };
        self.block.unknown_keys().into_iter().map(named).collect()
    }

    /// A key with its section, as messages name it.
    pub(super) fn path(&self, key: &str) -> String {
        if self.name == "top-level" { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

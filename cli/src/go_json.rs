//! Files of JSON as Go's `encoding/json` reads them into structs.
//!
//! Owns its rules: keys in any case, unknown keys ignored, null for missing, wrong types refused. Which
//! keys there are is known to the commands (`entry -data`, `federation -data`).

use serde_json::{Map, Value};

use crate::error::Error;
use crate::output::go_quote;

/// Reads a text.
pub(crate) fn parse(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))
}

/// A JSON object read as Go reads one into a struct: a missing or null member is the zero value.
pub(crate) struct Object<'a>(&'a Map<String, Value>);

impl<'a> Object<'a> {
    /// The value as an object; the error calls it `what`.
    pub(crate) fn of(value: &'a Value, what: &str) -> Result<Self, Error> {
        value.as_object().map(Self).ok_or_else(|| wrong(&format!("{what} must be an object")))
    }

    /// The member of this name, in any case; null counts as missing.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        let exact = self.0.get(name);
        let value = exact.or_else(|| {
            self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        });
        value.filter(|value| !value.is_null())
    }

    /// A text, empty if missing.
    pub(crate) fn text(&self, name: &str) -> Result<String, Error> {
        self.read(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A truth, false if missing.
    pub(crate) fn bool(&self, name: &str) -> Result<bool, Error> {
        self.read(name, "true or false", Value::as_bool)
    }

    /// A whole number, 0 if missing.
    pub(crate) fn int64(&self, name: &str) -> Result<i64, Error> {
        self.read(name, "a whole number", Value::as_i64)
    }

    /// A whole number of 32 bits, 0 if missing.
    pub(crate) fn int32(&self, name: &str) -> Result<i32, Error> {
        self.read(name, "a whole number of 32 bits", |value| {
            value.as_i64().and_then(|number| i32::try_from(number).ok())
        })
    }

    /// A list, empty if missing.
    pub(crate) fn list(&self, name: &str) -> Result<&'a [Value], Error> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.mismatch(name, "a list")),
        }
    }

    /// A list of texts, empty if missing.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, Error> {
        let texts: Option<Vec<String>> =
            self.list(name)?.iter().map(|value| value.as_str().map(str::to_owned)).collect();
        texts.ok_or_else(|| self.mismatch(name, "a list of texts"))
    }

    fn read<T: Default>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, Error> {
        match self.get(name) {
            None => Ok(T::default()),
            Some(value) => read(value).ok_or_else(|| self.mismatch(name, expected)),
        }
    }

    fn mismatch(&self, name: &str, expected: &str) -> Error {
        let found = self.get(name).map(Value::to_string).unwrap_or_default();
        wrong(&format!("{} must be {expected}, not {found}", go_quote(name)))
    }
}

/// The error of a file that cannot be read as JSON, in SPIRE's words.
pub(crate) fn wrong(what: &str) -> Error {
    Error::invalid(format!("failed to parse JSON: {what}"))
}

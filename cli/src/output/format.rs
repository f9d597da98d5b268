//! The `-output` flag.
//!
//! Owns its values, its refusals and the choice between the two renderings.

use serde_json::Value;

use super::go_json;
use super::proto::{proto_value, without_nulls};
use super::text::go_quote;
use crate::error::Error;
use crate::flags::{FlagSet, FlagValue, Kind};
use crate::io::Io;

/// A rendering of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Pretty,
    /// One line of JSON for scripts.
    Json,
}

/// The flag: which rendering, and whether it was chosen already.
#[derive(Debug, Default)]
pub(crate) struct OutputFlag {
    chosen: Option<Format>,
}

impl OutputFlag {
    /// Declares `-output`.
    pub(crate) fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        flags.flag("output", self, "Desired output format (pretty, json); default: pretty.");
    }

    /// The rendering asked for.
    pub(crate) fn format(&self) -> Format {
        self.chosen.unwrap_or_default()
    }

    /// Prints the reply as JSON if that was asked for; tells whether it did.
    pub(crate) fn print_json<M: prost::Message>(
        &self,
        io: &mut Io<'_>,
        full_name: &str,
        message: &M,
    ) -> Result<bool, Error> {
        match self.format() {
            Format::Pretty => Ok(false),
            Format::Json => {
                print_value(io, proto_value(full_name, message)?)?;
                Ok(true)
            }
        }
    }
}

/// Prints a tree as SPIRE prints JSON: nulls removed, keys sorted, one line.
pub(crate) fn print_value(io: &mut Io<'_>, value: Value) -> Result<(), Error> {
    writeln!(io.stdout, "{}", go_json(&without_nulls(value)))?;
    Ok(())
}

impl FlagValue for OutputFlag {
    fn set(&mut self, text: &str) -> Result<(), String> {
        let format = match text.to_lowercase().as_str() {
            "pretty" | "prettyprint" => Format::Pretty,
            "json" => Format::Json,
            _ => {
                return Err(format!(
                    "bad formatter flag: unknown format option: {}",
                    go_quote(text)
                ));
            }
        };
        match self.chosen {
            Some(chosen) if chosen != format => Err(format!(
                "the output format has already been set to {}",
                go_quote(chosen.name())
            )),
            Some(_) | None => {
                self.chosen = Some(format);
                Ok(())
            }
        }
    }

    fn kind(&self) -> Kind {
        Kind::Custom
    }

    fn shown(&self) -> Option<String> {
        None
    }
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_takes_spires_words_and_refuses_a_change_of_mind() {
        for (uses, expected) in [
            (&["pretty"][..], Ok(Format::Pretty)),
            (&["prettyprint"], Ok(Format::Pretty)),
            (&["JSON"], Ok(Format::Json)),
            (&["json", "json"], Ok(Format::Json)),
            (&["pretty", "PrettyPrint"], Ok(Format::Pretty)),
            (&["json", "pretty"], Err("the output format has already been set to \"json\"")),
            (&["yaml"], Err("bad formatter flag: unknown format option: \"yaml\"")),
        ] {
            let mut flag = OutputFlag::default();
            let outcome = uses.iter().try_for_each(|text| flag.set(text)).map(|()| flag.format());
            assert_eq!(outcome, expected.map_err(str::to_owned), "{uses:?}");
        }
    }
}

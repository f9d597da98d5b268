//! Command-line flags in the manner of Go's `flag` package, which every SPIRE script relies on.
//!
//! Owns the grammar (one or two dashes, `-x=v`, `-x v`, value-less booleans, `--`), the error texts
//! and the layout of the usage text. Knows no command: a command lends its own fields to a
//! [`FlagSet`], which fills them in.

mod duration;
mod set;
mod value;

pub(crate) use duration::GoDuration;
pub(crate) use set::{FlagError, FlagSet};
pub(crate) use value::{FlagValue, Kind, Tristate};

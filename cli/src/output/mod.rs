//! How answers look: the `-output` flag, SPIRE's JSON of protobuf replies, Go's renderings of times
//! and quoted texts.
//!
//! Owns formats only; which lines a command prints is the command's affair.

mod format;
mod json;
mod proto;
mod text;
mod zone;

pub(crate) use format::{Format, OutputFlag, print_value};
pub(crate) use json::go_json;
pub(crate) use proto::proto_value;
pub(crate) use text::{go_quote, go_time_utc, rfc3339_utc};
pub(crate) use zone::LocalZone;

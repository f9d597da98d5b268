//! HCL 1 and JSON configuration text, as SPIRE's configuration files use them.
//!
//! Owns the way from text to a tree with positions (`parse`) and from the tree to checked values
//! (`decode`), plus the expansion of environment variables that precedes both. Knows no file and no
//! key of any configuration: who owns a section asks its block for what it knows, and then for the
//! keys that nobody asked for.
//!
//! The language is HashiCorp's HCL 1 (not HCL 2): no expressions, no functions; `${…}` in a string
//! is plain text. A text whose first character is `{` is JSON.

#![forbid(unsafe_code)]

mod cursor;
mod duration;
mod expand;
mod json;
mod lexer;
mod literal;
mod parser;
mod tree;

pub mod decode;

pub use duration::{DurationError, parse_duration_ns};
pub use expand::expand_env;
pub use parser::parse;
pub use tree::{Body, Item, Key, ParseError, Pos, Value, ValueKind};

/// Largest text that is parsed. The biggest configuration of SPIRE's suites has 6 KiB.
pub const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Deepest nesting of blocks and lists. SPIRE's deepest section (a plugin's data with nested maps)
/// has 8 levels; the bound keeps the recursive parser within its stack.
pub const DEPTH_MAX: usize = 64;

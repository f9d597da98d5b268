//! Tests of the crate's public face: what parses to what, what is refused where, what values come
//! out.

mod decode;
mod language;

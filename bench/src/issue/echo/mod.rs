//! What the call alone costs: servers that answer with bytes that were given to them, each a
//! process of its own, with the product's TLS and no product behind it.

pub(super) mod identity;
mod process;
mod served;

pub(crate) use process::{Answers, Echo};
pub(crate) use served::serve;

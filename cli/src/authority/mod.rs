//! `localauthority` and `upstreamauthority`: steps in the life of signing authorities.
//!
//! Owns SPIRE's names, words and blocks of text; which step is allowed when is the server's decision.

mod show;
mod state;
mod step;
mod upstream;

pub(crate) use show::Show;
pub(crate) use step::{Prepare, Step};
pub(crate) use upstream::Upstream;

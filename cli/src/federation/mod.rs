//! `spire-server federation …`: relationships with other trust domains.
//!
//! `relationship` reads them from flags and files, `block` prints one, `client`
//! reaches the server.

mod block;
mod client;
mod delete;
mod list;
mod refresh;
mod relationship;
mod show;
mod write;

pub(crate) use delete::Delete;
pub(crate) use list::List;
pub(crate) use refresh::Refresh;
pub(crate) use show::Show;
pub(crate) use write::{Create, Update};

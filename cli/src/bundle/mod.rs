//! `spire-server bundle …`: the own bundle and those of other trust domains.
//!
//! `print` holds the two formats, PEM and SPIFFE's JSON.

mod count;
mod delete;
mod list;
mod print;
mod set;
mod show;

pub(crate) use count::Count;
pub(crate) use delete::Delete;
pub(crate) use list::List;
pub(crate) use set::Set;
pub(crate) use show::Show;

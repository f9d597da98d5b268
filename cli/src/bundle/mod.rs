//! `spire-server bundle …`: the own bundle and those of other trust domains.
//!
//! `format` holds the two formats, PEM and SPIFFE's JSON.

mod count;
mod delete;
mod format;
mod list;
mod set;
mod show;

pub(crate) use count::Count;
pub(crate) use delete::Delete;
pub(crate) use format::BundleFormat;
pub(crate) use list::List;
pub(crate) use set::Set;
pub(crate) use show::Show;

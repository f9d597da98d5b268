//! `spire-server entry …`: registration entries.
//!
//! `attributes` holds the flags that create and update share, `data` the JSON files they read,
//! `block` what an entry looks like.

mod attributes;
mod block;
mod count;
mod create;
mod data;
mod delete;
mod filter;
mod results;
mod show;
mod update;

pub(crate) use count::Count;
pub(crate) use create::Create;
pub(crate) use delete::Delete;
pub(crate) use show::Show;
pub(crate) use update::Update;

//! The only place that makes the parts of a server and connects them.
//!
//! Owns the order of start and end. Start: data folder, key, registry, admin socket, then (when the
//! cluster has formed, the views have caught up and there is an authority to sign with) the API
//! port. End: the reverse, as `docs/reference/cluster.md` 3 says. A task that ends by itself ends the
//! process.

mod api;
mod parts;
mod start;
mod stop;

pub use parts::{PluginError, check_plugins};
pub(crate) use parts::{World, seams, store_config};
pub use start::run;

//! The network between members: a namespace for each, and a switch of ours between them.
//!
//! [`spaces`] makes namespaces with a TUN device each, [`switch`] carries packets between the devices
//! and does to them what [`links`] says. The kernel here has no netem, and a switch of our own has a
//! seed besides.

pub(crate) mod links;
pub(crate) mod spaces;
mod switch;

pub(crate) use links::{Link, Links};
pub(crate) use spaces::Spaces;

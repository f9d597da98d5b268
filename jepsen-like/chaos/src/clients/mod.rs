//! Clients as people and tools are: they call, wait, try again under the same request id, elsewhere.
//!
//! [`ask`] is what can be asked, in the API's words and the checker's; [`call`] makes one attempt and
//! tells apart what is done, surely not done, and unknown; [`workload`] chooses what to ask.

pub(crate) mod ask;
pub(crate) mod call;
pub(crate) mod client;
pub(crate) mod workload;

pub(crate) use ask::Ask;
pub(crate) use client::Client;

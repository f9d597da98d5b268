//! The main job as a story with times: three replicas, an agent, a workload, a leader killed. And
//! that of two trust domains.

mod federation;
mod operations;
mod stages;
mod story;
mod workload;

pub(crate) use federation::{Pace, demo as federation_demo};
pub(crate) use stages::{Options, cluster, demo, token};
pub(crate) use workload::{between, jwt, x509};

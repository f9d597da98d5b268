//! The main job as a story with times: three replicas, an agent, a workload, a leader killed.

mod operations;
mod stages;
mod story;
mod workload;

pub(crate) use stages::{Options, cluster, demo, token};
pub(crate) use workload::{jwt, x509};

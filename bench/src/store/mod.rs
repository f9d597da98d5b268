//! The store beside etcd and PostgreSQL: rates, reads, failover, size.
//!
//! Every figure of ours is taken in turns with its peer's in one run, on one disk; what is quoted is the
//! ratio of neighbouring rounds, with its spread, and the CPU time of all server processes of a system
//! for each operation. A peer that cannot be had is said to be absent, with the reason.

mod door;
mod etcd;
mod failover;
mod folder;
mod plan;
mod postgres;
mod reads;
mod scale;
mod steeple;
mod writes;

pub(crate) use plan::run;

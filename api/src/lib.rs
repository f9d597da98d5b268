//! The wire: protobuf of the SPIRE and SPIFFE APIs and of our own, and what turns it into
//! `steeple-spiffe-core`'s checked types.
//!
//! Owns the `.proto` files (written from the inventory in `spec/spire-api.md`, same packages, names
//! and numbers as SPIRE's; `tests/it` compares them with the published ones), the generated code
//! ([`pb`]), the conversions both ways with SPIRE's texts ([`convert`]), statuses ([`status`]), what is
//! said beside messages ([`metadata`]) and the layout of snapshot files ([`snapshot_file`]), and a filter
//! for clients whose authority h2 refuses ([`c_core`]).
//! Knows no store, no service, no transport: whether a federated bundle exists or a caller may call
//! is decided elsewhere.

#![forbid(unsafe_code)]

pub mod c_core;
pub mod convert;
pub mod metadata;
pub mod pb;
pub mod snapshot_file;
pub mod status;

mod redact;

/// The descriptors of every file in `proto/` and of what they import, as an encoded
/// `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

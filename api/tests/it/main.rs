//! The wire: our descriptors against the `.proto` files that others have published.
//!
//! `reference` finds and compiles the published files, `surface` turns descriptors into facts and
//! compares them, `additions` lists what SPIRE 1.15 has and the published files do not yet,
//! `mutations` proves that no kind of difference slips through.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of this is test code, its helpers too"
)]

mod additions;
mod mutations;
mod reference;
mod surface;

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::surface::{Difference, Surface};

/// The packages that stock clients speak to us. The Workload API has none.
const SERVED: [&str; 9] = [
    "",
    "grpc.health.v1",
    "spire.api.server.agent.v1",
    "spire.api.server.bundle.v1",
    "spire.api.server.entry.v1",
    "spire.api.server.localauthority.v1",
    "spire.api.server.svid.v1",
    "spire.api.server.trustdomain.v1",
    "spire.api.types",
];

/// Our descriptors, as the crate exports them.
fn ours() -> FileDescriptorSet {
    FileDescriptorSet::decode(steeple_api::FILE_DESCRIPTOR_SET).unwrap()
}

/// What differs between descriptors and the reference with the additions of SPIRE 1.15.
fn differences(descriptors: &FileDescriptorSet, reference: &Surface) -> Vec<Difference> {
    Surface::of(descriptors, &SERVED).differences(reference)
}

#[test]
fn our_wire_is_that_of_the_published_files_and_the_listed_additions() {
    let expected = additions::add_to(reference::surface()).unwrap();
    let found = differences(&ours(), &expected);
    assert!(found.is_empty(), "{}", surface::report(&found));
}

#[test]
fn every_served_package_has_a_published_reference() {
    let published: BTreeSet<String> = reference::surface().packages();
    let served: BTreeSet<String> = SERVED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(published, served);
}

#[test]
fn our_own_services_are_in_the_descriptor_set() {
    let packages: BTreeSet<String> =
        ours().file.into_iter().map(|file| file.package.unwrap_or_default()).collect();
    for package in ["steeple.agent.v1", "steeple.cluster.v1"] {
        assert!(packages.contains(package), "{package}");
    }
}

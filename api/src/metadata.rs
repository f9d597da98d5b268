//! What our agent and our server tell each other beside the messages of SPIRE's services, as metadata
//! that others do not look at.

use tonic::metadata::MetadataMap;

/// Request of `GetBundle`, by an agent that acknowledges bundles: the receipt of the answer whose bundle
/// it serves; 0 = of none.
pub const BUNDLE_HELD: &str = "steeple-bundle-held";

/// Reply of `GetBundle` to such an agent: a number that stands for this answer, for the agent to give
/// back once its bundle is what workloads get. Never 0.
pub const BUNDLE_RECEIPT: &str = "steeple-bundle-receipt";

/// Request of a `Prepare` of LocalAuthority that is one step of a rotation: the revision of the journal that
/// it was decided by. The call is refused if the journal has moved since, so that of two rotations at
/// one time one prepares an authority, and if the authority would end no later than the one that signs.
pub const EXPECTED_JOURNAL: &str = "steeple-expected-journal";

/// A number in decimal digits; `None` where there is none by that name.
pub fn number(metadata: &MetadataMap, name: &str) -> Option<u64> {
    metadata.get(name)?.to_str().ok()?.parse().ok()
}

//! What our agent and our server tell each other beside the messages of SPIRE's services, as metadata
//! that others do not look at.

use tonic::metadata::MetadataMap;

/// Request of `GetBundle`, by an agent that acknowledges bundles: the receipt of the answer whose bundle
/// it serves; 0 = of none.
pub const BUNDLE_HELD: &str = "steeple-bundle-held";

/// Reply of `GetBundle` to such an agent: a number that stands for this answer, for the agent to give
/// back once its bundle is what workloads get. Never 0.
pub const BUNDLE_RECEIPT: &str = "steeple-bundle-receipt";

/// A number in decimal digits; `None` where there is none by that name.
pub fn number(metadata: &MetadataMap, name: &str) -> Option<u64> {
    metadata.get(name)?.to_str().ok()?.parse().ok()
}

//! Bounds on everything of the vocabulary that a peer or an operator can grow.
//!
//! Each constant names its source; where SPIRE has no bound, ours is chosen so that one item always
//! fits a replicated command (1 MiB).

/// Longest SPIFFE id in bytes (SPIFFE-ID section 2.3: implementations must not exceed 2048).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;

/// Longest trust domain name in bytes (SPIFFE-ID section 2.3: 255).
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// Longest entry id (SPIRE: 255 characters).
pub const ENTRY_ID_BYTES_MAX: usize = 255;

/// Longest hint of an entry (SPIRE: 1024 bytes).
pub const HINT_BYTES_MAX: usize = 1024;

/// Most selectors of one entry or agent. SPIRE has none; a pod of 100 labels has about 120.
pub const SELECTORS_MAX: usize = 1024;

/// Longest selector (type and value). SPIRE has none; container image ids stay below 1 KiB.
pub const SELECTOR_BYTES_MAX: usize = 8192;

/// Most DNS names of one entry. SPIRE has none; a certificate with more is refused by many clients.
pub const DNS_NAMES_MAX: usize = 1024;

/// Most foreign trust domains that one entry federates with.
pub const FEDERATES_WITH_MAX: usize = 1024;

/// Longest agent version reported by PostStatus (SPIRE: 255 characters).
pub const AGENT_VERSION_BYTES_MAX: usize = 255;

/// Longest join token. SPIRE's are UUIDs; operators may choose their own. The agent id contains it.
pub const JOIN_TOKEN_BYTES_MAX: usize = 512;

/// Longest URL of a bundle endpoint. SPIRE has none; no web server takes a longer one by default.
pub const ENDPOINT_URL_BYTES_MAX: usize = 2048;

/// Largest SPIFFE bundle document that is parsed.
pub const BUNDLE_DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Largest certificate request that is parsed. An RSA-4096 request with a few names is 2 KiB.
pub const CSR_BYTES_MAX: usize = 64 * 1024;

/// Longest JWT that is parsed. Tokens travel in HTTP headers, which servers cap far lower.
pub const JWT_BYTES_MAX: usize = 64 * 1024;

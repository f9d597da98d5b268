//! The SPIFFE vocabulary of Steeple: ids, selectors, entries, agents, authorities, bundles, SVIDs.
//!
//! Owns the checked types every other crate speaks, and the pure code that parses, prints, writes
//! and verifies them. Knows no protobuf, no async runtime, no file, no system clock: time and
//! randomness are arguments. Constructors return checked types, so a value that exists is valid.
//!
//! | type | where in the SPIFFE standard |
//! |---|---|
//! | [`TrustDomain`], [`SpiffeId`] | SPIFFE-ID, sections 2.1 to 2.4 |
//! | [`bundle`] | SPIFFE Trust Domain and Bundle, section 4 |
//! | [`federation`] | SPIFFE Federation, section 5 (endpoint profiles) |
//! | [`svid::x509`] | X509-SVID, sections 2 to 5 |
//! | [`svid::jwt`] | JWT-SVID, sections 2 to 5 |
//! | [`svid::wit`] | none yet: SPIRE's workload identity tokens |
//! | [`tls`] | X509-SVID, section 5.2 (validation in TLS) |

#![forbid(unsafe_code)]

pub mod agent;
pub mod authority;
pub mod bundle;
pub mod csr;
pub mod dice;
pub mod dns_name;
pub mod entry;
pub mod federation;
pub mod id;
pub mod key;
pub mod limits;
pub mod pem;
pub mod random;
pub mod selector;
pub mod signer;
pub mod sorted_set;
pub mod svid;
pub mod time;
pub mod tls;
pub mod trust_domain;

mod der;
mod json;
mod jwk;
mod public_key;

pub use agent::{AgentRecord, Serial, Serials};
pub use authority::{AuthorityId, AuthorityStatus};
pub use bundle::Bundle;
pub use csr::CertificateRequest;
pub use dns_name::{check_dns_name, check_wildcard_overlap};
pub use entry::{EntryId, RegistrationEntry};
pub use federation::{EndpointProfile, EndpointUrl, FederationRelationship};
pub use id::SpiffeId;
pub use jwk::private_jwk;
pub use key::{KeyType, Secret};
pub use random::Random;
pub use selector::{Selector, SelectorMatch, SelectorSet};
pub use signer::{LocalSigner, Signer};
pub use sorted_set::SortedSet;
pub use time::{Clock, Timestamp};
pub use trust_domain::TrustDomain;

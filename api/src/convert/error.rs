//! Why a message is refused.
//!
//! Owns the texts that are not those of a checked type, and the split SPIRE shows to its callers:
//! what its API layer refuses reads `failed to convert ...`, what its store refuses reads
//! `failed to create ...: datastore-validation: ...`.

use steeple_spiffe_core::dns_name::DnsNameError;
use steeple_spiffe_core::entry::EntryIdError;
use steeple_spiffe_core::limits::{
    DNS_NAMES_MAX, FEDERATES_WITH_MAX, HINT_BYTES_MAX, SELECTORS_MAX,
};
use steeple_spiffe_core::selector::SelectorError;
use steeple_spiffe_core::trust_domain::TrustDomainError;
use tonic::Code;

use super::id::IdError;
use crate::pb;
use crate::status;

/// Why a message is refused. Texts are SPIRE's, except for our own bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The entry's parent is no member of the trust domain.
    #[error("invalid parent ID: {0}")]
    ParentId(IdError),
    /// The entry's identity is not one of a workload.
    #[error("invalid spiffe ID: {0}")]
    SpiffeId(IdError),
    /// A DNS name is malformed.
    #[error("invalid DNS name: {0}")]
    DnsName(DnsNameError),
    /// More DNS names than an entry may have.
    #[error("too many DNS names, at most {DNS_NAMES_MAX} are allowed")]
    TooManyDnsNames,
    /// A name in `federates_with` is malformed.
    #[error("invalid federated trust domain: {0}")]
    FederatedTrustDomain(TrustDomainError),
    /// A name in a filter by `federates_with` is malformed.
    #[error("{0}")]
    FilteredTrustDomain(TrustDomainError),
    /// More foreign trust domains than an entry may have.
    #[error("too many federated trust domains, at most {FEDERATES_WITH_MAX} are allowed")]
    TooManyFederatedTrustDomains,
    /// The entry has no selector.
    #[error("selector list is empty")]
    NoSelectors,
    /// More selectors than a set may have.
    #[error("too many selectors, at most {SELECTORS_MAX} are allowed")]
    TooManySelectors,
    /// A selector is malformed.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// The hint is longer than [`HINT_BYTES_MAX`].
    #[error("hint is too long, max length is {HINT_BYTES_MAX} characters")]
    HintTooLong,
    /// The entry's id is malformed. The store's rule.
    #[error("datastore-validation: invalid registration entry: {0}")]
    EntryId(EntryIdError),
    /// A lifetime is negative. The store's rule; SPIRE's text says "not set".
    #[error("datastore-validation: invalid registration entry: {field} is not set")]
    NegativeTtl {
        /// SPIRE's name of the field: `X509SvidTtl` or `JwtSvidTtl`.
        field: &'static str,
    },
    /// Selectors of several types in an entry whose SVIDs are stored. The store's rule.
    #[error(
        "datastore-validation: invalid registration entry: \
         selector types must be the same when store SVID is enabled"
    )]
    MixedSelectorTypes,
    /// Stored SVIDs are always fetched ahead, so the two contradict each other. The store's rule.
    #[error("datastore-validation: specifying cache behaviour is incompatible with storable SVIDs")]
    StoredWithoutPrefetch,
    /// An update names an id that no entry can have. The store's answer, as for any unknown id.
    #[error("record not found")]
    UnknownEntryId,
    /// A bundle's trust domain is malformed.
    #[error("invalid trust domain: {0}")]
    BundleTrustDomain(TrustDomainError),
    /// An X.509 authority of a bundle is malformed.
    #[error("unable to parse X.509 authority: {0}")]
    X509Authority(AuthorityError),
    /// A JWT authority of a bundle is malformed.
    #[error("unable to parse JWT authority: {0}")]
    JwtAuthority(AuthorityError),
    /// A WIT authority of a bundle is malformed; it is checked although no foreign bundle has a place
    /// for it.
    #[error("unable to parse WIT authority: {0}")]
    WitAuthority(AuthorityError),
    /// A filter's set of selectors is empty.
    #[error("empty selector set")]
    EmptySelectorSet,
    /// A filter's set of trust domains is empty.
    #[error("empty trust domain set")]
    EmptyTrustDomainSet,
    /// A filter compares in a way that we do not know.
    #[error("match behavior {0} is not supported")]
    MatchBehavior(i32),
    /// A server's answer lacks what we need from it.
    #[error("server response has no {0}")]
    MissingField(&'static str),
    /// An SVID of a server's answer has an id that is none.
    #[error("invalid SVID ID: {0}")]
    SvidId(IdError),
}

/// Why an authority of a bundle is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Not one or several certificates in DER.
    #[error("x509: malformed certificate")]
    Certificate,
    /// Not a SubjectPublicKeyInfo in DER.
    #[error("x509: malformed public key")]
    PublicKey,
    /// The key has no id.
    #[error("missing key ID")]
    MissingKeyId,
}

impl ConvertError {
    /// The gRPC code of an item that is refused so.
    pub fn code(&self) -> Code {
        match self.layer() {
            Layer::Api | Layer::Store => Code::InvalidArgument,
            Layer::StoreLookup => Code::NotFound,
        }
    }

    /// The status of an entry of a batch; `action` is `create` or `update`.
    pub fn entry_status(&self, action: &str) -> pb::types::Status {
        let message = match self.layer() {
            Layer::Api => format!("failed to convert entry: {self}"),
            Layer::Store => format!("failed to {action} entry: {self}"),
            // SPIRE never tells the inner text of NotFound.
            Layer::StoreLookup => format!("failed to {action} entry"),
        };
        status::item(self.code(), message)
    }

    /// The status of a bundle of a batch.
    pub fn bundle_status(&self) -> pb::types::Status {
        status::item(self.code(), format!("failed to convert bundle: {self}"))
    }

    fn layer(&self) -> Layer {
        match self {
            Self::EntryId(_)
            | Self::NegativeTtl { .. }
            | Self::MixedSelectorTypes
            | Self::StoredWithoutPrefetch => Layer::Store,
            Self::UnknownEntryId => Layer::StoreLookup,
            Self::ParentId(_)
            | Self::SpiffeId(_)
            | Self::DnsName(_)
            | Self::TooManyDnsNames
            | Self::FederatedTrustDomain(_)
            | Self::FilteredTrustDomain(_)
            | Self::TooManyFederatedTrustDomains
            | Self::NoSelectors
            | Self::TooManySelectors
            | Self::Selector(_)
            | Self::HintTooLong
            | Self::BundleTrustDomain(_)
            | Self::X509Authority(_)
            | Self::JwtAuthority(_)
            | Self::WitAuthority(_)
            | Self::EmptySelectorSet
            | Self::EmptyTrustDomainSet
            | Self::MatchBehavior(_)
            | Self::MissingField(_)
            | Self::SvidId(_) => Layer::Api,
        }
    }
}

/// Which layer of SPIRE gives the refusal.
enum Layer {
    Api,
    Store,
    StoreLookup,
}

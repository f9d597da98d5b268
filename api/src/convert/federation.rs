//! Federation relationships, both ways, with SPIRE's texts.
//!
//! Owns the rules that need nothing but the message. That a trust domain does not federate with
//! itself, and whether there is a relationship already, is the service's and raft-store's to say.

use steeple_spiffe_core::federation::EndpointUrlError;
use steeple_spiffe_core::id::SpiffeIdError;
use steeple_spiffe_core::trust_domain::TrustDomainError;
use steeple_spiffe_core::{
    Bundle, EndpointProfile, EndpointUrl, FederationRelationship, SpiffeId, TrustDomain,
};

use super::{ConvertError, bundle, id};
use crate::pb;
use crate::pb::types::federation_relationship::BundleEndpointProfile;

/// The mask that stands for an absent one: every field.
pub const ALL: pb::types::FederationRelationshipMask = pb::types::FederationRelationshipMask {
    bundle_endpoint_url: true,
    bundle_endpoint_profile: true,
    trust_domain_bundle: true,
};

/// Why a relationship is refused. Texts are SPIRE's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FederationError {
    /// The trust domain is malformed.
    #[error("failed to parse trust domain: {0}")]
    TrustDomain(TrustDomainError),
    /// The URL is none that bundles may be fetched from.
    #[error(transparent)]
    Url(#[from] EndpointUrlError),
    /// No profile is chosen. SPIRE prints the type of nothing.
    #[error("unsupported bundle endpoint profile type: <nil>")]
    NoProfile,
    /// The endpoint's id is malformed.
    #[error("failed to parse endpoint SPIFFE ID: {0}")]
    EndpointId(SpiffeIdError),
    /// The bundle is malformed.
    #[error("failed to parse bundle: {0}")]
    Bundle(ConvertError),
    /// The bundle is another trust domain's.
    #[error(
        "trust domain bundle ({given:?}) must match the trust domain of the federation \
         relationship ({expected:?})"
    )]
    OtherBundle {
        /// Whose bundle it is, in the request's words.
        given: String,
        /// The relationship's trust domain.
        expected: String,
    },
}

/// A relationship of a request and the bundle that came with it. All fields are checked, also those
/// that an update's mask leaves out: so does SPIRE.
pub fn from_pb(
    message: &pb::types::FederationRelationship,
) -> Result<(FederationRelationship, Option<Bundle>), FederationError> {
    let trust_domain =
        id::trust_domain(&message.trust_domain).map_err(FederationError::TrustDomain)?;
    let endpoint_url = EndpointUrl::parse(&message.bundle_endpoint_url)?;
    let profile = match &message.bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsWeb(pb::types::HttpsWebProfile {})) => {
            EndpointProfile::HttpsWeb
        }
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => EndpointProfile::HttpsSpiffe {
            endpoint_id: SpiffeId::parse(&profile.endpoint_spiffe_id)
                .map_err(FederationError::EndpointId)?,
        },
        None => return Err(FederationError::NoProfile),
    };
    let bundle = message.trust_domain_bundle.as_ref();
    let bundle = bundle.map(|bundle| bundle_of(bundle, &trust_domain)).transpose()?;
    Ok((FederationRelationship { trust_domain, endpoint_url, profile }, bundle))
}

/// The message of a relationship, with its trust domain's bundle if there is one.
pub fn to_pb(
    relationship: &FederationRelationship,
    bundle: Option<&Bundle>,
    mask: Option<&pb::types::FederationRelationshipMask>,
) -> pb::types::FederationRelationship {
    let pb::types::FederationRelationshipMask {
        bundle_endpoint_url,
        bundle_endpoint_profile,
        trust_domain_bundle,
    } = *mask.unwrap_or(&ALL);
    let profile = match &relationship.profile {
        EndpointProfile::HttpsWeb => BundleEndpointProfile::HttpsWeb(pb::types::HttpsWebProfile {}),
        EndpointProfile::HttpsSpiffe { endpoint_id } => {
            BundleEndpointProfile::HttpsSpiffe(pb::types::HttpsspiffeProfile {
                endpoint_spiffe_id: endpoint_id.to_string(),
            })
        }
    };
    let url = relationship.endpoint_url.as_str();
    pb::types::FederationRelationship {
        trust_domain: relationship.trust_domain.as_str().to_owned(),
        bundle_endpoint_url: if bundle_endpoint_url { url.to_owned() } else { String::new() },
        bundle_endpoint_profile: bundle_endpoint_profile.then_some(profile),
        trust_domain_bundle: bundle.filter(|_| trust_domain_bundle).map(bundle::to_pb),
    }
}

fn bundle_of(
    message: &pb::types::Bundle,
    trust_domain: &TrustDomain,
) -> Result<Bundle, FederationError> {
    let bundle = bundle::from_pb(message).map_err(FederationError::Bundle)?;
    if bundle.trust_domain != *trust_domain {
        return Err(FederationError::OtherBundle {
            given: message.trust_domain.clone(),
            expected: trust_domain.as_str().to_owned(),
        });
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> pb::types::FederationRelationship {
        pb::types::FederationRelationship {
            trust_domain: "other.org".to_owned(),
            bundle_endpoint_url: "https://other.org:8443/bundle".to_owned(),
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(
                pb::types::HttpsWebProfile {},
            )),
            trust_domain_bundle: None,
        }
    }

    fn spiffe(id: &str) -> pb::types::FederationRelationship {
        let endpoint_spiffe_id = id.to_owned();
        pb::types::FederationRelationship {
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(
                pb::types::HttpsspiffeProfile { endpoint_spiffe_id },
            )),
            ..web()
        }
    }

    fn bundled(trust_domain: &str) -> pb::types::FederationRelationship {
        let bundle = pb::types::Bundle {
            trust_domain: trust_domain.to_owned(),
            sequence_number: 7,
            ..Default::default()
        };
        pb::types::FederationRelationship { trust_domain_bundle: Some(bundle), ..web() }
    }

    #[test]
    fn a_relationship_comes_back_as_it_was_given() {
        for message in [web(), spiffe("spiffe://third.org/spire/server"), bundled("other.org")] {
            let (relationship, bundle) = from_pb(&message).unwrap();
            assert_eq!(to_pb(&relationship, bundle.as_ref(), None), message);
        }
        let by_id = pb::types::FederationRelationship {
            trust_domain: "spiffe://other.org".into(),
            ..web()
        };
        assert_eq!(from_pb(&by_id), from_pb(&web()));
        let bundle_by_id = from_pb(&bundled("spiffe://other.org")).unwrap().1.unwrap();
        assert_eq!(bundle_by_id.sequence_number, 7);
    }

    #[test]
    fn what_the_mask_leaves_out_is_not_filled() {
        let (relationship, bundle) = from_pb(&bundled("other.org")).unwrap();
        let none = pb::types::FederationRelationshipMask::default();
        let masked = |mask| to_pb(&relationship, bundle.as_ref(), Some(&mask));
        let bare = pb::types::FederationRelationship {
            trust_domain: "other.org".to_owned(),
            ..Default::default()
        };
        assert_eq!(masked(none), bare);
        let mask = pb::types::FederationRelationshipMask { bundle_endpoint_url: true, ..none };
        let bundle_endpoint_url = web().bundle_endpoint_url;
        let expected = pb::types::FederationRelationship { bundle_endpoint_url, ..bare.clone() };
        assert_eq!(masked(mask), expected);
        let mask = pb::types::FederationRelationshipMask { bundle_endpoint_profile: true, ..none };
        let bundle_endpoint_profile = web().bundle_endpoint_profile;
        let expected =
            pb::types::FederationRelationship { bundle_endpoint_profile, ..bare.clone() };
        assert_eq!(masked(mask), expected);
        let mask = pb::types::FederationRelationshipMask { trust_domain_bundle: true, ..none };
        let trust_domain_bundle = bundled("other.org").trust_domain_bundle;
        assert_eq!(masked(mask), pb::types::FederationRelationship { trust_domain_bundle, ..bare });
    }

    #[test]
    fn a_bad_relationship_is_refused_in_spires_words() {
        let domain = |name: &str| pb::types::FederationRelationship {
            trust_domain: name.to_owned(),
            ..web()
        };
        let url = |url: &str| pb::types::FederationRelationship {
            bundle_endpoint_url: url.to_owned(),
            ..web()
        };
        let unprofiled =
            pb::types::FederationRelationship { bundle_endpoint_profile: None, ..web() };
        let table = [
            (domain(""), "failed to parse trust domain: trust domain is missing"),
            (
                domain("no td"),
                "failed to parse trust domain: trust domain characters are limited to lowercase \
                 letters, numbers, dots, dashes, and underscores",
            ),
            (url(""), "bundle endpoint URL must use the https scheme"),
            (url("http://other.org"), "bundle endpoint URL must use the https scheme"),
            (url("https://"), "bundle endpoint URL must specify the host"),
            (url("https://u:p@other.org"), "bundle endpoint URL must not contain user info"),
            (
                url("https://other.org:port"),
                "failed to parse bundle endpoint URL: parse \"https://other.org:port\": \
                 invalid port \":port\" after host",
            ),
            (unprofiled, "unsupported bundle endpoint profile type: <nil>"),
            (spiffe(""), "failed to parse endpoint SPIFFE ID: cannot be empty"),
            (
                spiffe("other.org"),
                "failed to parse endpoint SPIFFE ID: scheme is missing or invalid",
            ),
            (
                bundled("third.org"),
                "trust domain bundle (\"third.org\") must match the trust domain of the \
                 federation relationship (\"other.org\")",
            ),
            (bundled(""), "failed to parse bundle: invalid trust domain: trust domain is missing"),
        ];
        for (message, text) in table {
            assert_eq!(from_pb(&message).unwrap_err().to_string(), text);
        }
    }
}

//! The hash of the settings that should be the same on all members.
//!
//! Owns which those are: whatever makes two members answer the same call differently. Addresses,
//! folders, logging and plugins' files are a member's own. The hash is over lines `key=value`, so that
//! it stays the same between versions as long as the values do.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use steeple_spiffe_core::FederationRelationship;
use steeple_spiffe_core::federation::EndpointProfile as PeerProfile;

use super::federation::EndpointProfile;
use super::load::Config;

/// Hex digits of the hash that are shown: a difference must be seen, not proven.
const BYTES: usize = 8;

/// The hash of a configuration.
pub fn settings_hash(config: &Config) -> String {
    let hash = digest::digest(&digest::SHA256, lines(config).as_bytes());
    hash.as_ref().iter().take(BYTES).fold(String::new(), |mut hex, byte| {
        // Writing to a text cannot fail.
        write!(hex, "{byte:02x}").ok();
        hex
    })
}

fn lines(config: &Config) -> String {
    let (server, cluster) = (&config.server, &config.cluster);
    let authority = &server.authority;
    let ms = |time: std::time::Duration| time.as_millis().to_string();
    let attestors = config.plugins.attestors.iter().map(super::AttestorConfig::name);
    let attestors = attestors.collect::<std::collections::BTreeSet<_>>();
    let pairs = [
        ("trust_domain", server.trust_domain.to_string()),
        ("ca_ttl", ms(authority.ca_ttl)),
        ("ca_key_type", format!("{:?}", authority.ca_key_type)),
        ("jwt_key_type", format!("{:?}", authority.jwt_key_type)),
        ("default_x509_svid_ttl", ms(authority.default_x509_svid_ttl)),
        ("default_jwt_svid_ttl", ms(authority.default_jwt_svid_ttl)),
        ("agent_ttl", ms(authority.agent_ttl)),
        ("jwt_issuer", authority.jwt_issuer.clone().unwrap_or_default()),
        ("ca_subject", format!("{:?}", authority.ca_subject)),
        (
            "admin_ids",
            server.admin_ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        ),
        ("agent_pruning", format!("{:?}", server.agent_pruning)),
        ("settings", format!("{:?}", server.settings)),
        ("node_attestors", attestors.into_iter().collect::<Vec<_>>().join(" ")),
        ("name", cluster.name.clone()),
        ("voters_max", cluster.voters_max.to_string()),
        ("replace_dead_after", ms(cluster.replace_dead_after)),
        ("max_staleness", ms(cluster.max_staleness)),
        ("renew_only_delay", ms(cluster.renew_only_delay)),
        ("heartbeat_interval", ms(cluster.heartbeat_interval)),
    ];
    // A build that knows no composer says the same of the same settings.
    let composer = authority.unique_ids.then(|| ("unique_ids", "true".to_owned()));
    // Which files a member has is its own business, whether it signs by itself is not.
    let upstream = config.plugins.upstream.as_ref();
    let upstream = upstream.map(|upstream| ("upstream_authority", upstream.name().to_owned()));
    let endpoint = server.bundle_endpoint.as_ref();
    let hint = endpoint.map(|endpoint| ("refresh_hint", ms(endpoint.refresh_hint)));
    // One certificate is ordered for all.
    let acme = endpoint.and_then(|endpoint| match &endpoint.profile {
        EndpointProfile::HttpsWebAcme(settings) => Some(("acme", format!("{settings:?}"))),
        EndpointProfile::HttpsSpiffe | EndpointProfile::HttpsWeb { .. } => None,
    });
    // Whichever member leads fetches by its own file.
    let peers = server.federates_with.iter().map(relationship).collect::<Vec<_>>().join(" ");
    let peers = (!peers.is_empty()).then_some(("federates_with", peers));
    let wit = authority.wit_svids.then(|| {
        let issuer = authority.wit_issuer.clone().unwrap_or_default();
        ("wit_svids", format!("{:?} {issuer}", authority.wit_key_type))
    });
    let optional = composer.iter().chain(&upstream).chain(&hint).chain(&acme).chain(&peers);
    let optional = optional.chain(&wit);
    pairs.iter().chain(optional).map(|(key, value)| format!("{key}={value}\n")).collect()
}

fn relationship(relationship: &FederationRelationship) -> String {
    let FederationRelationship { trust_domain, endpoint_url, profile } = relationship;
    match profile {
        PeerProfile::HttpsWeb => format!("{trust_domain},{endpoint_url},https_web"),
        PeerProfile::HttpsSpiffe { endpoint_id } => {
            format!("{trust_domain},{endpoint_url},{endpoint_id}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunFlags, load_text};

    fn hash(server: &str, cluster: &str) -> String {
        let text = format!(
            "server {{\n trust_domain = \"example.org\"\n data_dir = \"/d\"\n {server}\n}}\n\
             cluster {{\n key_env = \"K\"\n {cluster}\n}}\nplugins {{\n}}\n"
        );
        settings_hash(&load_text(&text, &RunFlags::default()).unwrap())
    }

    fn federates_with(url: &str) -> String {
        format!(
            "federation {{\n federates_with \"b.test\" {{\n bundle_endpoint_url = {url:?}\n \
             bundle_endpoint_profile \"https_web\" {{}}\n}}\n}}"
        )
    }

    #[test]
    fn what_members_must_share_is_hashed_and_what_is_their_own_is_not() {
        let base = hash("", "");
        assert_eq!(base.len(), 2 * BYTES);
        for (server, cluster) in [
            ("ca_ttl = \"48h\"", ""),
            ("agent_ttl = \"2h\"", ""),
            ("jwt_key_type = \"rsa-2048\"", ""),
            (
                "federation { bundle_endpoint { port = 8443\nprofile \"https_web\" { acme { \
                 domain_name = \"a.test\" } } } }",
                "",
            ),
            ("", "voters_max = 3"),
            ("federation { bundle_endpoint { port = 8443 } }", ""),
            (&federates_with("https://b.test"), ""),
            ("experimental { feature_flags = [\"wit-svid\"] }", ""),
            ("", "max_staleness = \"1m\""),
            ("", "heartbeat_interval = \"80ms\""),
        ] {
            assert_ne!(hash(server, cluster), base, "{server} {cluster}");
        }
        let hash_of = |url: &str| hash(&federates_with(url), "");
        assert_ne!(hash_of("https://b.test"), hash_of("https://c.test"));
        for (server, cluster) in [
            ("bind_port = \"9\"", ""),
            ("log_level = \"DEBUG\"", ""),
            ("", "advertise_address = \"a:1\""),
            ("", "peers = [\"a:1\"]"),
        ] {
            assert_eq!(hash(server, cluster), base, "{server} {cluster}");
        }
    }
}

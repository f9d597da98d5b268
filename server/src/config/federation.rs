//! `server { federation { } }`: the bundle endpoint, and relationships with other trust domains.
//! Rules of `spec/spire-config.md` 2.2.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustls_pki_types::DnsName;
use steeple_federation::ServingFiles;
use steeple_federation::acme::{AcmeSettings, LETS_ENCRYPT_URL};
use steeple_hcl1::decode::Block;
use steeple_spiffe_core::federation::EndpointProfile as PeerProfile;
use steeple_spiffe_core::{EndpointUrl, FederationRelationship, SpiffeId, TrustDomain};

use super::error::{ConfigError, UnknownKey};
use super::load::Notice;
use super::section::Section;

/// What peers are told to wait between two fetches, where the file says nothing (SPIRE: the same).
const REFRESH_HINT: Duration = Duration::from_secs(300);

/// Clients fetch no more often, whatever they are told.
const REFRESH_HINT_MIN: Duration = Duration::from_secs(60);

/// From here on a revocation takes too long to be heard of.
const REFRESH_HINT_HIGH: Duration = Duration::from_secs(24 * 3600);

/// How often certificate files are looked at, where the file says nothing (SPIRE: the same).
const FILE_SYNC_INTERVAL: Duration = Duration::from_secs(3600);

/// `federation.bundle_endpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEndpointConfig {
    /// `address` and `port`.
    pub address: SocketAddr,
    /// `refresh_hint`; zero tells none.
    pub refresh_hint: Duration,
    /// `profile`.
    pub profile: EndpointProfile,
}

/// As whom the endpoint presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointProfile {
    /// By the server's own X.509-SVID.
    HttpsSpiffe,
    /// By a certificate of the web.
    HttpsWeb {
        /// `cert_file_path` and `key_file_path`.
        files: ServingFiles,
        /// `file_sync_interval`.
        sync_interval: Duration,
    },
    /// By a certificate of the web that the leader orders.
    HttpsWebAcme(AcmeSettings),
}

/// What the section says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FederationConfig {
    /// `bundle_endpoint`; `None` = none is served.
    pub(super) bundle_endpoint: Option<BundleEndpointConfig>,
    /// `federates_with`, by trust domain.
    pub(super) federates_with: Vec<FederationRelationship>,
}

/// Reads the section; `own` is the trust domain of the server.
pub(super) fn read(
    server: &Section<'_>,
    own: &TrustDomain,
    notices: &mut Vec<Notice>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<FederationConfig, ConfigError> {
    let Some(section) = server.section("federation")? else {
        return Ok(FederationConfig::default());
    };
    let endpoint = section.section("bundle_endpoint")?;
    let endpoint = endpoint.map(|endpoint| bundle_endpoint(&endpoint, notices, unknown));
    let blocks = section.block().labelled("federates_with");
    let mut federates_with = BTreeMap::new();
    for (name, block) in blocks.map_err(|error| ConfigError::decode("federation", error))? {
        let relationship = relationship(&name.text, block)?;
        if relationship.trust_domain == *own {
            // SPIRE fetches the server's own bundle, and overwrites it with itself.
            notices.push(Notice::warning(format!(
                "federates_with {:?} is the server's own trust domain and has no effect",
                name.text
            )));
            continue;
        }
        let trust_domain = relationship.trust_domain.clone();
        if federates_with.insert(trust_domain, relationship).is_some() {
            let text = format!("federation.federates_with[{:?}] is there twice", name.text);
            return Err(ConfigError::Missing(text));
        }
    }
    // SPIRE looks for unknown keys in the endpoint alone.
    for key in section.unknown() {
        notices
            .push(Notice::warning(format!("federation.{} is unknown and has no effect", key.key)));
    }
    let federates_with = federates_with.into_values().collect();
    Ok(FederationConfig { bundle_endpoint: endpoint.transpose()?, federates_with })
}

fn bundle_endpoint(
    section: &Section<'_>,
    notices: &mut Vec<Notice>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<BundleEndpointConfig, ConfigError> {
    let address = section.parsed::<IpAddr>("address")?.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let port = section.port("port")?.ok_or_else(|| {
        section.refuse("port", "must be configured: peers have to know it, for instance 8443")
    })?;
    let refresh_hint = section.duration("refresh_hint")?.unwrap_or(REFRESH_HINT);
    if refresh_hint >= REFRESH_HINT_HIGH {
        notices.push(Notice::warning(
            "Bundle endpoint refresh hint set to a high value: peers hear late of a revoked authority; \
             5m is a good one",
        ));
    }
    if refresh_hint < REFRESH_HINT_MIN {
        notices.push(Notice::warning(
            "Bundle endpoint refresh hint set too low: clients do not refresh more often than each minute",
        ));
    }
    let profile = profile(section, notices, unknown)?;
    section.collect_unknown(unknown);
    Ok(BundleEndpointConfig { address: SocketAddr::new(address, port), refresh_hint, profile })
}

fn profile(
    section: &Section<'_>,
    notices: &mut Vec<Notice>,
    unknown: &mut Vec<UnknownKey>,
) -> Result<EndpointProfile, ConfigError> {
    if let Some(old) = section.section("acme")? {
        if section.has("profile") {
            let text = "either bundle endpoint 'acme' or 'profile' can be set, but not both";
            return Err(section.refuse("acme", text));
        }
        notices.push(Notice::deprecated(
            "ACME configuration within the bundle_endpoint is deprecated. Please use ACME configuration \
             as part of the https_web profile instead.",
        ));
        let key = "federation.bundle_endpoint.acme";
        let missing = |name: &str| ConfigError::Missing(format!("{key}.{name} must be configured"));
        for name in ["domain_name", "email"] {
            old.string(name)?.ok_or_else(|| missing(name))?;
        }
        let settings = acme(&old, notices)?;
        old.collect_unknown(unknown);
        return Ok(EndpointProfile::HttpsWebAcme(settings));
    }
    let profiles = section.block().labelled("profile");
    let mut profiles = profiles.map_err(|error| ConfigError::decode("bundle_endpoint", error))?;
    if !section.has("profile") {
        notices.push(Notice::deprecated(
            "Bundle endpoint is configured but has no profile set, using https_spiffe as default; \
             please configure a profile explicitly",
        ));
        return Ok(EndpointProfile::HttpsSpiffe);
    }
    let (Some((label, block)), true) = (profiles.pop(), profiles.is_empty()) else {
        return Err(section.refuse("profile", "exactly one bundle endpoint profile is expected"));
    };
    let block = Section::new(format!("federation.bundle_endpoint.profile.{}", label.text), block);
    let profile = match label.text.as_str() {
        "https_spiffe" => EndpointProfile::HttpsSpiffe,
        "https_web" => https_web(&block, notices)?,
        _ => {
            let text = "unknown bundle endpoint profile configured; current supported profiles are \
                        \"https_spiffe\" and \"https_web\"";
            return Err(section.refuse("profile", text));
        }
    };
    unused(&block, notices);
    Ok(profile)
}

fn https_web(
    section: &Section<'_>,
    notices: &mut Vec<Notice>,
) -> Result<EndpointProfile, ConfigError> {
    // As in SPIRE, it wins over files.
    if let Some(block) = section.section("acme")? {
        let settings = acme(&block, notices)?;
        unused(&block, notices);
        return Ok(EndpointProfile::HttpsWebAcme(settings));
    }
    let Some(files) = section.section("serving_cert_file")? else {
        let text =
            "malformed https_web profile configuration: 'acme' or 'serving_cert_file' is required";
        return Err(section.refuse("serving_cert_file", text));
    };
    let path = |key: &str| {
        let path = files.string(key)?;
        path.ok_or_else(|| files.refuse(key, "must be configured")).map(Into::into)
    };
    let interval = files.duration("file_sync_interval")?.filter(|interval| !interval.is_zero());
    Ok(EndpointProfile::HttpsWeb {
        files: ServingFiles { certificate: path("cert_file_path")?, key: path("key_file_path")? },
        sync_interval: interval.unwrap_or(FILE_SYNC_INTERVAL),
    })
}

/// An `acme` section, in either of its places.
fn acme(section: &Section<'_>, notices: &mut Vec<Notice>) -> Result<AcmeSettings, ConfigError> {
    let directory_url = section.string("directory_url")?;
    let directory_url = directory_url.unwrap_or_else(|| LETS_ENCRYPT_URL.to_owned());
    if !directory_url.to_ascii_lowercase().starts_with("https://") {
        return Err(section.refuse("directory_url", "must begin with https://"));
    }
    let domain_name = section.string("domain_name")?.ok_or_else(|| {
        section
            .refuse("domain_name", "must be configured: the name by which peers reach the endpoint")
    })?;
    let domain_name = domain_name.to_ascii_lowercase();
    // A name with a dot, or none: servers of certificates take no other.
    if DnsName::try_from(domain_name.as_str()).is_err() || !domain_name.contains('.') {
        let text = format!(
            "{domain_name:?} is no host name: give one name in ASCII (xn--… for others), neither an \
             address nor a wildcard"
        );
        return Err(section.refuse("domain_name", text));
    }
    let tos_accepted = section.bool("tos_accepted")?.unwrap_or(false);
    if !tos_accepted {
        notices.push(Notice::warning(
            "ACME Terms of Service have not been accepted. See the `tos_accepted` configurable",
        ));
    }
    let email = section.string("email")?;
    Ok(AcmeSettings { directory_url, domain_name, email, tos_accepted })
}

/// Keys of a profile that nobody asked for: SPIRE does not look at them.
fn unused(section: &Section<'_>, notices: &mut Vec<Notice>) {
    for key in section.unknown() {
        notices.push(Notice::warning(format!(
            "{}.{} is unknown and has no effect",
            key.section, key.key
        )));
    }
}

/// A relationship of the file, with SPIRE's checks; its URL is checked as those of the API are.
fn relationship(name: &str, block: Block<'_>) -> Result<FederationRelationship, ConfigError> {
    let section = Section::new(format!("federation.federates_with[{name:?}]"), block);
    let wrong = |text: String| ConfigError::Missing(text);
    let trust_domain = TrustDomain::parse_name_or_id(name);
    let trust_domain = trust_domain.map_err(|error| wrong(format!("{name:?}: {error}")))?;
    let url = section.string("bundle_endpoint_url")?.unwrap_or_default();
    let key = format!("federation.federates_with[{name:?}].bundle_endpoint_url");
    if url.is_empty() {
        return Err(wrong(format!("{key} must be configured")));
    }
    if !url.to_ascii_lowercase().starts_with("https://") {
        return Err(wrong(format!("{key} must use the HTTPS protocol; URL found: {url:?}")));
    }
    let endpoint_url =
        EndpointUrl::parse(&url).map_err(|error| wrong(format!("{key}: {error}")))?;
    let profiles = section.block().labelled("bundle_endpoint_profile");
    let profiles = profiles.map_err(|error| ConfigError::decode("federates_with", error))?;
    let [(label, profile)] = profiles.as_slice() else {
        return Err(wrong(if profiles.is_empty() {
            format!(
                "federation configuration for trust domain {name:?}: missing bundle endpoint configuration"
            )
        } else {
            "exactly one bundle endpoint profile is expected".to_owned()
        }));
    };
    let profile = match label.text.as_str() {
        "https_web" => PeerProfile::HttpsWeb,
        "https_spiffe" => {
            let id = profile.string("endpoint_spiffe_id");
            let id = id.map_err(|error| ConfigError::decode("https_spiffe", error))?;
            let endpoint_id = SpiffeId::parse(&id.unwrap_or_default()).map_err(|error| {
                wrong(format!("{name:?}: could not get endpoint SPIFFE ID: {error}"))
            })?;
            PeerProfile::HttpsSpiffe { endpoint_id }
        }
        _ => {
            return Err(wrong(format!(
                "{name:?}: no bundle endpoint profile defined; current supported profiles are \
                 \"https_spiffe\" and \"https_web\""
            )));
        }
    };
    Ok(FederationRelationship { trust_domain, endpoint_url, profile })
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, RunFlags, load_text};

    use super::*;

    fn load(federation: &str) -> Result<Config, String> {
        let text = format!(
            "server {{\n trust_domain = \"example.org\"\n data_dir = \"/d\"\n\
             federation {{ {federation} }}\n}}\ncluster {{\n key_env = \"K\"\n}}\nplugins {{\n}}\n"
        );
        load_text(&text, &RunFlags::default()).map_err(|error| error.to_string())
    }

    fn endpoint(text: &str) -> Result<Config, String> {
        load(&format!("bundle_endpoint {{ port = 8443\n{text} }}"))
    }

    #[test]
    fn an_endpoint_has_an_address_a_hint_and_a_profile() {
        let files = "profile \"https_web\" { serving_cert_file { cert_file_path = \"/c\"\n\
                     key_file_path = \"/k\"\n";
        let web = |seconds: u64| EndpointProfile::HttpsWeb {
            files: ServingFiles { certificate: "/c".into(), key: "/k".into() },
            sync_interval: Duration::from_secs(seconds),
        };
        let spiffe = || EndpointProfile::HttpsSpiffe;
        for (text, address, hint, profile, warnings) in [
            ("", "0.0.0.0:8443", 300, spiffe(), 1),
            ("profile \"https_spiffe\" {}", "0.0.0.0:8443", 300, spiffe(), 0),
            ("profile { https_spiffe {} }\naddress = \"::1\"", "[::1]:8443", 300, spiffe(), 0),
            (
                "profile \"https_spiffe\" {}\nrefresh_hint = \"24h\"",
                "0.0.0.0:8443",
                86400,
                spiffe(),
                1,
            ),
            (
                "profile \"https_spiffe\" {}\nrefresh_hint = \"59s\"",
                "0.0.0.0:8443",
                59,
                spiffe(),
                1,
            ),
            (&format!("{files} }} }}"), "0.0.0.0:8443", 300, web(3600), 0),
            (
                &format!("{files} file_sync_interval = \"0s\" }} }}"),
                "0.0.0.0:8443",
                300,
                web(3600),
                0,
            ),
            (&format!("{files} file_sync_interval = \"5s\" }} }}"), "0.0.0.0:8443", 300, web(5), 0),
        ] {
            let config = endpoint(text).unwrap();
            let found = config.server.bundle_endpoint.clone().unwrap();
            assert_eq!(found.address, address.parse().unwrap(), "{text}");
            assert_eq!(found.refresh_hint, Duration::from_secs(hint), "{text}");
            assert_eq!(found.profile, profile, "{text}");
            let told = config.notices.iter().filter(|notice| notice.text.contains("ndpoint"));
            assert_eq!(told.count(), warnings, "{text}: {:?}", config.notices);
        }
        assert_eq!(load("").unwrap().server.bundle_endpoint, None);
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_fix() {
        for (text, expected) in [
            ("nope = 1", "\"nope\" in section server.federation.bundle_endpoint"),
            ("address = \"localhost\"", "server.federation.bundle_endpoint.address: invalid IP"),
            ("acme {}", "federation.bundle_endpoint.acme.domain_name must be configured"),
            (
                "acme { domain_name = \"a.test\" }",
                "federation.bundle_endpoint.acme.email must be configured",
            ),
            (
                "acme { domain_name = \"a.test\"\nemail = \"a@a.test\"\nnope = 1 }",
                "\"nope\" in section server.federation.bundle_endpoint.acme",
            ),
            (
                "acme {}\nprofile \"https_spiffe\" {}",
                "'acme' or 'profile' can be set, but not both",
            ),
            (
                "profile \"https_web\" { acme {} }",
                "acme.domain_name: must be configured: the name by which peers reach",
            ),
            (
                "profile \"https_web\" { acme { domain_name = \"10.0.0.1\" } }",
                "\"10.0.0.1\" is no host name",
            ),
            (
                "profile \"https_web\" { acme { domain_name = \"*.a.test\" } }",
                "\"*.a.test\" is no host name",
            ),
            (
                "profile \"https_web\" { acme { domain_name = \"a.test\"\n\
                 directory_url = \"http://a\" } }",
                "acme.directory_url: must begin with https://",
            ),
            ("profile \"https_web\" {}", "'acme' or 'serving_cert_file' is required"),
            (
                "profile \"https_web\" { serving_cert_file {} }",
                "cert_file_path: must be configured",
            ),
            ("profile \"x\" {}", "unknown bundle endpoint profile configured"),
            (
                "profile \"https_spiffe\" {}\nprofile \"https_web\" {}",
                "exactly one bundle endpoint profile",
            ),
        ] {
            let said = endpoint(text).unwrap_err();
            assert!(said.contains(expected), "{text}: {said}");
        }
        let said = load("bundle_endpoint {}").unwrap_err();
        assert!(said.contains("bundle_endpoint.port: must be configured"), "{said}");
    }

    #[test]
    fn a_certificate_is_ordered_where_spires_file_says_so() {
        let acme = |text: &str| {
            let config = endpoint(text).unwrap();
            let EndpointProfile::HttpsWebAcme(found) =
                config.server.bundle_endpoint.unwrap().profile
            else {
                panic!("{text}")
            };
            let told = config.notices.iter().filter(|one| one.text.contains("ACME"));
            (found, told.map(|one| one.text.clone()).collect::<Vec<_>>())
        };
        let (least, told) = acme("profile \"https_web\" { acme { domain_name = \"A.test\" } }");
        let expected = AcmeSettings {
            directory_url: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            domain_name: "a.test".to_owned(),
            email: None,
            tos_accepted: false,
        };
        assert_eq!(least, expected);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("ACME Terms of Service have not been accepted"), "{told:?}");
        let full = "domain_name = \"a.test\"\nemail = \"b@a.test\"\ntos_accepted = true\n\
                    directory_url = \"https://ca.test/dir\"";
        let expected = AcmeSettings {
            directory_url: "https://ca.test/dir".to_owned(),
            email: Some("b@a.test".to_owned()),
            tos_accepted: true,
            ..expected
        };
        let new = acme(&format!("profile \"https_web\" {{ acme {{ {full} }} }}"));
        assert_eq!(new, (expected.clone(), Vec::new()));
        let (old, told) = acme(&format!("acme {{ {full} }}"));
        assert_eq!(old, expected);
        assert!(
            told[0].starts_with("ACME configuration within the bundle_endpoint is deprecated.")
        );
        let config = endpoint(&format!("profile \"https_web\" {{ acme {{ {full}\nnope = 1 }} }}"));
        let told = config.unwrap().notices;
        assert!(told.iter().any(|one| one.text.contains("acme.nope is unknown")), "{told:?}");
    }

    #[test]
    fn relationships_of_the_file_are_checked_and_kept() {
        let with = |text: &str| load(&format!("federates_with \"other.test\" {{ {text} }}"));
        let url = "bundle_endpoint_url = \"https://other.test\"\n";
        for (text, expected) in [
            ("", "federates_with[\"other.test\"].bundle_endpoint_url must be configured"),
            (
                "bundle_endpoint_url = \"http://x\"",
                "must use the HTTPS protocol; URL found: \"http://x\"",
            ),
            (
                "bundle_endpoint_url = \"https://u:p@x\"",
                "bundle_endpoint_url: bundle endpoint URL must not contain user info",
            ),
            (url, "trust domain \"other.test\": missing bundle endpoint configuration"),
            (
                &format!("{url} bundle_endpoint_profile \"x\" {{}}"),
                "no bundle endpoint profile defined",
            ),
            (
                &format!("{url} bundle_endpoint_profile \"https_spiffe\" {{}}"),
                "could not get endpoint SPIFFE ID",
            ),
        ] {
            let said = with(text).unwrap_err();
            assert!(said.contains(expected), "{text}: {said}");
        }
        let endpoint_id = SpiffeId::parse("spiffe://other.test/x").unwrap();
        for (text, profile) in [
            ("\"https_web\" {}", PeerProfile::HttpsWeb),
            (
                "\"https_spiffe\" { endpoint_spiffe_id = \"spiffe://other.test/x\" }",
                PeerProfile::HttpsSpiffe { endpoint_id },
            ),
        ] {
            let config = with(&format!("{url} bundle_endpoint_profile {text}")).unwrap();
            let expected = FederationRelationship {
                trust_domain: TrustDomain::parse("other.test").unwrap(),
                endpoint_url: EndpointUrl::parse("https://other.test").unwrap(),
                profile,
            };
            assert_eq!(config.server.federates_with, [expected]);
        }
        let config = load("nope = 1").unwrap();
        assert!(config.notices.iter().any(|one| one.text.contains("federation.nope is unknown")));
    }

    #[test]
    fn a_trust_domain_is_federated_with_once_and_never_with_itself() {
        let block = |name: &str| {
            format!(
                "federates_with {name:?} {{\n bundle_endpoint_url = \"https://x.test\"\n \
                 bundle_endpoint_profile \"https_web\" {{}}\n}}\n"
            )
        };
        let own = load(&block("example.org")).unwrap();
        assert_eq!(own.server.federates_with, []);
        let told = own.notices.iter().any(|one| one.text.contains("own trust domain"));
        assert!(told, "{:?}", own.notices);
        let twice = [block("b.test"), block("spiffe://b.test")].concat();
        let said = load(&twice).unwrap_err();
        assert!(said.contains("federates_with[\"spiffe://b.test\"] is there twice"), "{said}");
        let two = load(&[block("c.test"), block("b.test")].concat()).unwrap();
        let names = two.server.federates_with.iter().map(|one| one.trust_domain.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["b.test", "c.test"]);
    }
}

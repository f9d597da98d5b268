//! What the old spellings become, and the walkthrough of 2019 word for word.

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::config::{Config, EndpointProfile, RunFlags, UpstreamConfig, load_text};
use crate::upstream::DiskSettings;

/// `spec/seeds.md` 2.4 step 3.
const FOO: &str = include_str!("../../fixtures/federation-2019.conf");

/// A plugin that this version lacks stands between the file and its start.
const PSAT: &str = "NodeAttestor \"k8s_psat\"";

fn load(text: &str) -> Result<Config, String> {
    load_text(text, &RunFlags::default()).map_err(|error| error.to_string())
}

fn deprecated(config: &Config) -> Vec<&str> {
    let old = config.notices.iter().filter(|notice| notice.deprecated);
    old.map(|notice| notice.text.as_str()).collect()
}

/// A file with these lines in `server` and `plugins`.
fn file(server: &str, plugins: &str) -> String {
    format!(
        "server {{\n trust_domain = \"foo.test\"\n data_dir = \"/d\"\n{server}\n}}\n\
         plugins {{\n{plugins}\n}}\n"
    )
}

fn translated(server: &str, plugins: &str) -> Body {
    let body = steeple_hcl1::parse(&file(server, plugins)).unwrap();
    translate(body, &mut Vec::new()).unwrap()
}

/// The relationships as they are read after the translation: name, URL, profile, endpoint id.
type Peer = (String, String, String, Option<String>);

fn read_peers(body: &Body) -> Vec<Peer> {
    let file = Block::of_file(body);
    let server = file.block("server").unwrap().unwrap();
    let Some(federation) = server.block("federation").unwrap() else { return Vec::new() };
    let all = federation.labelled("federates_with").unwrap().into_iter();
    all.map(|(label, peer)| {
        let url = peer.string("bundle_endpoint_url").unwrap().unwrap();
        let profiles = peer.labelled("bundle_endpoint_profile").unwrap();
        let [(profile, keys)] = profiles.as_slice() else { panic!("{profiles:?}") };
        assert!(!peer.has("bundle_endpoint"), "the old section is gone");
        let id = keys.string("endpoint_spiffe_id").unwrap();
        (label.text, url, profile.text.clone(), id)
    })
    .collect()
}

#[test]
fn the_configuration_of_2019_means_what_it_meant_with_one_warning_a_key() {
    // Word for word it ends at the plugin, and nowhere else.
    let refused = load(FOO).unwrap_err();
    assert!(refused.contains("plugins.NodeAttestor \"k8s_psat\": not supported"), "{refused}");
    for (own, peer) in [("foo", "bar"), ("bar", "foo")] {
        // The mirror image is bar's.
        let text = FOO.replace("foo", "OWN").replace("bar", peer).replace("OWN", own);
        let text = text.replace(PSAT, "NodeAttestor \"join_token\"");
        let config = load(&text).unwrap();
        let server = &config.server;
        assert_eq!(server.trust_domain.as_str(), format!("{own}.example.com"));
        let ttls = (server.authority.default_x509_svid_ttl, server.authority.ca_ttl);
        assert_eq!(ttls, (Duration::from_secs(3600), Duration::from_secs(12 * 3600)));
        assert_eq!(server.authority.default_jwt_svid_ttl, Duration::from_secs(300));
        let endpoint = server.bundle_endpoint.clone().unwrap();
        assert_eq!(endpoint.address, SocketAddr::from(([0, 0, 0, 0], 8443)));
        assert_eq!(endpoint.profile, EndpointProfile::HttpsSpiffe);
        let disk = DiskSettings {
            cert_file_path: "/run/spire/config/bootstrap.crt".into(),
            key_file_path: "/run/spire/secrets/bootstrap.key".into(),
            bundle_file_path: None,
        };
        assert_eq!(config.plugins.upstream, Some(UpstreamConfig::Disk(disk)));

        let old = format!("server.experimental.federates_with[\"{peer}.example.com\"]");
        let new = format!("server.federation.federates_with[\"{peer}.example.com\"]");
        let expected = [
            "server.experimental.bundle_endpoint_enabled is an old spelling: use server.federation \
             { bundle_endpoint { … profile \"https_spiffe\" {} } }"
                .to_owned(),
            "server.experimental.bundle_endpoint_port is an old spelling: use \
             server.federation.bundle_endpoint.port"
                .to_owned(),
            format!(
                "{old}.bundle_endpoint_address is an old spelling: use {new}.bundle_endpoint_url = \
                 \"https://spire-server.{peer}.svc.cluster.local:8443\""
            ),
            format!(
                "{old}.bundle_endpoint_port is an old spelling: use {new}.bundle_endpoint_url, \
                 which has the port"
            ),
            format!(
                "{old}.bundle_endpoint_spiffe_id is an old spelling: use \
                 {new}.bundle_endpoint_profile \"https_spiffe\" {{ endpoint_spiffe_id = \
                 \"spiffe://{peer}.example.com/spire/server\" }}"
            ),
            "UpstreamCA \"disk\" is an old spelling: use UpstreamAuthority \"disk\"".to_owned(),
            "plugins.UpstreamCA \"disk\".plugin_data.ttl is an old spelling: use server.ca_ttl, \
             which is 43200s by it"
                .to_owned(),
            "upstream_bundle is always on: drop the key".to_owned(),
            "svid_ttl is an old spelling and sets X509-SVIDs only: use default_x509_svid_ttl and \
             default_jwt_svid_ttl"
                .to_owned(),
            "NodeResolver \"noop\" does nothing: drop the block".to_owned(),
        ];
        assert_eq!(deprecated(&config), expected);
        let experimental = config.notices.iter().any(|one| one.text.contains("experimental feat"));
        assert!(!experimental, "nothing of it is left: {:?}", config.notices);
    }
    let body = translate(steeple_hcl1::parse(FOO).unwrap(), &mut Vec::new()).unwrap();
    let peer = (
        "bar.example.com".to_owned(),
        "https://spire-server.bar.svc.cluster.local:8443".to_owned(),
        "https_spiffe".to_owned(),
        Some("spiffe://bar.example.com/spire/server".to_owned()),
    );
    assert_eq!(read_peers(&body), [peer]);
}

#[test]
fn relationships_of_three_times_become_todays() {
    let today = |name: &str, url: &str, profile: &str, id: Option<&str>| {
        (name.to_owned(), url.to_owned(), profile.to_owned(), id.map(str::to_owned))
    };
    let (old, server) = ("experimental { federates_with", "spiffe://bar.test/spire/server");
    let web = "bundle_endpoint_address = \"bar.test\" use_web_pki = true";
    for (text, expected) in [
        (
            format!("{old} \"bar.test\" {{ bundle_endpoint_address = \"bar.test\" }} }}"),
            today("bar.test", "https://bar.test:443", "https_spiffe", Some(server)),
        ),
        (
            format!("{old} {{ \"spiffe://bar.test\" {{ bundle_endpoint_address = \"::1\" }} }} }}"),
            today("spiffe://bar.test", "https://[::1]:443", "https_spiffe", Some(server)),
        ),
        (
            format!("{old} \"bar.test\" {{ {web} }} }}"),
            today("bar.test", "https://bar.test:443", "https_web", None),
        ),
        (
            "federation { federates_with \"bar.test\" { bundle_endpoint { address = \"b\" port = \"1\"\
             \n spiffe_id = \"spiffe://x.test/e\" } } }"
                .to_owned(),
            today("bar.test", "https://b:1", "https_spiffe", Some("spiffe://x.test/e")),
        ),
    ] {
        assert_eq!(read_peers(&translated(&text, "")), [expected], "{text}");
        let config = load(&file(&text, "")).unwrap();
        let keys = text.matches(" = ").count();
        assert_eq!(deprecated(&config).len(), keys, "{text}: {:?}", config.notices);
    }
    // What is beside them stays.
    let mixed = "experimental { cache_reload_interval = \"1s\" federates_with \"a.test\" {\n\
                 bundle_endpoint_address = \"a\" } }\nfederation { federates_with \"b.test\" {\n\
                 bundle_endpoint_url = \"https://b\" bundle_endpoint_profile \"https_web\" {} } }";
    let names = read_peers(&translated(mixed, "")).into_iter().map(|(name, ..)| name);
    assert_eq!(names.collect::<Vec<_>>(), ["b.test", "a.test"]);
    let config = load(&file(mixed, "")).unwrap();
    assert!(config.notices.iter().any(|one| one.text.contains("cache_reload_interval")));
}

#[test]
fn json_is_translated_as_hcl_is() {
    let json = r#"{"server": [{"trust_domain": "foo.test", "data_dir": "/d", "experimental": [{
        "bundle_endpoint_enabled": true, "federates_with": {"bar.test": [{
        "bundle_endpoint_address": "bar.test", "bundle_endpoint_port": 8443}]}}]}],
        "plugins": {"UpstreamCA": [{"disk": {"plugin_data": {"ttl": "6h", "cert_file_path": "c",
        "key_file_path": "k"}}}]}}"#;
    let config = load(json).unwrap();
    assert_eq!(deprecated(&config).len(), 5, "{:?}", config.notices);
    assert_eq!(config.server.bundle_endpoint.unwrap().address.port(), OLD_PORT);
    assert_eq!(config.server.authority.ca_ttl, Duration::from_secs(6 * 3600));
    assert!(config.plugins.upstream.is_some());
    let body = translate(steeple_hcl1::parse(json).unwrap(), &mut Vec::new()).unwrap();
    let urls = read_peers(&body).into_iter().map(|(_, url, ..)| url);
    assert_eq!(urls.collect::<Vec<_>>(), ["https://bar.test:8443"]);
}

#[test]
fn an_endpoint_that_was_off_stays_off_and_says_so() {
    for (keys, warnings) in [
        ("bundle_endpoint_enabled = false", 1),
        ("bundle_endpoint_port = 8443", 1),
        ("bundle_endpoint_address = \"::\"\nbundle_endpoint_port = 8443", 2),
    ] {
        let config = load(&file(&format!("experimental {{ {keys} }}"), "")).unwrap();
        assert_eq!(config.server.bundle_endpoint, None, "{keys}");
        assert_eq!(deprecated(&config).len(), warnings, "{keys}: {:?}", config.notices);
    }
    let on = "experimental { bundle_endpoint_enabled = true bundle_endpoint_address = \"::1\" }";
    let config = load(&file(on, "")).unwrap();
    let address = config.server.bundle_endpoint.unwrap().address;
    assert_eq!(address, SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, OLD_PORT)));
}

#[test]
fn the_lifetime_of_plugin_disk_is_the_authoritys_unless_that_has_one() {
    let plugin = |kind: &str, keys: &str| {
        format!(
            "{kind} \"disk\" {{ {keys} plugin_data {{ ttl = \"12h\" cert_file_path = \"c\"\n\
             key_file_path = \"k\" }} }}"
        )
    };
    for (server, plugin, hours, warnings) in [
        ("", plugin("UpstreamAuthority", ""), 12, 1),
        ("ca_ttl = \"\"", plugin("UpstreamAuthority", ""), 12, 1),
        ("ca_ttl = \"48h\"", plugin("UpstreamAuthority", ""), 48, 1),
        ("ca_ttl = \"48h\"", plugin("UpstreamCA", ""), 48, 2),
        ("", plugin("UpstreamAuthority", "enabled = false"), 24, 0),
    ] {
        let config = load(&file(server, &plugin)).unwrap();
        let expected = Duration::from_secs(hours * 3600);
        assert_eq!(config.server.authority.ca_ttl, expected, "{server} {plugin}");
        assert_eq!(deprecated(&config).len(), warnings, "{server}: {:?}", config.notices);
    }
}

#[test]
fn allow_lists_of_clusters_are_found_under_their_old_name() {
    let plugin = "NodeAttestor \"k8s_psat\" { plugin_data { clusters = { \"c\" = {\n\
                  service_account_whitelist = [\"ns:sa\"] } } } }";
    let mut notices = Vec::new();
    let body = steeple_hcl1::parse(&file("", plugin)).unwrap();
    let body = translate(body, &mut notices).unwrap();
    let file = Block::of_file(&body);
    let plugins = file.block("plugins").unwrap().unwrap().paths(2).unwrap();
    let data = plugins[0].1.block("plugin_data").unwrap().unwrap();
    let clusters = data.labelled("clusters").unwrap();
    let listed = clusters[0].1.strings("service_account_allow_list").unwrap();
    assert_eq!((listed.as_slice(), notices.len()), (["ns:sa".to_owned()].as_slice(), 1));
    assert!(notices[0].text.contains("use service_account_allow_list"), "{notices:?}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of what is refused")]
fn what_would_change_its_meaning_is_refused_with_the_new_spelling() {
    let peer = "federates_with \"bar.test\" {\n bundle_endpoint_address = \"b\"";
    let new = "federates_with \"bar.test\" { bundle_endpoint_url = \"https://b\"\n\
               bundle_endpoint_profile \"https_web\" {}";
    let address = "bundle_endpoint { address = \"b\" }";
    for (server, plugins, expected) in [
        (
            "experimental { bundle_endpoint_enabled = true bundle_endpoint_acme {} }".to_owned(),
            "",
            "server.experimental.bundle_endpoint_acme: this spelling ended with SPIRE 0.12: use \
             server.federation { bundle_endpoint { profile \"https_web\"",
        ),
        (
            "experimental { bundle_endpoint_enabled = true }\nfederation { bundle_endpoint {} }"
                .to_owned(),
            "",
            "server.experimental.bundle_endpoint_enabled: use server.federation.bundle_endpoint alone",
        ),
        (
            format!("experimental {{ {peer} }} }}\nfederation {{ {new} }} }}"),
            "",
            "use server.federation.federates_with[\"bar.test\"] alone",
        ),
        (
            format!("federation {{ {new} {address} }} }}"),
            "",
            "federates_with[\"bar.test\"].bundle_endpoint: use bundle_endpoint_url alone",
        ),
        (
            "experimental { federates_with \"bar.test\" {} }".to_owned(),
            "",
            "federates_with[\"bar.test\"].bundle_endpoint_address: must be configured",
        ),
        (
            format!("experimental {{ {peer} nope = 1 }} }}"),
            "",
            "\"nope\" in section server.experimental.federates_with[\"bar.test\"]",
        ),
        (
            format!("experimental {{ {peer} bundle_endpoint_port = 70000 }} }}"),
            "",
            "bundle_endpoint_port: 70000 is no port",
        ),
        (
            format!(
                "experimental {{ {peer} use_web_pki = true bundle_endpoint_spiffe_id = \"spiffe://b/e\" }} }}"
            ),
            "",
            "bundle_endpoint_spiffe_id: is not allowed with use_web_pki",
        ),
        (
            "experimental { federates_with \"no domain\" { bundle_endpoint_address = \"b\" } }"
                .to_owned(),
            "",
            "federates_with: ",
        ),
        (
            String::new(),
            "UpstreamCA \"aws_pca\" {}",
            "is called UpstreamAuthority since SPIRE 0.11; write UpstreamAuthority \"aws_pca\"",
        ),
        (
            String::new(),
            "UpstreamCA \"disk\" {}\nUpstreamAuthority \"spire\" {}",
            "plugins.UpstreamCA \"disk\": use UpstreamAuthority alone",
        ),
        (
            String::new(),
            "NodeAttestor \"k8s_sat\" { plugin_data { clusters { c { service_account_whitelist = []\n\
             service_account_allow_list = [] } } } }",
            "use service_account_allow_list alone",
        ),
    ] {
        let said = load(&file(&server, plugins)).unwrap_err();
        assert!(said.contains(expected), "{expected:?} is not in {said:?}");
    }
}

//! What is accepted, what is refused and with which words.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::config::{AttestorConfig, KeySource, LogFormat, LogLevel, UpstreamConfig};
use crate::snapshots::ScheduleConfig;
use crate::upstream::{CertManagerSettings, Credential, VaultAuth};

/// A file with more lines in its sections.
fn file(server: &str, plugins: &str, rest: &str) -> String {
    format!(
        "server {{\n  trust_domain = \"example.org\"\n  data_dir = \"/data\"\n{server}\n}}\nplugins {{\n{plugins}\n}}\n{rest}\n"
    )
}

fn load(text: &str) -> Result<Config, ConfigError> {
    load_text(text, &RunFlags::default())
}

fn good(text: &str) -> Config {
    load(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn an_almost_empty_file_has_spires_defaults() {
    let config = good(&file("", "", ""));
    let server = &config.server;
    assert_eq!(server.trust_domain.as_str(), "example.org");
    assert_eq!(server.socket_path, PathBuf::from("/tmp/spire-server/private/api.sock"));
    assert_eq!((server.bind_address.as_str(), server.bind_port), ("0.0.0.0", 8081));
    assert_eq!(server.authority.ca_ttl, Duration::from_secs(24 * 3600));
    assert_eq!(server.authority.default_x509_svid_ttl, Duration::from_secs(3600));
    assert_eq!(server.authority.default_jwt_svid_ttl, Duration::from_secs(300));
    assert_eq!(server.authority.agent_ttl, Duration::from_secs(3600));
    assert!(server.limit_attestation && server.limit_signing);
    assert_eq!(server.log, Default::default());
    assert!(config.health.is_none() && config.telemetry.prometheus.is_none() && !config.hold);
    let cluster = &config.cluster;
    assert_eq!((cluster.name.as_str(), cluster.bind.is_none()), ("example.org", true));
    assert_eq!(cluster.key, KeySource::BesideData);
    assert_eq!(cluster.max_staleness, Duration::from_secs(600));
    assert_eq!(cluster.renew_only_delay, Duration::from_secs(30));
    assert!(config.notices.is_empty(), "{:?}", config.notices);
}

#[test]
fn the_examples_load_without_a_notice() {
    for text in [
        include_str!("../../examples/one-member.conf"),
        include_str!("../../examples/three-members.conf"),
    ] {
        let text = steeple_hcl1::expand_env(text, &|_| Some("server-0".to_owned()));
        let config = good(&text);
        let warned: Vec<_> =
            config.notices.iter().filter(|notice| !notice.text.starts_with("telemetry")).collect();
        assert!(warned.is_empty(), "{warned:?}");
    }
}

#[test]
fn json_and_hcl_say_the_same() {
    let json = r#"{
        "server": {"trust_domain": "example.org", "data_dir": "/data", "bind_port": "9081",
                   "ca_subject": [{"country": ["DE"], "organization": ["Acme"]}]},
        "plugins": {"DataStore": [{"sql": {"plugin_data": {"database_type": "sqlite3"}}}],
                    "KeyManager": {"memory": {"plugin_data": null}},
                    "NodeAttestor": {"join_token": {"plugin_data": {}}}}
    }"#;
    let hcl = file(
        "bind_port = 9081\nca_subject = { country = [\"DE\"], organization = [\"Acme\"], }",
        "DataStore \"sql\" { plugin_data { database_type = \"sqlite3\" } }\nKeyManager \"memory\" {}\nNodeAttestor \"join_token\" { plugin_data {} }",
        "",
    );
    let (json, hcl) = (good(json), good(&hcl));
    assert_eq!(json.server.bind_port, 9081);
    assert_eq!(json.server.bind_port, hcl.server.bind_port);
    assert_eq!(json.server.authority, hcl.server.authority);
    assert_eq!(json.plugins, hcl.plugins);
    assert_eq!(json.notices, hcl.notices);
}

#[test]
fn flags_win_over_the_file() {
    let flags = RunFlags {
        bind_address: Some("127.0.0.1".into()),
        server_port: Some(1),
        data_dir: Some("/other".into()),
        trust_domain: Some("other.org".into()),
        socket_path: Some("/s".into()),
        log_level: Some("DEBUG".into()),
        log_format: Some("json".into()),
        ..RunFlags::default()
    };
    let text = file("bind_port = 2\nlog_level = \"error\"", "", "");
    let server = load_text(&text, &flags).expect("loads").server;
    assert_eq!((server.bind_address.as_str(), server.bind_port), ("127.0.0.1", 1));
    assert_eq!(server.data_dir, PathBuf::from("/other"));
    assert_eq!(server.trust_domain.as_str(), "other.org");
    assert_eq!(server.socket_path, PathBuf::from("/s"));
    assert_eq!((server.log.level, server.log.format), (LogLevel::Debug, LogFormat::Json));
}

#[test]
fn what_is_not_needed_is_accepted_and_said() {
    let config = good(&file(
        "svid_ttl = \"2h\"\nupstream_bundle = true\nregistration_uds_path = \"/old\"\nfederation { bundle_endpoint { port = 8443 } }",
        "DataStore \"sql\" { plugin_data { database_type = \"sqlite3\" connection_string = \"x\" } }\n\
         KeyManager \"disk\" { plugin_data { keys_path = \"k\" } }\n\
         NodeResolver \"noop\" {}\n\
         Notifier \"k8sbundle\" { plugin_data {} }\n\
         NodeAttestor \"join_token\" {}\n\
         UpstreamAuthority \"disk\" { enabled = false plugin_data {} }",
        "",
    ));
    assert_eq!(config.server.authority.default_x509_svid_ttl, Duration::from_secs(7200));
    assert_eq!(config.server.authority.default_jwt_svid_ttl, Duration::from_secs(300));
    assert_eq!(config.server.socket_path, PathBuf::from("/old"));
    assert_eq!(config.plugins.attestors, [AttestorConfig::JoinToken]);
    for part in [
        "upstream_bundle is always on",
        "svid_ttl is an old spelling",
        "registration_uds_path is an old spelling",
        "has no profile set, using https_spiffe",
        "state is kept in DATA_DIR/raft; connection_string is not used",
        "KeyManager \"disk\" is not used",
        "NodeResolver \"noop\"",
        "Notifier \"k8sbundle\"",
    ] {
        let said = config.notices.iter().any(|notice| notice.text.contains(part));
        assert!(said, "{part} in {:?}", config.notices);
    }
}

#[test]
fn the_cluster_block_is_read_key_by_key() {
    let config = good(&file(
        "",
        "",
        "cluster {\n name = \"prod\"\n cluster_id = \"000102030405060708090a0b0c0d0e0f\"\n\
         bind_address = \"::1\"\n bind_port = 9082\n advertise_address = \"a:9082\"\n\
         peers = [\"a:9082\", \"b:9082\", \"c:9082\"]\n key_env = \"KEY\"\n voters_max = 3\n\
         replace_dead_after = \"10m\"\n max_staleness = \"5m\"\n barrier_timeout = \"2s\"\n\
         heartbeat_interval = \"100ms\"\n leave_on_terminate = true\n renew_only_delay = \"1s\"\n\
         snapshot { interval = \"30m\" keep = 7 directory = \"/b\" min_free = \"512MiB\" } }",
    ));
    let cluster = config.cluster;
    assert_eq!(cluster.name, "prod");
    assert_eq!(
        cluster.cluster_id.map(|id| id.to_string()).as_deref(),
        Some("000102030405060708090a0b0c0d0e0f")
    );
    assert_eq!(cluster.bind, Some(("::1".to_owned(), 9082)));
    assert_eq!(cluster.advertise_address, "a:9082");
    assert_eq!(cluster.peers, ["a:9082", "b:9082", "c:9082"]);
    assert_eq!(cluster.key, KeySource::Environment("KEY".into()));
    assert_eq!(cluster.voters_max, 3);
    assert_eq!(cluster.replace_dead_after, Duration::from_secs(600));
    assert_eq!(cluster.max_staleness, Duration::from_secs(300));
    assert_eq!(cluster.barrier_timeout, Duration::from_secs(2));
    assert_eq!(cluster.heartbeat_interval, Duration::from_millis(100));
    assert!(cluster.leave_on_terminate);
    assert_eq!(cluster.renew_only_delay, Duration::from_secs(1));
    let snapshot = ScheduleConfig {
        interval: Duration::from_secs(1800),
        keep: 7,
        directory: "/b".into(),
        min_free: 512 << 20,
    };
    assert_eq!(cluster.snapshot, Some(snapshot));
    let short = good(&file("", "", "cluster {\n snapshot { directory = \"/b\" }\n}"));
    let snapshot = ScheduleConfig {
        interval: Duration::from_secs(3600),
        keep: 24,
        directory: "/b".into(),
        min_free: 1 << 30,
    };
    assert_eq!(short.cluster.snapshot, Some(snapshot));
}

#[test]
fn vault_is_read_key_by_key_with_spires_defaults() {
    let read = |keys: &str| {
        let plugin = format!("UpstreamAuthority \"vault\" {{ plugin_data {{\n{keys}\n}} }}");
        let config = good(&file("", &plugin, ""));
        let Some(UpstreamConfig::Vault(settings)) = config.plugins.upstream else {
            panic!("no vault: {:?}", config.plugins)
        };
        (*settings, config.notices)
    };
    let warned =
        |notices: &[Notice]| notices.iter().any(|notice| notice.text.contains("its token"));
    let (settings, notices) = read("token_auth {\n token = \"t\"\n}");
    let token = VaultAuth::Token { token: Credential::new("t".to_owned()) };
    assert_eq!((settings.vault_addr, settings.pki_mount_point.as_str()), (None, "pki"));
    assert_eq!(settings.auth, token);
    assert!(!warned(&notices));
    let (settings, notices) = read(
        "vault_addr = \"http://v:1\"\nnamespace = \"ns\"\nca_cert_path = \"/ca\"\n\
         pki_mount_point = \"/a/b/\"\napprole_auth {\n approle_id = \"r\"\n}",
    );
    assert_eq!(settings.vault_addr.as_deref(), Some("http://v:1"));
    assert_eq!(settings.namespace.as_deref(), Some("ns"));
    assert_eq!(settings.ca_cert_path, Some("/ca".into()));
    assert_eq!(settings.pki_mount_point, "a/b");
    let VaultAuth::AppRole { mount_point, .. } = settings.auth else { panic!("another way") };
    assert_eq!(mount_point, "approle");
    assert!(warned(&notices), "the token goes in the clear");
    let (_, notices) = read("insecure_skip_verify = true\ncert_auth {}");
    assert!(warned(&notices), "anybody may be Vault");
}

#[test]
fn cert_manager_is_read_key_by_key_with_spires_defaults() {
    let read = |keys: &str| {
        let plugin = format!("UpstreamAuthority \"cert-manager\" {{ plugin_data {{\n{keys}\n}} }}");
        let config = good(&file("", &plugin, ""));
        let Some(UpstreamConfig::CertManager(settings)) = config.plugins.upstream else {
            panic!("no cert-manager: {:?}", config.plugins)
        };
        settings
    };
    let expected = CertManagerSettings {
        namespace: "spire".to_owned(),
        issuer_name: "root".to_owned(),
        issuer_kind: "Issuer".to_owned(),
        issuer_group: "cert-manager.io".to_owned(),
        kube_config_file: None,
    };
    assert_eq!(read("namespace = \"spire\"\nissuer_name = \"root\""), expected);
    // An empty text is none, as in SPIRE.
    let empty = "namespace = \"spire\"\nissuer_name = \"root\"\nissuer_kind = \"\"\n\
                 issuer_group = \"\"\nkube_config_file = \"\"";
    assert_eq!(read(empty), expected);
    let whole = read(
        "namespace = \"n-1\"\nissuer_name = \"i\"\nissuer_kind = \"ClusterIssuer\"\n\
         issuer_group = \"awspca.cert-manager.io\"\nkube_config_file = \"/k\"",
    );
    let expected = CertManagerSettings {
        namespace: "n-1".to_owned(),
        issuer_name: "i".to_owned(),
        issuer_kind: "ClusterIssuer".to_owned(),
        issuer_group: "awspca.cert-manager.io".to_owned(),
        kube_config_file: Some("/k".into()),
    };
    assert_eq!(whole, expected);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of what is wrong")]
fn what_is_wrong_is_refused_with_its_place_and_the_fix() {
    let server = |line: &str| file(line, "", "");
    let plugin = |line: &str| file("", line, "");
    let vault = |keys: &str| {
        plugin(&format!("UpstreamAuthority \"vault\" {{ plugin_data {{\n{keys}\n}} }}"))
    };
    let cert_manager = |keys: &str| {
        plugin(&format!("UpstreamAuthority \"cert-manager\" {{ plugin_data {{\n{keys}\n}} }}"))
    };
    let cluster = |line: &str| file("", "", &format!("cluster {{\n{line}\n}}"));
    let table = [
        (
            server("bind_port = 70000"),
            "at 4:13: server.bind_port: 70000 is no port; choose between 1 and 65535",
        ),
        (server("ca_ttl = \"1d\""), "at 4:10: server.ca_ttl:"),
        (server("ca_key_type = \"dsa\""), "server.ca_key_type: key type \"dsa\" is unknown"),
        (server("log_level = \"loud\""), "not a valid logrus Level"),
        (server("log_format = \"xml\""), "choose text or json"),
        (server("audit_log_enabled = \"true\""), "expected true or false without quotes"),
        (server("admin_ids = [\"x\"]"), "could not parse admin ID \"x\""),
        (
            server("svid_ttl = \"1h\"\ndefault_x509_svid_ttl = \"1h\""),
            "use default_x509_svid_ttl alone",
        ),
        (server("upstream_bundle = false"), "drop the key"),
        (server("proxy_protocol_trusted_cidrs = [\"10.0.0.0/8\"]"), "PROXY protocol"),
        (
            server("nonsense = 1"),
            "unknown configuration detected: \"nonsense\" in section server at 4:1",
        ),
        (server("ratelimit { nope = true }"), "\"nope\" in section server.ratelimit"),
        (file("", "", "nope {}"), "\"nope\" in section top-level"),
        (file("", "", "health_checks { nope = 1 }"), "\"nope\" in section health_checks"),
        (
            plugin("DataStore \"sql\" { plugin_data { database_type = \"mysql\" } }"),
            "without a database",
        ),
        (
            plugin("DataStore \"sql\" { plugin_data { database_type \"aws_postgresql\" {} } }"),
            "\"aws_postgresql\" is not supported",
        ),
        (plugin("DataStore \"sql\" { plugin_data {} }"), "database_type must be set"),
        (plugin("KeyManager \"aws_kms\" {}"), "external signers are not supported yet"),
        (
            plugin("CredentialComposer \"uniqueid\" { plugin_data { a = 1 } }"),
            "it has no settings: drop what is in plugin_data",
        ),
        (
            plugin("CredentialComposer \"nope\" {}"),
            "no built-in plugin \"nope\" for type \"CredentialComposer\"",
        ),
        (plugin("KeyManager \"nope\" {}"), "no built-in plugin \"nope\" for type \"KeyManager\""),
        (plugin("NodeAttestor \"k8s_psat\" {}"), "join_token and x509pop"),
        (
            plugin("NodeAttestor \"join_token\" {}\nNodeAttestor \"join_token\" {}"),
            "declared more than once",
        ),
        (plugin("NodeAttestor \"x509pop\" { plugin_cmd = \"/x\" }"), "external plugins"),
        (
            plugin("UpstreamAuthority \"disk\" {}"),
            "'cert_file_path' and 'key_file_path' must be set",
        ),
        (
            plugin(
                "UpstreamAuthority \"disk\" { plugin_data { cert_file_path = \"c\" key_file_path = \"\" } }",
            ),
            "'cert_file_path' and 'key_file_path' must be set",
        ),
        (
            plugin("UpstreamAuthority \"gcp_cas\" {}"),
            "which has disk, spire, vault and cert-manager",
        ),
        (plugin("UpstreamAuthority \"vault\" {}"), "add token_auth, cert_auth, approle_auth or"),
        (
            vault("token_auth { token = \"t\" }\ncert_auth {}"),
            "only one authentication method can be configured",
        ),
        (vault("k8s_auth { token_path = \"/t\" }"), "k8s_auth_role_name is required"),
        (vault("k8s_auth { k8s_auth_role_name = \"r\" }"), "token_path is required"),
        (vault("token_auth {}\npki_mount_point = \"a b\""), "\"a b\" is no mount point"),
        (vault("token_auth {}\npki_mount_point = \"/\""), "\"\" is no mount point"),
        (cert_manager("issuer_name = \"i\""), "configuration has empty namespace property"),
        (cert_manager("namespace = \"n\""), "configuration has empty issuer_name property"),
        (
            cert_manager("namespace = \"n\"\nissuer_name = [\"i\"]"),
            "UpstreamAuthority.cert-manager.plugin_data",
        ),
        (
            cert_manager("namespace = \"../n\"\nissuer_name = \"i\""),
            "\"../n\" is no namespace; write its name in small letters, digits and dashes",
        ),
        (plugin("UpstreamAuthority \"spire\" {}"), "server_address is required"),
        (
            plugin(
                "UpstreamAuthority \"spire\" { plugin_data { server_address = \"a\" server_port = \"x\" workload_api_socket = \"/s\" } }",
            ),
            "\"x\" is no port",
        ),
        (
            plugin(
                "UpstreamAuthority \"spire\" { plugin_data { server_address = \"a\" server_port = \"1\" workload_api_socket = \"/s\" experimental { require_pq_kem = true } } }",
            ),
            "drop the key",
        ),
        (plugin("UpstreamAuthority \"nope\" {}"), "no built-in plugin \"nope\""),
        (plugin("Nonsense \"x\" {}"), "unsupported plugin type \"Nonsense\""),
        (cluster("voters_max = 4"), "at 10:14: cluster.voters_max: 4 is not one of 1, 3, 5 and 7"),
        (
            cluster("heartbeat_interval = \"1ms\""),
            "1ms is out of range; choose between 10ms and 5s",
        ),
        (cluster("replace_dead_after = \"5s\""), "choose 0s (never) or at least 30s"),
        (cluster("peers = [\"a\"]"), "\"a\" is no address; write host:port"),
        (cluster("peers = [\"a:1\", \"a:1\"]"), "\"a:1\" is listed twice"),
        (cluster("peers = [\"a:1\", \"b:1\"]"), "spire-server cluster keygen"),
        (
            cluster("key_file = \"a\"\nkey_env = \"b\""),
            "set only one of key_file, key_env and key_command",
        ),
        (cluster("cluster_id = \"x\""), "32 hex digits"),
        (cluster("name = \"a b\""), "is no name"),
        (cluster("key_file = \"\""), "cluster.key_file: is empty; say where the cluster key is"),
        (cluster("key_env = \"\""), "cluster.key_env: is empty"),
        (cluster("key_command = []"), "cluster.key_command: is empty"),
        (cluster("key_command = [\"\"]"), "cluster.key_command: is empty"),
        (cluster("advertise_address = \"0.0.0.0:8082\""), "name one of this machine's"),
        (cluster("peers = [\"a:1\", \"[::]:1\"]"), "not one that others can reach"),
        (cluster("quorum = 2"), "\"quorum\" in section cluster"),
        (cluster("snapshot { every = \"1h\" }"), "\"every\" in section cluster.snapshot"),
        (cluster("snapshot { keep = 3 }"), "cluster.snapshot: directory is missing"),
        (
            cluster("snapshot { directory = \"/b\" keep = 0 }"),
            "cluster.snapshot.keep: out of range; choose between 1 and 10000",
        ),
        (
            cluster("snapshot { directory = \"/b\" min_free = \"1 GB\" }"),
            "\"1 GB\" is no size; write for instance \"1GiB\"",
        ),
        ("plugins {}".to_owned(), "server section must be configured"),
        (
            "server { trust_domain = \"a\" data_dir = \"b\" }".to_owned(),
            "plugins section must be configured",
        ),
        ("server { data_dir = \"b\" } plugins {}".to_owned(), "trust_domain must be configured"),
        ("server { trust_domain = \"a\" } plugins {}".to_owned(), "data_dir must be configured"),
        (
            "server { trust_domain = \"A B\" data_dir = \"b\" } plugins {}".to_owned(),
            "could not parse trust_domain \"A B\"",
        ),
        ("server {".to_owned(), "unable to decode configuration: at "),
    ];
    for (text, part) in table {
        let error = load(&text).expect_err(&text).to_string();
        assert!(error.contains(part), "{part:?} is not in {error:?} for\n{text}");
    }
}

#[test]
fn a_missing_file_is_named_with_its_absolute_path() {
    let flags = RunFlags { config: "no/such/file.conf".into(), ..RunFlags::default() };
    let error = super::load(&flags).expect_err("no file").to_string();
    assert!(error.starts_with("could not find config file /"), "{error}");
    assert!(error.ends_with("no/such/file.conf: please use the -config flag"), "{error}");
}

#[test]
fn lifetimes_that_rotation_would_cut_are_warned_of_in_spires_words() {
    let warned = |lines: &str| {
        let notices = good(&file(lines, "", "")).notices;
        notices.into_iter().map(|notice| notice.text).collect::<Vec<_>>()
    };
    let end = "to guarantee the full";
    let rest = "lifetime when CA rotations are scheduled.";
    let shorter = "SVIDs with shorter lifetimes may be issued. Please set";
    assert_eq!(
        warned("ca_ttl = \"6h\"\ndefault_x509_svid_ttl = \"2h\"\nagent_ttl = \"30m\""),
        [format!(
            "default_x509_svid_ttl is too high for the configured ca_ttl value. {shorter} \
             default_x509_svid_ttl to 1h or less, or the ca_ttl to 12h or more, {end} \
             default_x509_svid_ttl {rest}"
        )],
        "agent_ttl follows it where it is not set, and is not warned of by itself"
    );
    assert_eq!(
        warned("agent_ttl = \"200h\""),
        [format!(
            "agent_ttl is too high and the ca_ttl is too low. {shorter} agent_ttl to 168h or less, and \
             the ca_ttl to 1008h or more, {end} agent_ttl {rest}"
        )]
    );
    assert_eq!(
        warned("ca_ttl = \"2000h\"\ndefault_jwt_svid_ttl = \"200h\""),
        [format!(
            "default_jwt_svid_ttl is too high. {shorter} default_jwt_svid_ttl to 168h or less {end} \
             default_jwt_svid_ttl {rest}"
        )]
    );
    assert_eq!(warned("ca_ttl = \"168h\"\ndefault_x509_svid_ttl = \"28h\""), [""; 0]);
    assert_eq!(warned("default_x509_svid_ttl = \"5h\"").len(), 1, "agent_ttl is not set");
    let low = "default_x509_svid_ttl = \"5m\"\ndefault_jwt_svid_ttl = \"5m\"\nca_ttl = \"30m1s\"";
    assert_eq!(
        warned(low),
        [
            "ca_ttl is too low for slow agents: an authority signs 12m30s after it was published at the \
          latest, and an agent that backs off may need 13m to fetch it: raise ca_ttl"
        ]
    );
}

#[test]
fn a_ca_ttl_that_rotation_cannot_keep_up_with_is_refused() {
    let error = load(&file("ca_ttl = \"11s\"", "", "")).unwrap_err().to_string();
    assert!(error.starts_with("ca_ttl of 11s is too low") && error.contains("12s"), "{error}");
    good(&file("ca_ttl = \"12s\"", "", ""));
    assert_eq!(good(&file("ca_ttl = \"0s\"", "", "")).notices.len(), 0, "the default");
}

#[test]
fn a_refresh_hint_that_rotation_cannot_wait_for_is_warned_of() {
    let endpoint = "federation {\n bundle_endpoint {\n port = 8443\n profile \"https_spiffe\" {}\n";
    for (hint, warned) in [("5m", false), ("8h", false), ("11h", true), ("0s", false)] {
        let text = format!("{endpoint} refresh_hint = {hint:?}\n }}\n }}");
        let config = good(&file(&text, "", ""));
        let is_notice =
            config.notices.iter().any(|n| n.text.starts_with("refresh_hint is too high"));
        assert_eq!(is_notice, warned, "{hint}: {:?}", config.notices);
    }
}

#[test]
fn metrics_that_only_this_host_can_read_are_not_warned_of() {
    for (host, warned) in
        [("localhost", false), ("127.0.0.1", false), ("::1", false), ("0.0.0.0", true), ("a", true)]
    {
        let telemetry = format!("telemetry {{ Prometheus {{ host = {host:?} port = 9988 }} }}");
        let config = good(&file("", "", &telemetry));
        let is_notice = config.notices.iter().any(|n| n.text.contains("beyond this host"));
        assert_eq!(is_notice, warned, "{host}: {:?}", config.notices);
    }
}

#[test]
fn the_composer_of_unique_ids_is_a_setting_that_members_must_share() {
    let without = good(&file("", "", ""));
    let off = good(&file("", "CredentialComposer \"uniqueid\" { enabled = false }", ""));
    let with = good(&file("", "CredentialComposer \"uniqueid\" { plugin_data {} }", ""));
    assert!(with.server.authority.unique_ids);
    assert!(!without.server.authority.unique_ids && !off.server.authority.unique_ids);
    let hash = super::super::settings_hash;
    assert_eq!(hash(&without), hash(&off));
    assert_ne!(hash(&without), hash(&with));
}

//! Tests of the configuration: good files, bad files, flags over file.

use super::*;

const GOOD: &str = r#"
agent {
    data_dir = "./data"
    server_address = "spire-server"
    server_port = "8081"
    trust_domain = "example.org"
    trust_bundle_path = "/run/bundle.crt"
}
plugins {
    KeyManager "disk" { plugin_data { directory = "./data" } }
    NodeAttestor "join_token" { plugin_data {} }
    WorkloadAttestor "unix" { plugin_data = { discover_workload_path = true } }
}
"#;

fn flags(words: &[&str]) -> Flags {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    Flags::parse(&words).expect("flags")
}

fn parse(text: &str, words: &[&str]) -> Result<Config, String> {
    from_text(text, &flags(words)).map_err(|error| crate::upstream::chain(&error))
}

/// The good file with a line more in its `agent` block.
fn with(line: &str) -> String {
    GOOD.replacen("data_dir", &format!("{line}\n    data_dir"), 1)
}

fn without(key: &str) -> String {
    GOOD.lines().filter(|line| !line.trim().starts_with(key)).collect::<Vec<_>>().join("\n")
}

#[test]
fn defaults_are_those_of_spire() {
    let config = parse(GOOD, &[]).expect("good");
    assert_eq!(config.servers, [ServerAddress::new("spire-server", 8081).expect("address")]);
    assert_eq!(config.socket_path, Some("/tmp/spire-agent/public/api.sock".into()));
    assert_eq!(config.bootstrap, Bootstrap::File("/run/bundle.crt".into(), BundleFormat::Pem));
    assert_eq!(config.sync_interval, Duration::from_secs(5));
    assert_eq!((config.limits.x509_svids, config.limits.jwt_svids), (1000, 1000));
    assert_eq!(config.workload_key_type, KeyType::EcP256);
    assert_eq!(config.log.level, Level::INFO);
    assert_eq!(config.key_manager, KeyManagerKind::Disk("./data".into()));
    assert!(config.unix.discover_workload_path);
    assert!(config.health.is_none() && config.join_token.is_none());
    assert!(config.notices.is_empty() && config.deprecated.is_empty());
}

#[test]
fn json_is_read_as_charts_write_it() {
    let text = r#"{
        "agent": {"server_address": "a", "server_port": 8081, "trust_domain": "spiffe://example.org",
                  "insecure_bootstrap": true, "log_level": "WARN"},
        "health_checks": [{"listener_enabled": true, "bind_port": "9982", "bind_address": "0.0.0.0"}],
        "plugins": {"KeyManager": [{"memory": {"plugin_data": null}}],
                    "NodeAttestor": [{"join_token": {"plugin_data": {}}}],
                    "WorkloadAttestor": [{"unix": {"plugin_data": null}}]}
    }"#;
    let config = parse(text, &[]).expect("good");
    assert_eq!(config.bootstrap, Bootstrap::Insecure);
    assert_eq!(config.key_manager, KeyManagerKind::Memory);
    assert_eq!(config.log.level, Level::WARN);
    let health = config.health.expect("health");
    assert_eq!((health.address.as_str(), health.ready_path.as_str()), ("0.0.0.0:9982", "/ready"));
}

#[test]
fn flags_win_over_the_file() {
    let words = [
        "-serverAddress",
        "other",
        "-serverPort=9",
        "-trustDomain",
        "other.org",
        "-joinToken",
        "t",
        "-socketPath",
        "/s",
        "-dataDir",
        "/d",
        "-logLevel",
        "debug",
        "-logFormat",
        "json",
    ];
    let config = parse(GOOD, &words).expect("good");
    assert_eq!(config.servers, [ServerAddress::new("other", 9).expect("address")]);
    assert_eq!(config.trust_domain.as_str(), "other.org");
    assert_eq!(config.join_token.as_deref(), Some("t"));
    assert_eq!(config.socket_path, Some("/s".into()));
    assert_eq!(config.data_dir, PathBuf::from("/d"));
    assert_eq!((config.log.level, config.log.format), (Level::DEBUG, LogFormat::Json));
    let config = parse(
        &with("allow_unauthenticated_verifiers = true"),
        &["-allowUnauthenticatedVerifiers=false"],
    );
    assert!(config.expect("good").policy.allow_unauthenticated_verifiers, "a flag can't unset");
}

#[test]
fn several_servers_may_be_listed() {
    let list = "server_addresses = [\"a:1\", \"[::1]:2\"]";
    let text = without("server_").replacen("data_dir", &format!("{list}\n    data_dir"), 1);
    let config = parse(&text, &[]).expect("good");
    let texts: Vec<String> = config.servers.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["a:1", "[::1]:2"]);
    let error = parse(&with(list), &[]).expect_err("both");
    assert_eq!(error, "only one of server_address and server_addresses can be configured");
}

fn check_refusals(cases: &[(String, &str)]) {
    for (text, want) in cases {
        assert_eq!(&parse(text, &[]).expect_err(want), want);
    }
}

#[test]
fn wrong_values_are_refused_with_a_text_that_helps() {
    let cases = [
        (without("trust_domain"), "trust_domain must be configured"),
        (without("server_address"), "server_address must be configured"),
        (without("server_port"), "server_port must be configured"),
        (
            GOOD.replace("8081", "80810"),
            "server_port 80810 is not a port; use a number from 1 to 65535",
        ),
        (
            without("trust_bundle_path"),
            "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be \
             configured unless insecure_bootstrap is set",
        ),
        (
            with("insecure_bootstrap = true"),
            "only one of insecure_bootstrap, trust_bundle_path, and trust_bundle_url can be configured",
        ),
        (
            with("trust_bundle_url = \"http://x/\"").replace("trust_bundle_path", "join_token"),
            "trust bundle URL must start with https://",
        ),
        (
            with("trust_bundle_format = \"der\""),
            "invalid value for trust_bundle_format, expected \"pem\" or \"spiffe\", got \"der\"",
        ),
        (with("rebootstrap_mode = \"x\""), "unknown rebootstrap mode specified: x"),
        (
            with("rebootstrap_mode = \"auto\""),
            "rebootstrap_mode \"auto\" is not supported by this agent; use \"never\"",
        ),
        (with("availability_target = \"1h\""), "availability_target must be at least 24h0m0s"),
        (with("x509_svid_cache_max_size = -1"), "x509_svid_cache_max_size should not be negative"),
        (
            with("workload_x509_svid_key_type = \"rsa-4096\""),
            "workload_x509_svid_key_type \"rsa-4096\" is unknown; must be one of [rsa-2048, ec-p256, ec-p384]",
        ),
        (
            with("log_level = \"loud\""),
            "could not start logger: not a valid logrus Level: \"loud\"",
        ),
        (
            with("join_token = \"a\"\njoin_token_file = \"b\""),
            "only one of join_token or join_token_file can be specified, not both",
        ),
    ];
    check_refusals(&cases);
}

#[test]
fn unknown_keys_and_plugins_are_refused_with_their_place() {
    let cases = [
        (with("server_prot = 1"), "unknown agent configuration options: \"server_prot\" (at 3:5)"),
        (
            format!("{GOOD}\nserver {{ }}"),
            "unknown top-level configuration options: \"server\" (at 15:1)",
        ),
        (
            with("experimental { nope = 1 }"),
            "unknown experimental configuration options: \"nope\" (at 3:20)",
        ),
        (
            GOOD.replace("discover_workload_path", "discover"),
            "failed to configure plugin \"unix\": unknown configurations detected: discover (at 12:47)",
        ),
        (
            GOOD.replace("KeyManager \"disk\"", "KeyManager \"tape\""),
            "failed to load plugin \"tape\": no built-in plugin \"tape\" for type \"KeyManager\"",
        ),
        (
            GOOD.replace("\"unix\"", "\"k8s\""),
            "failed to load plugin \"k8s\": WorkloadAttestor \"k8s\" is not supported by this agent",
        ),
        (
            GOOD.replace("directory = \"./data\"", ""),
            "failed to configure plugin \"disk\": directory is required",
        ),
        (
            GOOD.replace(
                "\"join_token\" { plugin_data {}",
                "\"join_token\" { plugin_data { a = 1 }",
            ),
            "failed to configure plugin \"join_token\": no supported configuration interface found",
        ),
        (
            without("KeyManager"),
            "plugin type \"KeyManager\" constraint not satisfied: expected exactly 1 but got 0",
        ),
        (
            without("WorkloadAttestor"),
            "plugin type \"WorkloadAttestor\" constraint not satisfied: expected at least 1 but got 0",
        ),
    ];
    check_refusals(&cases);
}

#[test]
fn keys_without_effect_are_named() {
    let text = with("admin_socket_path = \"/x\"\nsds { default_svid_name = \"x\" }");
    let notices = parse(&text, &[]).expect("good").notices;
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices.iter().any(|notice| notice.starts_with("admin_socket_path has no effect")));
}

/// `spec/seeds.md` 2.4 step 7.
const OF_2019: &str = include_str!("../../fixtures/federation-2019.conf");

#[test]
fn the_configuration_of_2019_ends_at_plugins_that_this_agent_lacks_and_nowhere_else() {
    let refusal = parse(OF_2019, &[]).expect_err("k8s_psat");
    let missing = "NodeAttestor \"k8s_psat\" is not supported by this agent";
    assert!(refusal.contains(missing), "{refusal}");
    // Without what stands in a cluster of Kubernetes.
    let text = OF_2019.replace("\"k8s_psat\"", "\"join_token\"");
    let text = text.replace("cluster = \"spire-federation\"", "");
    let refusal = parse(&text, &[]).expect_err("k8s");
    assert!(refusal.contains("WorkloadAttestor \"k8s\" is not supported"), "{refusal}");
    let text =
        text.replace("WorkloadAttestor \"k8s\" {", "WorkloadAttestor \"k8s\" { enabled = false");
    let config = parse(&text, &[]).expect("good");
    assert_eq!(config.trust_domain.as_str(), "foo.example.com");
    assert_eq!(config.servers, [ServerAddress::new("spire-server", 8081).expect("address")]);
    assert_eq!(config.socket_path, Some("/run/spire/sockets/agent.sock".into()));
    assert_eq!(config.data_dir, PathBuf::from("/run/spire"));
    let bootstrap = Bootstrap::File("/run/spire/config/bootstrap.crt".into(), BundleFormat::Pem);
    assert_eq!(config.bootstrap, bootstrap);
    assert!(config.notices.is_empty() && config.deprecated.is_empty(), "{:?}", config.notices);
}

#[test]
fn the_old_switch_of_sds_may_be_on_and_not_off() {
    let config = parse(&with("enable_sds = true"), &[]).expect("good");
    assert_eq!(
        config.deprecated,
        [
            "enable_sds is an old key: drop it; Envoy's SDS API needs none, and is not served by this agent yet"
        ]
    );
    let refusal = parse(&with("enable_sds = false"), &[]).expect_err("off");
    let want = "at 3:18: enable_sds is not supported by this agent: it ended with SPIRE 0.12; use \
                disable_sds_api = true";
    assert_eq!(refusal, want);
}

#[test]
fn tokens_come_from_a_file_too() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("token");
    std::fs::write(&path, " abc\n").expect("write");
    let line = format!("join_token_file = {path:?}");
    let config = parse(&with(&line), &[]).expect("good");
    assert_eq!(config.join_token.as_deref(), Some("abc"));
    std::fs::write(&path, "\n").expect("write");
    assert_eq!(parse(&with(&line), &[]).expect_err("empty"), "join token file is empty");
}

#[test]
fn a_missing_file_is_named_with_its_absolute_path() {
    let error = load(&flags(&["-config", "/no/such/agent.conf"]), &|_| None).expect_err("missing");
    let want = "could not find config file /no/such/agent.conf: please use the -config flag";
    assert_eq!(error.to_string(), want);
}

#[test]
fn variables_are_expanded_only_when_asked() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("agent.conf");
    std::fs::write(&path, GOOD.replace("example.org", "${TD}")).expect("write");
    let path = path.to_str().expect("path");
    let lookup = |name: &str| (name == "TD").then(|| "expanded.org".to_owned());
    let config = load(&flags(&["-config", path, "-expandEnv"]), &lookup).expect("good");
    assert_eq!(config.trust_domain.as_str(), "expanded.org");
    assert!(load(&flags(&["-config", path]), &lookup).is_err());
}

#[test]
fn the_admin_socket_lies_outside_of_the_folder_of_the_workload_socket() {
    let refusal = "admin socket cannot be in the same directory or a subdirectory as that containing the Workload API socket";
    for (socket, admin, is_good) in [
        ("/run/a/api.sock", "/run/a/admin.sock", false),
        ("/run/a/api.sock", "/run/a/b/admin.sock", false),
        ("/run/a/api.sock", "/run/b/../a/admin.sock", false),
        ("a/api.sock", "./a/admin.sock", false),
        ("/run/a/api.sock", "/run/ab/admin.sock", true),
        ("/run/a/api.sock", "/run/admin.sock", true),
        ("/run/a/api.sock", "/run/a", true),
        ("/run/a/api.sock", "", true),
        ("/api.sock", "/admin.sock", true),
    ] {
        let lines = format!("socket_path = {socket:?}\nadmin_socket_path = {admin:?}");
        let result = parse(&with(&lines), &[]).map(drop);
        let want = if is_good { Ok(()) } else { Err(refusal.to_owned()) };
        assert_eq!(result, want, "{socket} {admin}");
    }
    let line = "disable_workload_api = true\nadmin_socket_path = \"/tmp/spire-agent/public/x\"";
    assert!(parse(&with(line), &[]).is_ok());
}

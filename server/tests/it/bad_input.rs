//! Bad input ends the process with exit code 1 and a sentence that says what to do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

use crate::process::{Place, run, stderr};

#[test]
fn a_bad_configuration_is_refused_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("server.conf");
    let table = [
        ("server {", "unable to decode configuration: at 1:"),
        (
            "server { trust_domain = \"a\" data_dir = \"b\" nope = 1 }\nplugins {}",
            "unknown configuration detected: \"nope\" in section server at 1:",
        ),
        (
            "server { trust_domain = \"a\" data_dir = \"b\" }\nplugins {}\ncluster { voters_max = 2 }",
            "at 3:24: cluster.voters_max: 2 is not one of 1, 3, 5 and 7",
        ),
    ];
    for (text, part) in table {
        fs::write(&path, text).expect("written");
        let config = path.display().to_string();
        let ran = run(&["run", "-config", &config]);
        assert_eq!(ran.status.code(), Some(1));
        assert!(stderr(&ran).contains(part), "{}", stderr(&ran));
        let validated = run(&["validate", "-config", &config]);
        assert_eq!(validated.status.code(), Some(1));
        let said = stderr(&validated);
        assert!(said.starts_with("SPIRE server configuration file is invalid: "), "{said}");
        assert!(said.contains(part), "{said}");
        assert!(said.matches("at 1:").count() <= 1, "the place is told once: {said}");
    }
}

#[test]
fn validate_says_that_a_good_file_is_good_and_what_a_plugin_dislikes() {
    let place = Place::new();
    let config = place.config().display().to_string();
    let good = run(&["validate", "-config", &config]);
    assert_eq!(good.status.code(), Some(0));
    assert_eq!(good.stdout, b"SPIRE server configuration file is valid.\n");

    place.write_config("plugins { NodeAttestor \"x509pop\" { plugin_data {} } }");
    let bad = run(&["validate", "-config", &config]);
    assert_eq!(bad.status.code(), Some(1));
    let said = stderr(&bad);
    assert!(said.contains("Validation errors:\n\tNodeAttestor \"x509pop\":\n\t\t"), "{said}");
    assert!(said.contains("ca_bundle_path"), "{said}");
}

#[test]
fn validate_warns_of_old_spellings_on_standard_error() {
    let place = Place::new();
    let config = place.config().display().to_string();
    place.write_config("server { svid_ttl = \"1h\" experimental { bundle_endpoint_port = 8443 } }");
    let good = run(&["validate", "-config", &config]);
    assert_eq!(good.status.code(), Some(0));
    assert_eq!(good.stdout, b"SPIRE server configuration file is valid.\n");
    let said = stderr(&good);
    let old = [
        "Warning: server.experimental.bundle_endpoint_port has no effect without ",
        "Warning: svid_ttl is an old spelling and sets X509-SVIDs only: ",
    ];
    assert!(said.lines().zip(old).all(|(line, old)| line.starts_with(old)), "{said}");
    assert_eq!(said.lines().count(), old.len(), "{said}");
}

#[test]
fn validate_warns_of_an_upstream_certificate_that_is_about_to_end() {
    let place = Place::new();
    let (config, folder) = (place.config().display().to_string(), place.folder.path());
    let (key, cert) = (folder.join("ca.key"), folder.join("ca.crt"));
    let plugin = format!(
        "plugins {{ UpstreamAuthority \"disk\" {{ plugin_data {{ key_file_path = {key:?} \
         cert_file_path = {cert:?} }} }} }}"
    );
    place.write_config(&plugin);
    // Half of its life is over, so only the nearness of its end counts.
    let validated_with_hours_left = |hours: i64| {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("a CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::hours(hours);
        params.not_after = now + time::Duration::hours(hours);
        let pair = KeyPair::generate().expect("a key");
        let signed = params.self_signed(&pair).expect("a certificate");
        fs::write(&key, pair.serialize_pem()).expect("written");
        fs::write(&cert, signed.pem()).expect("written");
        let validated = run(&["validate", "-config", &config]);
        assert_eq!(validated.status.code(), Some(0), "{}", stderr(&validated));
        assert_eq!(validated.stdout, b"SPIRE server configuration file is valid.\n");
        stderr(&validated)
    };
    assert_eq!(validated_with_hours_left(90 * 24), "");
    // Less than the day that authorities are to live.
    let said = validated_with_hours_left(20);
    let start = "Warning: the upstream certificate of this member ends at ";
    assert!(said.starts_with(start) && said.contains("; put a new CA certificate"), "{said}");
}

#[test]
fn validate_reads_the_file_of_the_cluster_key() {
    let place = Place::new();
    let key = place.folder.path().join("key");
    let config = place.config().display().to_string();
    place.write_config(&format!("cluster {{ key_file = {:?} }}", key.display().to_string()));
    let check = || run(&["validate", "-config", &config]);
    let missing = check();
    assert_eq!(missing.status.code(), Some(1));
    let said = stderr(&missing);
    let want = "Validation errors:\n\tcluster.key_file:\n\t\tcould not read cluster key file ";
    assert!(said.contains(want), "{said}");
    assert!(said.contains("cluster keygen\""), "{said}");

    let write = |text: &[u8]| {
        fs::write(&key, text).expect("written");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("closed");
    };
    write(b"no key");
    let said = stderr(&check());
    assert!(said.contains("\n\tcluster.key_file:\n\t\tcluster key from "), "{said}");
    write(&run(&["cluster", "keygen"]).stdout);
    assert_eq!(check().status.code(), Some(0));
}

#[test]
fn bad_flags_show_the_usage() {
    let output = run(&["run", "-nope"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("flag provided but not defined: -nope\nUsage of run:\n"), "{said}");
    let output = run(&["run", "-config", "/no/such/file"]);
    let said = stderr(&output);
    assert!(
        said.contains("could not find config file /no/such/file: please use the -config flag"),
        "{said}"
    );
}

#[test]
fn what_stands_in_the_way_of_a_start_is_named_with_the_fix() {
    let place = Place::new();
    let taken = TcpListener::bind(("127.0.0.1", place.api_port)).expect("the port");
    let said = place.fail();
    assert!(said.contains("change bind_address or bind_port"), "{said}");
    drop(taken);

    fs::create_dir_all(place.data("raft")).expect("made");
    fs::write(place.data("raft").join("precious"), "x").expect("written");
    let said = place.fail();
    assert!(said.contains("move what lies in DATA_DIR/raft elsewhere"), "{said}");
    assert!(place.data("raft").join("precious").exists());

    let place = Place::new();
    fs::write(place.folder.path().join("data"), "a file").expect("written");
    let said = place.fail();
    assert!(said.contains("could not create data_dir"), "{said}");
    assert!(said.contains("move away the file that is in its place"), "{said}");

    let place = Place::new();
    fs::create_dir_all(place.data("")).expect("made");
    fs::write(place.data("cluster.key"), "nonsense").expect("written");
    fs::set_permissions(
        place.data("cluster.key"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .expect("closed");
    let said = place.fail();
    assert!(said.contains("cluster key: line 1 is not 32 bytes in base64; copy"), "{said}");
}

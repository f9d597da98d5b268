//! `spire-agent validate` as a script sees it.

use std::fs;
use std::process::Command;

use crate::scene::{Scene, Settings};

#[test]
fn validate_says_whether_the_file_is_good_and_where_it_is_not() {
    let scene = Scene::new();
    let servers = vec!["127.0.0.1:8081".parse().expect("address")];
    let path = scene.write_config(&Settings { servers, ..Settings::default() });
    let validate = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spire-agent"));
        let output = command.arg("validate").arg("-config").arg(&path).output().expect("run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, stdout, _) = validate();
    assert_eq!((code, stdout.as_str()), (Some(0), "SPIRE agent configuration file is valid.\n"));

    let good = fs::read_to_string(&path).expect("read");
    let old = "agent {\n enable_sds = true\n admin_socket_path = \"/x/admin.sock\"";
    fs::write(&path, good.replacen("agent {", old, 1)).expect("write");
    let (code, stdout, stderr) = validate();
    assert_eq!((code, stdout.as_str()), (Some(0), "SPIRE agent configuration file is valid.\n"));
    let warnings: Vec<&str> = stderr.lines().collect();
    let want = [
        "Warning: enable_sds is an old key: drop it; Envoy's SDS API needs none, and is not served by this agent yet",
        "Warning: admin_socket_path has no effect: the admin API is not served by this agent yet",
    ];
    assert_eq!(warnings, want);

    fs::write(&path, good.replacen("trust_domain", "trust_domian", 1)).expect("write");
    let (code, stdout, stderr) = validate();
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let want = "SPIRE agent configuration file is invalid: unknown agent configuration options: \
                \"trust_domian\" (at 2:17)\n";
    assert_eq!(stderr, want);
}

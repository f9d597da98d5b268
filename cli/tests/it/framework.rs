//! What is the same for every command: dispatch, help, flags, sockets, exit codes.
//!
//! Owns the tables that no single command is tested with.

use steeple_api::pb::server::entry::v1::CountEntriesResponse;

use crate::driver::line;
use crate::fake::Fake;

#[tokio::test]
async fn without_a_known_command_help_goes_to_stderr_and_the_code_is_127() {
    for words in ["", "bogus", "bogus -x", "-x", "register -help"] {
        let outcome = line(&format!("spire-server {words}")).run().await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (127, ""), "{words:?}");
        assert!(outcome.stderr.starts_with("Usage: spire-server [--version] [--help] <command>"));
    }
    line("spire-server").run().await.matches("help-server");
    line("spire-agent").run().await.matches("help-agent");
}

#[tokio::test]
async fn help_of_the_program_succeeds() {
    for words in ["-h", "-help", "--help"] {
        let outcome = line(&format!("spire-agent {words}")).run().await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{words}");
        assert!(outcome.stderr.contains("\n    healthcheck    "), "{words}");
    }
}

#[tokio::test]
async fn the_version_goes_to_stderr() {
    for words in ["-v", "-version", "--version"] {
        let outcome = line(&format!("spire-server {words}")).run().await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{words}");
        assert_eq!(outcome.stderr, format!("{}\n", env!("CARGO_PKG_VERSION")), "{words}");
    }
}

#[tokio::test]
async fn a_group_alone_lists_its_commands_and_fails() {
    for words in ["token", "token bogus"] {
        line(&format!("spire-server {words}")).run().await.matches("help-group-token");
    }
    for words in ["token -h", "token --help"] {
        let outcome = line(&format!("spire-server {words}")).run().await;
        assert_eq!(outcome.code, 0, "{words}");
        assert!(outcome.stderr.contains("Usage of token generate:\n"), "{words}");
    }
    let outcome = line("spire-server entry").run().await;
    let (usages, list) = outcome.stderr.split_once("\nSubcommands:\n").expect("a list at the end");
    for command in ["count", "create", "delete", "show", "update"] {
        assert!(usages.contains(&format!("Usage of entry {command}:\n")), "{command}");
        assert!(list.contains(&format!("    {command}")), "{command}");
    }
    assert!(!list.contains("list"), "old spellings are not listed: {list}");
}

#[tokio::test]
async fn help_of_a_command_has_gos_layout_and_succeeds() {
    for flag in ["-h", "-help", "--help", "-spiffeID x -h"] {
        let outcome = line(&format!("spire-server token generate {flag}")).run().await;
        outcome.matches("help-token-generate");
    }
}

#[tokio::test]
async fn every_command_takes_the_common_flags() {
    let common = ["  -instance string\n", "  -socketPath string\n"];
    for (program, words, output) in [
        ("spire-server", "agent ban", true),
        ("spire-server", "agent purge", true),
        ("spire-server", "bundle show", true),
        ("spire-server", "cluster status", true),
        ("spire-server", "entry create", true),
        ("spire-server", "healthcheck", false),
        ("spire-server", "jwt mint", true),
        ("spire-server", "x509 mint", true),
        ("spire-agent", "api fetch", true),
        ("spire-agent", "api fetch jwt", true),
        ("spire-agent", "api validate jwt", true),
        ("spire-agent", "api watch", false),
        ("spire-agent", "healthcheck", false),
    ] {
        let usage = line(&format!("{program} {words} -h")).run().await.stderr;
        assert!(usage.starts_with(&format!("Usage of {words}:\n")), "{usage}");
        assert!(common.iter().all(|flag| usage.contains(flag)), "{words}: {usage}");
        assert_eq!(usage.contains("  -output value\n"), output, "{words}");
    }
}

#[tokio::test]
async fn bad_flags_are_refused_with_usage() {
    for (words, expected) in [
        ("entry show -foo", "flag provided but not defined: -foo"),
        ("entry show -spiffeid x", "flag provided but not defined: -spiffeid"),
        ("entry show -spiffeID", "flag needs an argument: -spiffeID"),
        (
            "entry create -x509SVIDTTL ten",
            "invalid value \"ten\" for flag -x509SVIDTTL: parse error",
        ),
        (
            "entry create -entryExpiry 9223372036854775808",
            "invalid value \"9223372036854775808\" for flag -entryExpiry: value out of range",
        ),
        ("entry create -admin=maybe", "invalid boolean value \"maybe\" for -admin: parse error"),
        ("agent purge -expiredFor 3", "invalid value \"3\" for flag -expiredFor: parse error"),
        (
            "entry show -output yaml",
            "invalid value \"yaml\" for flag -output: bad formatter flag: unknown format option: \"yaml\"",
        ),
        (
            "entry show -output json -output pretty",
            "invalid value \"pretty\" for flag -output: the output format has already been set to \"json\"",
        ),
    ] {
        let stderr = line(&format!("spire-server {words}")).run().await.failure();
        let command: Vec<_> = words.split(' ').take(2).collect();
        let head = format!("{expected}\nUsage of {}:\n", command.join(" "));
        assert!(stderr.starts_with(&head), "{words}: {stderr}");
        assert_eq!(stderr.matches(expected).count(), 1, "{words}: {stderr}");
    }
}

#[tokio::test]
async fn the_agents_api_commands_tell_a_bad_flag_twice() {
    for (words, times) in [
        ("api fetch -foo", 2),
        ("api fetch jwt -foo", 2),
        ("api validate jwt -foo", 2),
        ("healthcheck -foo", 1),
    ] {
        let stderr = line(&format!("spire-agent {words}")).run().await.failure();
        let expected = "flag provided but not defined: -foo\n";
        assert_eq!(stderr.matches(expected).count(), times, "{words}: {stderr}");
    }
}

#[tokio::test]
async fn words_that_nothing_reads_are_pointed_out() {
    let fake = Fake::start();
    fake.answer("count_entries", CountEntriesResponse { count: 2 });
    let outcome = line("spire-server entry count stray -downstream").on(&fake).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "2 registration entries\n"));
    assert!(outcome.stderr.starts_with("Warning: \"stray\" and everything after it is ignored"));
}

#[tokio::test]
async fn run_and_validate_belong_to_the_binary() {
    for (words, code, expected) in [
        ("spire-server run -config x", 7, "run [\"-config\", \"x\"]\n"),
        ("spire-server validate -h", 8, "validate [\"-h\"]\n"),
        ("spire-agent run", 7, "run []\n"),
        ("spire-agent validate --config y", 8, "validate [\"--config\", \"y\"]\n"),
    ] {
        let outcome = line(words).run().await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (code, expected), "{words}");
    }
}

#[test]
fn a_mounted_command_may_start_a_runtime_of_its_own() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let handler = |code| -> steeple_cli::Handler {
        Box::new(move |_| runtime().block_on(async move { code }))
    };
    let mounted = steeple_cli::Mounted { run: handler(5), validate: handler(6) };
    let args = vec!["run".to_owned()];
    assert_eq!(runtime().block_on(steeple_cli::server_main(args, mounted)), 5);
}

#[tokio::test]
async fn an_absent_socket_is_told_as_grpc_tells_it_with_a_hint() {
    let command = line("spire-server entry show -socketPath /nonexistent/api.sock");
    command.run().await.matches("socket-absent-server");
    let command = line("spire-agent api fetch -socketPath /nonexistent/api.sock");
    command.run().await.matches("socket-absent-agent");
}

/// Recorded from SPIRE 1.15.3: the first line of stderr, to the byte.
#[tokio::test]
async fn errors_of_sockets_files_and_filters_read_as_spires() {
    let absent = |before: &str, slashes: &str| {
        format!(
            "{before}rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial unix {slashes}/nonexistent/s: connect: no such file or directory\""
        )
    };
    let cases = [
        ("spire-server agent list", absent("Error: ", "//")),
        ("spire-server agent purge", absent("Error: failed to list agents: ", "//")),
        ("spire-server entry show", absent("Error: error fetching entries: ", "//")),
        ("spire-server entry show -entryID x", absent("Error: error fetching entry ID x: ", "//")),
        (
            "spire-server x509 mint -spiffeID spiffe://a.test/b",
            absent("Error: unable to mint SVID: ", "//"),
        ),
        (
            "spire-server jwt mint -spiffeID spiffe://a.test/b -audience a",
            absent("Error: unable to mint SVID: ", "//"),
        ),
        (
            "spire-server bundle delete -id spiffe://a.test",
            absent("Error: failed to delete federated bundle: ", "//"),
        ),
        ("spire-agent api fetch", absent("", "")),
        ("spire-agent api fetch jwt -audience a", absent("failed to receive JWT bundles: ", "")),
        (
            "spire-agent api validate jwt -audience a -svid x",
            absent("unable to validate JWT SVID: ", ""),
        ),
        (
            "spire-server entry create -data /nonexistent.json",
            "Error: open /nonexistent.json: no such file or directory".to_owned(),
        ),
        ("spire-server entry create -data /etc", "Error: read /etc: is a directory".to_owned()),
        (
            "spire-server agent list -selector bad",
            "Error: error parsing selector \"bad\": selector \"bad\" must be formatted as type:value"
                .to_owned(),
        ),
        (
            "spire-server agent count -selector a:b -matchSelectorsOn other",
            "Error: unsupported match behavior".to_owned(),
        ),
    ];
    for (words, expected) in cases {
        let outcome = line(&format!("{words} -socketPath /nonexistent/s")).run().await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{words}");
        assert_eq!(outcome.stderr.lines().next(), Some(expected.as_str()), "{words}");
    }
    let outcome = line("spire-server agent list -socketPath=").run().await;
    let expected = "Error: rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial unix: missing address\"\n";
    assert_eq!((outcome.code, outcome.stderr.as_str()), (1, expected));
}

#[tokio::test]
async fn a_socket_nobody_listens_on_is_told_apart() {
    let fake = Fake::start();
    let dead = fake.folder().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("the folder is ours"));
    let words = format!("spire-server entry show -socketPath {}", dead.display());
    let stderr = line(&words).run().await.failure();
    assert!(stderr.contains("connect: connection refused\"\n"), "{stderr}");
    assert!(stderr.contains("\nHint: nobody listens on "), "{stderr}");
}

#[tokio::test]
async fn the_socket_follows_flag_instance_and_environment() {
    let fake = Fake::start();
    let template = fake.folder().join("%i.sock").display().to_string();
    let socket = fake.socket().display().to_string();
    for (words, variable, value) in [
        (format!("-socketPath {socket}"), "UNUSED", ""),
        (format!("--socketPath={socket}"), "SPIRE_SERVER_PRIVATE_SOCKET", "/nonexistent"),
        ("-instance api".to_owned(), "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE", template.as_str()),
        (String::new(), "SPIRE_SERVER_PRIVATE_SOCKET", socket.as_str()),
    ] {
        fake.answer("count_entries", CountEntriesResponse { count: 2 });
        let command = line(&format!("spire-server entry count {words}")).variable(variable, value);
        assert_eq!(command.run().await.success(), "2 registration entries\n", "{words}");
    }
    for (words, expected) in [
        (
            "spire-server entry count -instance a",
            "Error: you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE to use the instance flag\n",
        ),
        (
            "spire-agent api fetch -instance a",
            " SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE environment variable must be defined when using the instance flag\n",
        ),
    ] {
        assert_eq!(line(words).run().await.failure(), expected);
    }
}

#[test]
fn every_golden_file_has_its_source_and_every_source_its_file() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let sources = std::fs::read_to_string(folder.join("SOURCES.md")).expect("the index exists");
    let rows = sources.lines().filter(|line| line.starts_with("| `"));
    let names = rows
        .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2));
    let mut named: Vec<String> = names.map(str::to_owned).collect();
    let files = std::fs::read_dir(folder).expect("the folder exists");
    let mut found: Vec<String> = files
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .filter_map(|file| file.strip_suffix(".txt").map(str::to_owned))
        .collect();
    named.sort();
    found.sort();
    assert_eq!(found, named);
}

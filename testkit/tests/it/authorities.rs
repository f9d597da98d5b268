//! Signing authorities by the commands an operator types, on three members, with an agent below them.

use std::error::Error as _;
use std::time::Duration;

use serde_json::Value;
use steeple_api::pb::server::entry::v1::GetAuthorizedEntriesRequest;
use steeple_api::pb::server::entry::v1::entry_client::EntryClient;
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_testkit::client::AttestedClient;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Agent, Cluster, ClusterSpec};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::bundles::{done, refused};
use crate::upstream::mint;

const SOON: Duration = Duration::from_secs(30);

/// The answer of `localauthority KIND WORDS` on a member.
fn ask(cluster: &Cluster, member: usize, kind: &str, words: &[&str]) -> Value {
    let args = [&["localauthority", kind], words].concat();
    cluster.member(member).unwrap().cli_json(&args).unwrap()
}

/// Activates a prepared authority, when all members answer that they know it: one that was started a
/// moment ago may not be asked in time.
async fn activate(cluster: &Cluster, member: usize, kind: &str, id: &str) {
    let activated = wait_for("the activation", SOON, async || {
        cluster.member(member)?.cli_json(&["localauthority", kind, "activate", "-authorityID", id])
    });
    activated.await.unwrap();
}

/// The id of the authority in a place.
fn id_of(cluster: &Cluster, member: usize, kind: &str, place: &str) -> String {
    let shown = ask(cluster, member, kind, &["show"]);
    let id = shown[place]["authority_id"].as_str();
    id.unwrap_or_else(|| panic!("no {place} {kind} authority: {shown}")).to_owned()
}

/// Names and taints of what the bundle holds of a kind, in order; the same on every member.
fn bundle(cluster: &Cluster, kind: &str) -> (u64, Vec<(String, bool)>) {
    let mut seen = Vec::new();
    for member in 0..3 {
        let bundle = cluster.member(member).unwrap().cli_json(&["bundle", "show"]).unwrap();
        let list = &bundle[if kind == "x509" { "x509_authorities" } else { "jwt_authorities" }];
        let name = if kind == "x509" { "asn1" } else { "key_id" };
        let all = list.as_array().unwrap().iter();
        let all = all
            .map(|one| (one[name].as_str().unwrap().to_owned(), one["tainted"].as_bool().unwrap()));
        let sequence = bundle["sequence_number"].as_str().unwrap().parse::<u64>().unwrap();
        seen.push((sequence, all.collect::<Vec<_>>()));
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
    seen.swap_remove(0)
}

fn taints(cluster: &Cluster, kind: &str) -> Vec<bool> {
    bundle(cluster, kind).1.into_iter().map(|(_, tainted)| tainted).collect()
}

/// Each refusal of a step with an authority that is not in the state for it: SPIRE's words, recorded
/// from 1.15.3. `{}` is the kind's name.
fn is_refused(cluster: &Cluster, member: usize, kind: &str, verb: &str, id: &str, why: &str) {
    let name = if kind == "x509" { "X.509" } else { "JWT" };
    let text = refused(cluster, member, &["localauthority", kind, verb, "-authorityID", id]);
    let why = why.replace("{}", name);
    assert_eq!(
        text,
        format!("Error: could not {verb} {name} authority: rpc error: code = {why}\n")
    );
}

/// What SPIRE says of each kind.
struct Words {
    revoke_active: &'static str,
    revoke_prepared: &'static str,
    revoke_untainted: &'static str,
    tainted_twice: &'static str,
    taint_revoked: &'static str,
    revoked_twice: &'static str,
}

const X509: Words = Words {
    revoke_active: "InvalidArgument desc = invalid authority ID: unable to use current authority",
    revoke_prepared: "InvalidArgument desc = invalid authority ID: only Old local authority can be revoked",
    revoke_untainted: "Internal desc = failed to revoke {} authority: it is not possible to revoke an untainted root CA",
    tainted_twice: "Internal desc = failed to taint {} authority: root CA is already tainted",
    taint_revoked: "Internal desc = failed to taint {} authority: no ca found with provided subject key ID",
    revoked_twice: "Internal desc = failed to revoke {} authority: no root CA found with provided subject key ID",
};

const JWT: Words = Words {
    revoke_active: "InvalidArgument desc = invalid authority ID: unable to use current authority",
    revoke_prepared: "InvalidArgument desc = invalid authority ID: unable to use a prepared key",
    revoke_untainted: "Internal desc = failed to revoke {} authority: it is not possible to revoke an untainted key",
    tainted_twice: "Internal desc = failed to taint {} authority: key is already tainted",
    taint_revoked: "Internal desc = failed to taint {} authority: no JWT Key found with provided key ID",
    revoked_twice: "Internal desc = failed to revoke {} authority: no JWT Key found with provided key ID",
};

/// The whole life of an authority, each step through another member, with every step that is out of
/// turn refused on the way.
async fn replace_compromised(cluster: &Cluster, kind: &str, words: &Words) {
    let first = id_of(cluster, 0, kind, "active");
    let (sequence, before) = bundle(cluster, kind);
    assert_eq!(before.len(), 1, "{before:?}");
    is_refused(
        cluster,
        0,
        kind,
        "activate",
        &first,
        "InvalidArgument desc = unexpected authority ID",
    );
    let current = "InvalidArgument desc = unable to taint current local authority";
    is_refused(cluster, 1, kind, "taint", &first, current);
    is_refused(cluster, 2, kind, "revoke", &first, words.revoke_active);

    let prepared = ask(cluster, 0, kind, &["prepare"]);
    let second = prepared["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    assert_eq!(id_of(cluster, 1, kind, "prepared"), second);
    assert_eq!(bundle(cluster, kind).0, sequence + 1);
    assert_eq!(taints(cluster, kind), [false, false]);
    let prepared = "InvalidArgument desc = only Old local authorities can be tainted: unsupported \
                    local authority status: PREPARED";
    is_refused(cluster, 1, kind, "taint", &second, prepared);
    is_refused(cluster, 2, kind, "revoke", &second, words.revoke_prepared);

    activate(cluster, 1, kind, &second).await;
    assert_eq!(id_of(cluster, 2, kind, "active"), second);
    assert_eq!(id_of(cluster, 0, kind, "old"), first);
    is_refused(
        cluster,
        2,
        kind,
        "activate",
        &second,
        "InvalidArgument desc = unexpected authority ID",
    );
    let old = "Internal desc = only Prepared authorities can be activated: unsupported local authority \
               status: OLD";
    is_refused(cluster, 0, kind, "activate", &first, old);
    is_refused(cluster, 1, kind, "revoke", &first, words.revoke_untainted);

    ask(cluster, 2, kind, &["taint", "-authorityID", &first]);
    assert_eq!(bundle(cluster, kind).0, sequence + 2);
    assert_eq!(taints(cluster, kind), [true, false]);
    is_refused(cluster, 0, kind, "taint", &first, words.tainted_twice);

    ask(cluster, 0, kind, &["revoke", "-authorityID", &first]);
    let (last, left) = bundle(cluster, kind);
    assert_eq!((last, left.len()), (sequence + 3, 1));
    assert_ne!(left, before);
    assert_eq!(id_of(cluster, 1, kind, "old"), first, "SPIRE goes on showing it");
    is_refused(cluster, 2, kind, "taint", &first, words.taint_revoked);
    is_refused(cluster, 1, kind, "revoke", &first, words.revoked_twice);
}

/// The root under which a workload's SVID was signed, by the authority key id that it names.
fn signer_of(agent: &Agent) -> anyhow::Result<String> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_str().unwrap_or_default();
    let output = agent.cli(&["api", "fetch", "x509", "-write", path])?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pem = std::fs::read_to_string(folder.path().join("svid.0.pem"))?;
    let chain = steeple_spiffe_core::pem::decode_certificates(&pem)?;
    let facts = certificate_facts(&chain[0])?;
    Ok(facts.authority_key_id.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_goes_from_prepared_to_revoked_through_any_member() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster =
        Cluster::start(&folder.path().join("cluster"), &ClusterSpec::default()).await.unwrap();
    replace_compromised(&cluster, "jwt", &JWT).await;
    replace_compromised(&cluster, "x509", &X509).await;

    // It is all in the log: another leader, and a member that was away, know the same.
    let leader = cluster.leader(SOON).await.unwrap();
    let before = (bundle(&cluster, "x509"), id_of(&cluster, leader, "x509", "old"));
    cluster.kill_member(leader).unwrap();
    let other = (leader + 1) % 3;
    let third = ask(&cluster, other, "x509", &["prepare"]);
    let third = third["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    cluster.start_member(leader).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    activate(&cluster, leader, "x509", &third).await;
    assert_eq!(bundle(&cluster, "x509").0, before.0.0 + 1);
    let oldest = before.1;
    let unknown = "InvalidArgument desc = unexpected authority ID";
    is_refused(&cluster, leader, "x509", "taint", &oldest, unknown);
    let shown = done(&cluster, leader, &["cluster", "status"]);
    assert!(shown.contains(" revoked "), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_replaces_what_a_tainted_authority_signed_and_never_stops_serving() {
    let folder = tempfile::tempdir().unwrap();
    let cluster =
        Cluster::start(&folder.path().join("cluster"), &ClusterSpec::default()).await.unwrap();
    let token = cluster.member(0).unwrap().cli_json(&["token", "generate"]).unwrap();
    let token = token["value"].as_str().unwrap().to_owned();
    let parent = format!("spiffe://example.org/spire/agent/join_token/{token}");
    let mut agent =
        Agent::start(&folder.path().join("agent"), &cluster, &[2, 1, 0], &token, "").await.unwrap();
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let web = "spiffe://example.org/web";
    let create = ["entry", "create", "-parentID", &parent, "-spiffeID", web, "-selector", &uid];
    done(&cluster, 1, &create);

    let first = id_of(&cluster, 0, "x509", "active");
    let signed_by = async |agent: &Agent, id: &str| {
        let what = format!("an SVID under {id}");
        let waited = wait_for(&what, SOON, async || {
            let signer = signer_of(agent)?;
            anyhow::ensure!(signer == id, "it is under {signer}");
            Ok(())
        });
        waited.await.unwrap();
    };
    signed_by(&agent, &first).await;

    let second = ask(&cluster, 1, "x509", &["prepare"]);
    let second = second["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    ask(&cluster, 2, "x509", &["activate", "-authorityID", &second, "-force"]);
    // Nothing is replaced for a mere rotation.
    assert_eq!(signer_of(&agent).unwrap(), first);
    ask(&cluster, 0, "x509", &["taint", "-authorityID", &first]);
    signed_by(&agent, &second).await;
    // The agent's own as well: it is still let in when the old root is gone.
    let rotated = wait_for("the agent's own SVID", SOON, async || {
        let log = agent.log_text();
        anyhow::ensure!(log.contains("Agent SVID is tainted by a root authority"), "not yet");
        let renewed = log.matches("Successfully rotated agent SVID").count();
        anyhow::ensure!(renewed > 0, "not renewed");
        Ok(())
    });
    rotated.await.unwrap();
    ask(&cluster, 0, "x509", &["revoke", "-authorityID", &first]);
    let api = "spiffe://example.org/api";
    let create = ["entry", "create", "-parentID", &parent, "-spiffeID", api, "-selector", &uid];
    done(&cluster, 2, &create);
    let served = wait_for("an SVID after the revocation", SOON, async || {
        let output = agent.cli(&["api", "fetch", "x509"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(output.status.success() && text.contains(api), "{text}");
        Ok(())
    });
    served.await.unwrap();
    assert!(agent.process().is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_jwt_svids_disabled_no_jwt_key_is_made_and_the_server_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let server_lines = "  disable_jwt_svids = true\n".to_owned();
    let spec = ClusterSpec { members: 1, server_lines, ..ClusterSpec::default() };
    let cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    let bundle = cluster.member(0).unwrap().cli_json(&["bundle", "show"]).unwrap();
    assert_eq!(bundle["x509_authorities"].as_array().map(Vec::len), Some(1), "{bundle}");
    assert_eq!(bundle["jwt_authorities"].as_array().map_or(0, Vec::len), 0, "{bundle}");
    let mint = ["jwt", "mint", "-spiffeID", "spiffe://example.org/w", "-audience", "a"];
    for words in [&mint[..], &["localauthority", "jwt", "show"], &["cluster", "rotate", "jwt"]] {
        let text = refused(&cluster, 0, words);
        assert!(text.contains("JWT functionality is disabled"), "{words:?}: {text}");
    }
    let said = std::fs::read_to_string(cluster.member(0).unwrap().log()).unwrap();
    assert!(said.contains("JWT-SVID profile is disabled"), "{said}");
}

/// Asks as an agent does at each sync.
async fn sync(channel: &Channel) -> Result<(), Status> {
    let mut entries = EntryClient::new(channel.clone());
    entries.get_authorized_entries(GetAuthorizedEntriesRequest::default()).await.map(drop)
}

/// An agent that asks no member for anything but what a test asks for.
async fn attested(cluster: &Cluster) -> AttestedClient {
    let token = cluster.member(0).unwrap().cli_json(&["token", "generate"]).unwrap();
    let ports: Vec<u16> = cluster.members().iter().map(|member| member.api_port).collect();
    AttestedClient::attest(&ports, token["value"].as_str().unwrap()).await.unwrap()
}

/// What a member answers, as soon as it is not that there is no leader just now.
async fn answer(channel: &Channel) -> Result<(), Status> {
    let answered = wait_for("an answer", SOON, async || match sync(channel).await {
        Err(status) if status.code() == Code::Unavailable => Err(status.into()),
        answer => Ok(answer),
    });
    answered.await.unwrap()
}

async fn all_serve(agent: &AttestedClient) {
    for channel in agent.channels() {
        answer(channel).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_revocation_open_connections_are_worth_no_more_than_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let cluster =
        Cluster::start(&folder.path().join("cluster"), &ClusterSpec::default()).await.unwrap();
    let (before, first) = (attested(&cluster).await, id_of(&cluster, 0, "x509", "active"));
    all_serve(&before).await;
    let prepared = ask(&cluster, 1, "x509", &["prepare"]);
    let second = prepared["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    ask(&cluster, 2, "x509", &["activate", "-authorityID", &second, "-force"]);
    let signs = wait_for("a signature by the new authority", SOON, async || {
        let chain = mint(&cluster, 0, folder.path())?;
        let signer = certificate_facts(&chain[0])?.authority_key_id;
        let signer: String = signer.iter().map(|byte| format!("{byte:02x}")).collect();
        anyhow::ensure!(signer == second, "{signer}");
        Ok(())
    });
    signs.await.unwrap();
    let after = attested(&cluster).await;
    all_serve(&after).await;

    // This agent is told of the taint and does nothing about it.
    ask(&cluster, 0, "x509", &["taint", "-authorityID", &first]);
    all_serve(&before).await;
    ask(&cluster, 0, "x509", &["revoke", "-authorityID", &first]);
    for channel in before.channels() {
        let refused = wait_for("a member that knows of the revocation", SOON, async || {
            answer(channel).await.err().ok_or_else(|| anyhow::anyhow!("it is let in"))
        });
        let status = refused.await.unwrap();
        let method = "/spire.api.server.entry.v1.Entry/GetAuthorizedEntries";
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert_eq!(status.message(), format!("authorization denied for method {method}"));
        assert!(status.details().is_empty(), "nothing for which an agent throws its SVID away");
        // It is asked to connect anew, and there the handshake fails.
        let gone = wait_for("the end of the connection", SOON, async || {
            let status = sync(channel).await.err();
            let is_unasked = status.as_ref().is_some_and(|status| status.source().is_some());
            anyhow::ensure!(is_unasked, "{status:?}");
            Ok(())
        });
        gone.await.unwrap();
    }
    all_serve(&after).await;
}

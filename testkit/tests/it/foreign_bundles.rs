//! Foreign bundles at workloads: those that their own entries name, in every API and on every open
//! stream, and no others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use steeple_api::pb;
use steeple_api::pb::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::bundle::{Bundle, document};
use steeple_testkit::client::unix_channel;
use steeple_testkit::process::{binary, wait_for};
use steeple_testkit::{Agent, Cluster, ClusterSpec, Process};
use tonic::transport::Channel;
use tonic::{Code, Request, Streaming};

use crate::bundles::done;

const SOON: Duration = Duration::from_secs(30);

/// The other trust domain as the Workload API names it.
const BAR: &str = "spiffe://bar.test";

fn asking<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

/// Reads a stream until an answer is as wanted.
async fn until<M>(stream: &mut Streaming<M>, what: &str, is_wanted: impl Fn(&M) -> bool) {
    let read = async {
        loop {
            let answer = stream.message().await.unwrap().expect("the stream goes on");
            if is_wanted(&answer) {
                return;
            }
        }
    };
    let waited = tokio::time::timeout(SOON, read).await;
    waited.unwrap_or_else(|_elapsed| panic!("waited for {what}"));
}

/// A workload of this process and its open streams.
struct Workload {
    client: SpiffeWorkloadApiClient<Channel>,
    svids: Streaming<pb::workload::X509svidResponse>,
    roots: Streaming<pb::workload::X509BundlesResponse>,
    keys: Streaming<pb::workload::JwtBundlesResponse>,
}

impl Workload {
    async fn open(agent: &Agent) -> Self {
        let mut client = SpiffeWorkloadApiClient::new(unix_channel(&agent.socket()));
        let svids = client.fetch_x509svid(asking(pb::workload::X509svidRequest {})).await;
        let roots = client.fetch_x509_bundles(asking(pb::workload::X509BundlesRequest {})).await;
        let keys = client.fetch_jwt_bundles(asking(pb::workload::JwtBundlesRequest {})).await;
        let svids = svids.unwrap().into_inner();
        let (roots, keys) = (roots.unwrap().into_inner(), keys.unwrap().into_inner());
        Self { client, svids, roots, keys }
    }

    /// Waits until every stream shows this bundle of bar, or none.
    async fn shows(&mut self, what: &str, bundle: Option<&Bundle>) {
        let roots = bundle.map(|bundle| {
            let roots = bundle.x509_authorities.iter();
            roots.flat_map(|root| root.certificate_der.clone()).collect::<Vec<u8>>()
        });
        until(&mut self.svids, &format!("{what}: FetchX509SVID"), |answer| {
            answer.federated_bundles.get(BAR) == roots.as_ref()
        })
        .await;
        until(&mut self.roots, &format!("{what}: FetchX509Bundles"), |answer| {
            answer.bundles.get(BAR) == roots.as_ref()
        })
        .await;
        let ids = |bundle: &Bundle| {
            let keys = bundle.jwt_authorities.iter();
            sorted(keys.map(|key| key.key_id.clone()).collect())
        };
        self.has_keys(what, bundle.map(ids)).await;
    }

    /// Waits until there are these keys of bar, or no bundle of it.
    async fn has_keys(&mut self, what: &str, wanted: Option<Vec<String>>) {
        until(&mut self.keys, &format!("{what}: FetchJWTBundles"), |answer| {
            answer.bundles.get(BAR).map(|keys| key_ids(keys)) == wanted
        })
        .await;
    }

    /// Whether a token of bar is valid here, or the refusal.
    async fn validates(&mut self, token: &str) -> Result<String, String> {
        let (audience, svid) = ("foo".to_owned(), token.to_owned());
        let request = asking(pb::workload::ValidateJwtsvidRequest { audience, svid });
        match self.client.validate_jwtsvid(request).await {
            Ok(valid) => Ok(valid.into_inner().spiffe_id),
            Err(status) => {
                assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
                Err(status.message().to_owned())
            }
        }
    }
}

/// The key ids of a key set, sorted.
fn key_ids(set: &[u8]) -> Vec<String> {
    let set: serde_json::Value = serde_json::from_slice(set).unwrap();
    let keys = set["keys"].as_array().unwrap().iter();
    sorted(keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect())
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

/// An agent of foo that tells workloads apart by their programs.
async fn agent_by_path(place: &Path, own: &Cluster) -> Agent {
    let token = own.member(0).unwrap();
    let token = token.cli_json(&["token", "generate", "-spiffeID", "spiffe://foo.test/node"]);
    let token = token.unwrap()["value"].as_str().unwrap().to_owned();
    Agent::configure(place, own, &[2, 1, 0], "").unwrap();
    let config = place.join("agent.conf");
    let plain = "WorkloadAttestor \"unix\" {\n    plugin_data {}\n";
    let by_path = "WorkloadAttestor \"unix\" {\n    plugin_data { discover_workload_path = true \
                   workload_size_limit = -1 }\n";
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains(plain), "{text}");
    fs::write(&config, text.replace(plain, by_path)).unwrap();
    Agent::launch(place, Some(&token)).await.unwrap()
}

/// Creates or updates the entry of a program; `federates` with bar or not.
fn entry(own: &Cluster, member: usize, verb: &str, id: &str, program: &str, federates: bool) {
    let (spiffe_id, selector) = (format!("spiffe://foo.test/{id}"), format!("unix:path:{program}"));
    let node = "spiffe://foo.test/node";
    let words =
        ["entry", verb, "-entryID", id, "-parentID", node, "-spiffeID", &spiffe_id, "-selector"];
    let with: &[&str] = if federates { &["-federatesWith", "bar.test"] } else { &[] };
    done(own, member, &[&words[..], &[&selector], with].concat());
}

/// The bundle of a cluster, as its command prints it and as it is.
fn bundle_of(cluster: &Cluster) -> (String, Bundle) {
    let text = done(cluster, 0, &["bundle", "show", "-format", "spiffe"]);
    let trust_domain = TrustDomain::parse(cluster.trust_domain()).unwrap();
    let bundle = document::from_json(trust_domain, &text).unwrap();
    (text, bundle)
}

/// A workload of another program, which watches its SVIDs.
struct Other {
    program: PathBuf,
    socket: PathBuf,
    watch: Process,
}

impl Other {
    async fn start(program: PathBuf, agent: &Agent, id: &str) -> Self {
        let socket = agent.socket();
        let mut watch = Command::new(&program);
        watch.args(["api", "watch", "-socketPath"]).arg(&socket);
        let log = program.with_extension("log");
        let watch = Process::spawn("watch", &mut watch, &log).unwrap();
        let served = wait_for("the other workload's SVID", SOON, async || {
            let log = fs::read_to_string(&log)?;
            anyhow::ensure!(log.contains(&format!("SPIFFE ID:\t\t{id}")), "{log}");
            Ok(())
        });
        served.await.unwrap();
        Self { program, socket, watch }
    }

    /// Exit code and standard error of a validation.
    fn validates(&self, token: &str) -> (Option<i32>, String) {
        let mut validate = Command::new(&self.program);
        validate.args(["api", "validate", "jwt", "-audience", "foo", "-svid", token]);
        let output = validate.arg("-socketPath").arg(&self.socket).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_get_the_foreign_bundles_of_their_own_entries_and_lose_them_again() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let spec = ClusterSpec { trust_domain: "foo.test", ..ClusterSpec::default() };
    let own = Cluster::start(&place.join("foo"), &spec).await.unwrap();
    let spec = ClusterSpec { trust_domain: "bar.test", members: 1, ..ClusterSpec::default() };
    let bar = Cluster::start(&place.join("bar"), &spec).await.unwrap();
    let agent = agent_by_path(&place.join("agent"), &own).await;
    let path = place.join("bundle");
    let set = |member, format: &str, text: &str| {
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        done(&own, member, &["bundle", "set", "-id", BAR, "-path", path, "-format", format]);
    };
    let (text, first) = bundle_of(&bar);
    set(0, "spiffe", &text);
    let mint = ["jwt", "mint", "-spiffeID", "spiffe://bar.test/w", "-audience", "foo"];
    let token = done(&bar, 0, &mint).trim().to_owned();
    let valid = Ok("spiffe://bar.test/w".to_owned());
    let refusal = "no keys found for trust domain \"bar.test\"".to_owned();

    let program = place.join("other");
    fs::copy(binary("spire-agent").unwrap(), &program).unwrap();
    let this = std::env::current_exe().unwrap();
    let this = this.to_str().unwrap();
    entry(&own, 1, "create", "web", this, true);
    entry(&own, 2, "create", "other", program.to_str().unwrap(), false);
    let mut workload = Workload::open(&agent).await;
    workload.shows("from the start", Some(&first)).await;
    let other = Other::start(program, &agent, "spiffe://foo.test/other").await;
    assert_eq!(workload.validates(&token).await, valid);
    assert_eq!(other.validates(&token), (Some(1), format!("SVID is not valid: {refusal}\n")));

    entry(&own, 0, "update", "web", this, false);
    workload.shows("after the entry federates no more", None).await;
    assert_eq!(workload.validates(&token).await, Err(refusal.clone()));
    entry(&own, 1, "update", "web", this, true);
    workload.shows("after the entry federates again", Some(&first)).await;
    assert_eq!(workload.validates(&token).await, valid);

    for kind in ["x509", "jwt"] {
        done(&bar, 0, &["localauthority", kind, "prepare"]);
    }
    let (text, second) = bundle_of(&bar);
    set(2, "spiffe", &text);
    workload.shows("after another bundle was set", Some(&second)).await;
    assert_eq!(workload.validates(&token).await, valid);
    // The same roots, and no keys.
    set(1, "pem", &done(&bar, 0, &["bundle", "show"]));
    workload.has_keys("after a bundle without keys was set", Some(Vec::new())).await;
    let refused = workload.validates(&token).await.unwrap_err();
    assert!(refused.contains("not found in trust domain \"bar.test\""), "{refused}");

    done(&own, 2, &["bundle", "delete", "-id", BAR, "-mode", "dissociate"]);
    workload.shows("after the bundle was deleted", None).await;
    assert_eq!(workload.validates(&token).await, Err(refusal));
    let log = fs::read_to_string(other.watch.log()).unwrap();
    assert!(!log.contains("bar.test"), "the other workload was given it: {log}");
}

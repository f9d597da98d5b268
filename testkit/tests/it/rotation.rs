//! Rotation by schedule, with lifetimes of seconds, on a cluster whose members are killed, stopped and
//! started all the time.
//!
//! For a longer run, `STEEPLE_ROTATIONS` says how often the authorities are to be replaced, and
//! `STEEPLE_DOWNS` how often a member is to be killed or stopped at least (`docs/TESTING.md`).

use std::collections::BTreeSet;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, SanType};
use steeple_api::pb;
use steeple_api::pb::server::bundle::v1::bundle_client::BundleClient;
use steeple_api::pb::server::svid::v1::svid_client::SvidClient;
use steeple_spiffe_core::svid::jwt::JwtSvid;
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_spiffe_core::time::{Clock as _, SystemClock, Timestamp};
use steeple_testkit::client::unix_channel;
use steeple_testkit::{Cluster, ClusterSpec};
use tokio::time::Instant;
use tonic::{Request, Status};

const SOON: Duration = Duration::from_secs(60);

/// Prepared after half of it, activated a twelfth before its end: so a rotation each twelve seconds.
const CA_TTL: Duration = Duration::from_secs(24);

/// How often both authorities are replaced, unless the environment says otherwise.
const ROTATIONS: usize = 3;

/// How often members go down at least, unless the environment says otherwise.
const DOWNS: usize = 5;

/// A member is back within this time, on a busy machine.
const BACK: Duration = Duration::from_secs(15);

/// A verifier may have fetched its bundle so long ago (the interval of an agent's syncs).
const HELD: Duration = Duration::from_secs(5);

/// No answer takes longer, or it is none.
const PATIENCE: Duration = Duration::from_secs(3);

/// What verifiers had at a time: key ids of X.509 authorities and of JWT keys.
struct Trust {
    at: Instant,
    keys: BTreeSet<String>,
}

/// An SVID: who signed it, and when it is presented.
struct Signed {
    from: Instant,
    to: Instant,
    key: String,
}

/// Everything that was seen.
#[derive(Default)]
struct Seen {
    trusts: Vec<Trust>,
    signed: Vec<Signed>,
    sequence: u64,
    published: BTreeSet<String>,
    wrong: Vec<String>,
    failed: usize,
}

impl Seen {
    /// Looks at a member, as a verifier and as a workload would.
    async fn look(&mut self, cluster: &Cluster, index: usize) {
        let channel = unix_channel(&cluster.member(index).unwrap().socket());
        let mut bundles = BundleClient::new(channel.clone());
        let request = pb::server::bundle::v1::GetBundleRequest { output_mask: None };
        match tokio::time::timeout(PATIENCE, bundles.get_bundle(request)).await {
            Ok(Ok(reply)) => self.take_bundle(index, &reply),
            Ok(Err(_)) | Err(_) => self.failed += 1,
        }
        match tokio::time::timeout(PATIENCE, sign(channel)).await {
            Ok(Ok(signed)) => self.signed.extend(signed),
            Ok(Err(_)) | Err(_) => self.failed += 1,
        }
    }

    fn take_bundle(&mut self, index: usize, reply: &tonic::Response<pb::types::Bundle>) {
        let bundle = reply.get_ref();
        let (x509, jwt) = (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
        if x509 > 3 || jwt > 3 {
            self.wrong.push(format!("member {index} has {x509} roots and {jwt} keys"));
        }
        // An answer that says how old it is may be older than one that was given before.
        if !reply.metadata().contains_key("steeple-staleness") {
            if bundle.sequence_number < self.sequence {
                let (now, before) = (bundle.sequence_number, self.sequence);
                self.wrong.push(format!("member {index} is at sequence {now} after {before}"));
            }
            self.sequence = self.sequence.max(bundle.sequence_number);
        }
        let roots = bundle.x509_authorities.iter();
        let roots = roots.map(|root| hex(&certificate_facts(&root.asn1).unwrap().subject_key_id));
        let keys = bundle.jwt_authorities.iter().map(|key| key.key_id.clone());
        let keys: BTreeSet<String> = roots.chain(keys).collect();
        self.published.extend(keys.iter().cloned());
        self.trusts.push(Trust { at: Instant::now(), keys });
    }

    /// How often the X.509 authority and the JWT key were both replaced, each time after the one before the
    /// one that was replaced had left. Names of keys are shorter.
    fn rotations(&self) -> usize {
        let of_roots = self.replacements(&|key| key.len() == 40);
        of_roots.min(self.replacements(&|key| key.len() != 40))
    }

    fn replacements(&self, is_of_kind: &dyn Fn(&str) -> bool) -> usize {
        let mut signers: Vec<&Signed> = Vec::new();
        for one in self.signed.iter().filter(|one| is_of_kind(&one.key)) {
            if signers.iter().all(|known| known.key != one.key) {
                signers.push(one);
            }
        }
        let had_left = |three: &&[&Signed]| {
            let (first, third) = (three[0], three[2]);
            let then = self.trusts.iter().find(|trust| trust.at >= third.from);
            then.is_none_or(|trust| !trust.keys.contains(&first.key))
        };
        // Before the first replacement there was none that could have left.
        signers.windows(3).filter(had_left).count() + usize::from(signers.len() > 1)
    }

    /// Every SVID verifies with every bundle that anyone held between its signature and its end.
    fn check_trust(&mut self, start: Instant) {
        for one in &self.signed {
            let first = one.from.checked_sub(HELD).unwrap_or(start);
            let held = self.trusts.iter().filter(|trust| trust.at >= first && trust.at <= one.to);
            for trust in held.filter(|trust| !trust.keys.contains(&one.key)) {
                let (key, at) = (&one.key, trust.at.saturating_duration_since(start));
                let from = one.from.saturating_duration_since(start);
                self.wrong.push(format!("{key} signed at {from:?}, and was unknown at {at:?}"));
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An X509-SVID and a JWT-SVID.
async fn sign(channel: tonic::transport::Channel) -> Result<[Signed; 2], Status> {
    use pb::server::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};

    let mut client = SvidClient::new(channel);
    let lives = |end: i64| Timestamp::from_unix_s(end).since(SystemClock.now());
    let id = "spiffe://example.org/w";
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let request = Request::new(MintX509svidRequest { csr, ttl: 0 });
    let svid = client.mint_x509svid(request).await?.into_inner().svid.unwrap();
    let from = Instant::now();
    let leaf = certificate_facts(&svid.cert_chain[0]).unwrap();
    let x509 = Signed { from, to: from + lives(svid.expires_at), key: hex(&leaf.authority_key_id) };

    let id = Some(pb::types::Spiffeid { trust_domain: "example.org".into(), path: "/w".into() });
    let audience = vec!["a".to_owned()];
    let reply = client.mint_jwtsvid(MintJwtsvidRequest { id, audience, ttl: 0 }).await?;
    let svid = reply.into_inner().svid.unwrap();
    let from = Instant::now();
    let key = JwtSvid::parse_insecure(&svid.token).unwrap().key_id;
    let jwt = Signed { from, to: from + lives(svid.expires_at), key };
    Ok([x509, jwt])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_by_schedule_goes_on_while_members_come_and_go() {
    let set = |name, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (rotations, least) = (set("STEEPLE_ROTATIONS", ROTATIONS), set("STEEPLE_DOWNS", DOWNS));
    let folder = tempfile::tempdir().unwrap();
    let ttl = CA_TTL.as_secs();
    let spec = ClusterSpec {
        server_lines: format!(
            "  ca_ttl = \"{ttl}s\"\n  default_x509_svid_ttl = \"8s\"\n  \
             default_jwt_svid_ttl = \"8s\"\n"
        ),
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    let start = Instant::now();
    let mut seen = Seen::default();
    let longest = CA_TTL * u32::try_from(rotations + 2).unwrap();
    let longest = longest.max(BACK * u32::try_from(least).unwrap());
    let mut downs = 0;
    while seen.rotations() < rotations || downs < least {
        assert!(start.elapsed() < longest, "{} rotations in {longest:?}", seen.rotations());
        let leader = cluster.leader(SOON).await.unwrap();
        let victim = if downs % 2 == 0 { leader } else { downs % 3 };
        downs += 1;
        if downs % 5 == 0 {
            cluster.stop_member(victim).await.unwrap();
        } else {
            cluster.kill_member(victim).unwrap();
        }
        for other in [(victim + 1) % 3, (victim + 2) % 3] {
            seen.look(&cluster, other).await;
        }
        cluster.start_member(victim).unwrap();
        cluster.wait_ready(SOON).await.unwrap();
        for index in 0..3 {
            seen.look(&cluster, index).await;
        }
    }
    let lasted = start.elapsed();
    seen.check_trust(start);
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);

    // Half of a lifetime lies between two of a kind, whoever leads.
    let most = 2 * (lasted.as_secs() / (ttl / 2) + 3);
    let published = seen.published.len();
    assert!(published as u64 <= most, "{published} authorities in {lasted:?}");
    println!(
        "{} rotations in {lasted:?}, {downs} members taken down: {published} authorities published, {} \
         SVIDs and {} bundles seen, the last of sequence {}, {} calls without an answer",
        seen.rotations(),
        seen.signed.len(),
        seen.trusts.len(),
        seen.sequence,
        seen.failed
    );
    assert!(seen.failed <= downs, "{} calls had no answer, {downs} members went", seen.failed);
}

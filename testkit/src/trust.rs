//! What verifiers held and who signed, over a run of rotations: every SVID has to verify with every
//! bundle that anyone held between its signature and its end.
//!
//! Owns looking at members, as a verifier and as a workload would, and the judgement over all that
//! was seen. An SVID is verified for good with the bundle of its own look; with all others it is
//! compared by the key that signed it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rcgen::{CertificateParams, KeyPair, SanType};
use steeple_api::convert;
use steeple_api::pb;
use steeple_api::pb::server::bundle::v1::bundle_client::BundleClient;
use steeple_api::pb::server::svid::v1::svid_client::SvidClient;
use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::svid::jwt::JwtSvid;
use steeple_spiffe_core::svid::x509::{certificate_facts, verify_chain};
use steeple_spiffe_core::time::{Clock as _, SystemClock, Timestamp};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;

use crate::client::unix_channel;

/// No answer takes longer, or it is none.
const PATIENCE: Duration = Duration::from_secs(3);

/// The most that a bundle may hold of a kind.
const PUBLISHED_MAX: usize = 3;

/// Who asks, within its trust domain.
const PATH: &str = "/w";

/// For whom tokens are.
pub const AUDIENCE: &str = "a";

/// What of a kind signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    X509,
    Jwt,
}

/// The name of a key: the subject key id of a root in hexadecimal, or a key id.
type Key = (Kind, String);

/// A bundle that a member gave.
#[derive(Debug)]
struct Held {
    asked: Instant,
    at: Instant,
    sequence: u64,
    /// Whether the answer says that it may be older than others.
    is_stale: bool,
    keys: BTreeSet<Key>,
}

/// An SVID: who signed it, and when it is presented.
#[derive(Debug)]
struct Signed {
    from: Instant,
    to: Instant,
    key: Key,
}

/// What one member answered to one look.
#[derive(Debug, Default)]
pub struct Sight {
    held: Option<Held>,
    signed: Vec<Signed>,
    unanswered: usize,
    wrong: Vec<String>,
    given: Option<Given>,
    svids: Vec<Received>,
}

/// A bundle as a member gave it.
#[derive(Clone, Debug)]
pub struct Given {
    /// When it was asked for, and when it came.
    pub asked: Instant,
    /// See `asked`.
    pub at: Instant,
    /// Whether the answer says that it may be older than others.
    pub is_stale: bool,
    /// What was given.
    pub bundle: Arc<Bundle>,
}

/// An SVID as it was received.
#[derive(Clone, Debug)]
pub struct Received {
    /// When it came.
    pub from: Instant,
    /// When it ends.
    pub to: Instant,
    /// The SVID.
    pub svid: Svid,
}

/// What verifiers are shown.
#[derive(Clone, Debug)]
pub enum Svid {
    /// A chain of certificates in DER, leaf first.
    X509(Vec<Vec<u8>>),
    /// A token for [`AUDIENCE`].
    Jwt(String),
}

impl Sight {
    /// How many calls had no answer.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// The bundle, if the member gave one.
    pub fn given(&self) -> Option<&Given> {
        self.given.as_ref()
    }

    /// What the member has signed.
    pub fn svids(&self) -> &[Received] {
        &self.svids
    }
}

/// Asks the member of a trust domain with this admin socket for the bundle, for an X.509-SVID and for
/// a JWT-SVID.
pub async fn look(socket: &Path, trust_domain: &str) -> Sight {
    let mut sight = Sight::default();
    let channel = unix_channel(socket);
    let asked = Instant::now();
    let bundle = match timeout(PATIENCE, bundle(channel.clone())).await {
        Ok(Ok((bundle, is_stale))) => {
            let bundle = Arc::new(bundle);
            sight.take(&bundle, is_stale, asked);
            Some(bundle)
        }
        Ok(Err(_)) | Err(_) => {
            sight.unanswered += 1;
            None
        }
    };
    match timeout(PATIENCE, sign(channel, trust_domain)).await {
        Ok(Ok(svids)) => {
            for svid in svids {
                sight.take_svid(svid, bundle.as_ref(), trust_domain);
            }
        }
        Ok(Err(_)) | Err(_) => sight.unanswered += 1,
    }
    sight
}

/// The bundle, and whether the answer says that it may be old.
async fn bundle(channel: Channel) -> Result<(Bundle, bool)> {
    let request = pb::server::bundle::v1::GetBundleRequest { output_mask: None };
    let reply = BundleClient::new(channel).get_bundle(request).await?;
    let is_stale = reply.metadata().contains_key("steeple-staleness");
    Ok((convert::bundle::from_pb(reply.get_ref())?, is_stale))
}

async fn sign(channel: Channel, trust_domain: &str) -> Result<[Received; 2]> {
    use pb::server::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};

    let mut client = SvidClient::new(channel);
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        vec![SanType::URI(workload(trust_domain).try_into().context("a URI")?)];
    let key = KeyPair::generate().context("generate a key")?;
    let csr = params.serialize_request(&key).context("sign a request")?.der().to_vec();
    let reply = client.mint_x509svid(MintX509svidRequest { csr, ttl: 0 }).await?.into_inner();
    let svid = reply.svid.context("no X.509-SVID")?;
    let x509 = received(svid.expires_at, Svid::X509(svid.cert_chain));

    let id = pb::types::Spiffeid { trust_domain: trust_domain.to_owned(), path: PATH.to_owned() };
    let id = Some(id);
    let request = MintJwtsvidRequest { id, audience: vec![AUDIENCE.to_owned()], ttl: 0 };
    let svid = client.mint_jwtsvid(request).await?.into_inner().svid.context("no JWT-SVID")?;
    Ok([x509, received(svid.expires_at, Svid::Jwt(svid.token))])
}

/// An SVID that came now, and ends at a time in Unix seconds.
fn received(expires_at: i64, svid: Svid) -> Received {
    let from = Instant::now();
    let to = from + Timestamp::from_unix_s(expires_at).since(SystemClock.now());
    Received { from, to, svid }
}

fn workload(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}{PATH}")
}

impl Sight {
    fn take(&mut self, bundle: &Arc<Bundle>, is_stale: bool, asked: Instant) {
        let (x509, jwt) = (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
        if x509 > PUBLISHED_MAX || jwt > PUBLISHED_MAX {
            self.wrong.push(format!("it has {x509} roots and {jwt} keys"));
        }
        let mut keys = BTreeSet::new();
        for root in &bundle.x509_authorities {
            match certificate_facts(&root.certificate_der) {
                Ok(facts) => {
                    keys.insert((Kind::X509, hex(&facts.subject_key_id)));
                }
                Err(error) => self.wrong.push(format!("it publishes no certificate: {error}")),
            }
        }
        keys.extend(bundle.jwt_authorities.iter().map(|key| (Kind::Jwt, key.key_id.clone())));
        let (sequence, at) = (bundle.sequence_number, Instant::now());
        self.held = Some(Held { asked, at, sequence, is_stale, keys });
        self.given = Some(Given { asked, at, is_stale, bundle: Arc::clone(bundle) });
    }

    fn take_svid(&mut self, one: Received, bundle: Option<&Arc<Bundle>>, trust_domain: &str) {
        match signer(&one.svid, bundle, trust_domain) {
            Ok(key) => {
                self.signed.push(Signed { from: one.from, to: one.to, key });
                self.svids.push(one);
            }
            Err(error) => self.wrong.push(format!("{error:#}")),
        }
    }
}

/// The key that signed an SVID, which has to verify with the bundle that the same member gave just
/// before.
fn signer(svid: &Svid, bundle: Option<&Arc<Bundle>>, trust_domain: &str) -> Result<Key> {
    let now = SystemClock.now();
    match svid {
        Svid::X509(chain) => {
            let leaf = chain.first().context("an X.509-SVID without a certificate")?;
            if let Some(bundle) = bundle {
                let id = verify_chain(chain, bundle, now).context("an X.509-SVID")?;
                ensure!(id.to_string() == workload(trust_domain), "an X.509-SVID of {id}");
            }
            Ok((Kind::X509, hex(&certificate_facts(leaf)?.authority_key_id)))
        }
        Svid::Jwt(token) => {
            if let Some(bundle) = bundle {
                let bundles = |_: &TrustDomain| Some(Arc::clone(bundle));
                let audience = [AUDIENCE.to_owned()];
                JwtSvid::validate(token, &audience, &bundles, now).context("a JWT-SVID")?;
            }
            Ok((Kind::Jwt, JwtSvid::parse_insecure(token)?.key_id))
        }
    }
}

/// Everything that was seen.
#[derive(Debug)]
pub struct Ledger {
    start: Instant,
    /// How long a verifier goes on with the bundle that it has fetched.
    keeps: Duration,
    /// By the time of their answer.
    held: Vec<Held>,
    signed: Vec<Signed>,
    /// Who has signed of each kind, in the order of their first signatures, with the time of that.
    signers: BTreeMap<Kind, Vec<(String, Instant)>>,
    published: BTreeSet<Key>,
    wrong: Vec<String>,
}

/// What was seen, in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// SVIDs that were seen.
    pub svids: usize,
    /// Bundles that were seen.
    pub bundles: usize,
    /// Comparisons of an SVID with a bundle that someone held while it lived.
    pub checks: u64,
    /// X.509 authorities and JWT keys that were published.
    pub published: usize,
    /// The sequence of the last bundle.
    pub sequence: u64,
}

impl Ledger {
    /// Nothing was seen yet. A verifier goes on for `keeps` with the bundle that it has fetched.
    pub fn new(keeps: Duration) -> Self {
        Self {
            start: Instant::now(),
            keeps,
            held: Vec::new(),
            signed: Vec::new(),
            signers: BTreeMap::new(),
            published: BTreeSet::new(),
            wrong: Vec::new(),
        }
    }

    /// Takes what a member answered.
    pub fn note(&mut self, member: usize, sight: Sight) {
        let Sight { held, signed, unanswered: _, wrong, given: _, svids: _ } = sight;
        self.wrong.extend(wrong.into_iter().map(|what| format!("member {member}: {what}")));
        if let Some(held) = held {
            self.published.extend(held.keys.iter().cloned());
            let place = self.held.partition_point(|known| known.at <= held.at);
            self.held.insert(place, held);
        }
        for one in signed {
            let (kind, key) = &one.key;
            let known = self.signers.entry(*kind).or_default();
            if known.iter().all(|(known, _)| known != key) {
                known.push((key.clone(), one.from));
            }
            self.signed.push(one);
        }
    }

    /// How often the X.509 authority and the JWT key were both replaced, each time after the one
    /// before the one that was replaced had left.
    pub fn rotations(&self) -> usize {
        let of =
            |kind| self.signers.get(&kind).map_or(0, |signers| self.replacements(kind, signers));
        of(Kind::X509).min(of(Kind::Jwt))
    }

    fn replacements(&self, kind: Kind, signers: &[(String, Instant)]) -> usize {
        let had_left = |three: &&[(String, Instant)]| {
            let [(first, _), _, (_, since)] = three else { return false };
            let then = self.held.partition_point(|held| held.at < *since);
            let then = self.held.get(then);
            then.is_none_or(|held| !held.keys.contains(&(kind, first.clone())))
        };
        // Before the first replacement there was none that could have left.
        signers.windows(3).filter(had_left).count() + usize::from(signers.len() > 1)
    }

    /// What was seen, and all that is wrong with it: an SVID that somebody could not verify while
    /// it lived, a bundle that went back, one that holds too much.
    pub fn judge(&self) -> (Totals, Vec<String>) {
        let mut wrong = self.wrong.clone();
        let mut totals = Totals {
            svids: self.signed.len(),
            bundles: self.held.len(),
            published: self.published.len(),
            sequence: self.held.iter().map(|held| held.sequence).max().unwrap_or(0),
            checks: 0,
        };
        for one in &self.signed {
            let first = one.from.checked_sub(self.keeps).unwrap_or(self.start);
            let from = self.held.partition_point(|held| held.at < first);
            let to = self.held.partition_point(|held| held.at <= one.to);
            for held in self.held.get(from..to).unwrap_or_default() {
                totals.checks += 1;
                if !held.keys.contains(&one.key) {
                    let (signed, at) = (self.since(one.from), self.since(held.at));
                    let stale =
                        if held.is_stale { ", in an answer that says it is old" } else { "" };
                    let key = &one.key;
                    wrong.push(format!("{key:?} signed at {signed:?}, unknown at {at:?}{stale}"));
                }
            }
        }
        wrong.extend(self.gone_back());
        (totals, wrong)
    }

    /// Bundles of a lower sequence than one that was given before they were asked for.
    fn gone_back(&self) -> Vec<String> {
        let confirmed: Vec<&Held> = self.held.iter().filter(|held| !held.is_stale).collect();
        let mut highest = 0;
        let mut known: Vec<(Instant, u64)> = Vec::new();
        for held in &confirmed {
            highest = held.sequence.max(highest);
            known.push((held.at, highest));
        }
        let before = |asked: Instant| {
            let answered = known.partition_point(|(at, _)| *at < asked);
            answered
                .checked_sub(1)
                .and_then(|last| known.get(last))
                .map_or(0, |(_, highest)| *highest)
        };
        let back = confirmed.iter().filter(|held| held.sequence < before(held.asked));
        let told = back.map(|held| {
            let (at, now, was) = (self.since(held.at), held.sequence, before(held.asked));
            format!("sequence {now} at {at:?} after {was}")
        });
        told.collect()
    }

    fn since(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two seconds, as everywhere in these tests.
    const KEEPS: Duration = Duration::from_secs(2);

    fn key(name: &str) -> Key {
        (Kind::X509, name.to_owned())
    }

    /// A ledger of bundles (when, sequence, whose, whether it is told to be old) and SVIDs (when,
    /// how long, whose), with times in seconds.
    type Bundles<'a> = &'a [(u64, u64, &'a [&'a str], bool)];
    type Svids<'a> = &'a [(u64, u64, &'a str)];

    fn ledger(bundles: Bundles<'_>, svids: Svids<'_>) -> Ledger {
        let mut ledger = Ledger::new(KEEPS);
        let at = |s: u64| ledger.start + Duration::from_secs(s);
        let mut sights = Vec::new();
        for (s, sequence, names, is_stale) in bundles {
            let keys = names.iter().map(|name| key(name)).collect();
            let (asked, at, is_stale) = (at(*s), at(*s), *is_stale);
            let held = Held { asked, at, sequence: *sequence, is_stale, keys };
            sights.push(Sight { held: Some(held), ..Sight::default() });
        }
        for (s, ttl, name) in svids {
            let signed = Signed { from: at(*s), to: at(s + ttl), key: key(name) };
            sights.push(Sight { signed: vec![signed], ..Sight::default() });
        }
        sights.into_iter().for_each(|sight| ledger.note(0, sight));
        ledger
    }

    #[test]
    fn an_svid_is_held_against_each_bundle_from_before_its_signature_to_its_end() {
        // Bundles of before and after know nothing of it, and need not.
        let fine: Bundles<'_> = &[
            (0, 1, &["a"], false),
            (8, 2, &["a", "b"], false),
            (12, 2, &["b", "a"], false),
            (19, 3, &["c"], false),
        ];
        let (totals, wrong) = ledger(fine, &[(10, 8, "b")]).judge();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!((totals.checks, totals.svids, totals.bundles), (2, 1, 4));
        for (case, at) in [("fetched before, and kept", 9), ("fetched later", 15)] {
            let held: Bundles<'_> = &[(at, 1, &["a"], false)];
            let (_, wrong) = ledger(held, &[(10, 8, "b")]).judge();
            assert_eq!(wrong.len(), 1, "{case}: {wrong:?}");
        }
        let old: Bundles<'_> = &[(9, 1, &["a"], true)];
        let (_, wrong) = ledger(old, &[(10, 8, "b")]).judge();
        assert!(wrong.concat().contains("says it is old"), "{wrong:?}");
    }

    #[test]
    fn sequences_go_back_in_answers_that_say_so_alone() {
        let fine: Bundles<'_> = &[(1, 5, &[], false), (2, 4, &[], true), (3, 5, &[], false)];
        assert!(ledger(fine, &[]).judge().1.is_empty());
        let back: Bundles<'_> = &[(1, 5, &[], false), (2, 4, &[], false)];
        assert_eq!(ledger(back, &[]).judge().1.len(), 1);
    }

    #[test]
    fn a_rotation_counts_when_the_one_before_the_last_has_left() {
        let kind = |ledger: &Ledger| {
            let signers = ledger.signers.get(&Kind::X509).cloned().unwrap_or_default();
            ledger.replacements(Kind::X509, &signers)
        };
        let svids: Svids<'_> = &[(1, 1, "a"), (5, 1, "b"), (9, 1, "c")];
        let left: Bundles<'_> = &[(1, 1, &["a"], false), (9, 2, &["b", "c"], false)];
        assert_eq!(kind(&ledger(left, svids)), 2);
        let stays: Bundles<'_> = &[(1, 1, &["a"], false), (9, 2, &["a", "b", "c"], false)];
        assert_eq!(kind(&ledger(stays, svids)), 1);
        assert_eq!(kind(&ledger(stays, &svids[..1])), 0);
        assert_eq!(ledger(left, svids).rotations(), 0, "JWT keys were not replaced");
    }
}

//! Holds every SVID against every bundle that anyone held while it was alive, reduced by the authority
//! that signed it; and all that replicas showed against the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::change::Journal;
use steeple_raft_store::command::Refreshed;
use steeple_raft_store::{Change, ChangeBatch, Command, Outcome, Rejection};
use steeple_spiffe_core::authority::AuthorityKind;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::{AuthorityId, Serial, Timestamp, TrustDomain};

use super::super::issuer::{IssuedJwt, IssuedX509};
use super::super::policy::BACKDATE;
use super::observers::HEARD;

/// A verifier's clock may be behind by this much.
const VERIFIERS_BEHIND: Duration = Duration::from_secs(30);

/// Nobody holds a bundle for so long that it counts.
const LONG: Duration = Duration::from_secs(4 * 3_600);

/// More are no help in finding out what is wrong.
const WRONG_MAX: usize = 5;

/// An SVID, as far as it matters here.
pub(super) struct Signed {
    pub(super) kind: AuthorityKind,
    pub(super) authority: AuthorityId,
    pub(super) begins: Option<Timestamp>,
    pub(super) ends: Timestamp,
    pub(super) serial: Option<Serial>,
}

impl Signed {
    pub(super) fn x509(issued: IssuedX509) -> Self {
        Self {
            kind: AuthorityKind::X509,
            authority: issued.authority_id,
            begins: Some(issued.not_before),
            ends: issued.not_after,
            serial: Some(issued.serial),
        }
    }

    pub(super) fn token(kind: AuthorityKind, issued: IssuedJwt) -> Self {
        Self {
            kind,
            authority: issued.authority_id,
            begins: None,
            ends: issued.expires_at,
            serial: None,
        }
    }
}

/// A bundle that somebody held for a while.
pub(super) struct Seen<'a> {
    pub(super) by: &'static str,
    pub(super) is_peer: bool,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) ids: &'a BTreeSet<usize>,
}

/// What became of one authority.
struct Fate {
    name: String,
    ends: Timestamp,
    published_at: Timestamp,
    activated_at: Option<Timestamp>,
    tainted: bool,
    revoked_at: Option<Timestamp>,
    /// It began to sign at the latest moment, though some were known to lack it.
    forced: bool,
    /// When it signed, and when the last of all that it had signed by then ends.
    signed: Vec<(Timestamp, Timestamp)>,
}

type Name = (AuthorityKind, AuthorityId);

/// A foreign trust domain, as the registry has it.
#[derive(Default)]
pub(super) struct Foreign {
    pub(super) bundle: Option<Arc<Bundle>>,
    /// Entries of the log that stored what was fetched.
    pub(super) fetched: u64,
    /// Entries of the log about fetching that stored nothing.
    pub(super) notes: u64,
    /// Fetched bundles that came after another one had been stored.
    pub(super) overtaken: u64,
}

pub(super) struct Judge {
    pub(super) activations: u32,
    /// Of them those of X.509 authorities.
    pub(super) x509_activations: u32,
    /// Of them those of WIT keys.
    pub(super) wit_activations: u32,
    pub(super) svids: u64,
    pub(super) bundles_held: u64,
    pub(super) clocks_refused: u64,
    /// What is stored and was noted of the trust domain that is federated with.
    pub(super) foreign: Foreign,
    trust_domain: TrustDomain,
    journal: Arc<Journal>,
    /// So many of the first authorities are of no interest any more.
    over: usize,
    fates: Vec<Fate>,
    numbers: BTreeMap<Name, usize>,
    /// Numbers by what stands in a bundle: certificate or key id.
    published: BTreeMap<Vec<u8>, usize>,
    sequences: BTreeMap<u64, (Arc<Bundle>, Arc<BTreeSet<usize>>)>,
    serials: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Judge {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            x509_activations: 0,
            wit_activations: 0,
            activations: 0,
            svids: 0,
            bundles_held: 0,
            clocks_refused: 0,
            foreign: Foreign::default(),
            trust_domain,
            journal: Arc::default(),
            over: 0,
            fates: Vec::new(),
            numbers: BTreeMap::new(),
            published: BTreeMap::new(),
            sequences: BTreeMap::new(),
            serials: BTreeSet::new(),
            wrong: Vec::new(),
        }
    }

    pub(super) fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    pub(super) fn is_content(&self) -> bool {
        self.wrong.len() < WRONG_MAX
    }

    pub(super) fn verdict(&self) -> &[String] {
        &self.wrong
    }

    pub(super) fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }

    pub(super) fn forced_count(&self) -> usize {
        self.fates.iter().filter(|fate| fate.forced).count()
    }

    /// It is to begin to sign though some may not know it.
    pub(super) fn forced(&mut self, id: &AuthorityId) {
        let found = self.numbers.iter().filter(|((_, known), _)| known == id);
        for number in found.map(|(_, number)| *number).collect::<Vec<_>>() {
            self.fates[number].forced = true;
        }
    }

    /// A command was decided.
    pub(super) fn committed(
        &mut self,
        now: Timestamp,
        command: &Command,
        outcome: &Result<Outcome, Rejection>,
        changes: &[Change],
    ) {
        if outcome.is_ok() {
            self.note(now, command);
        }
        if let Command::RecordRefresh { refreshed, .. } = command {
            self.refreshed(refreshed, outcome, changes);
        }
        self.take(changes, |before, after| after == before + 1);
    }

    /// Another epoch begins.
    pub(super) fn restored(&mut self, changes: &[Change]) {
        self.take(changes, |before, after| after > before);
    }

    fn note(&mut self, now: Timestamp, command: &Command) {
        if let Command::PrepareAuthority { authority, .. } = command {
            let number = self.fates.len();
            let in_bundle = match authority.kind {
                AuthorityKind::X509 => authority.public_der.clone(),
                AuthorityKind::Jwt | AuthorityKind::Wit => {
                    authority.id.as_str().as_bytes().to_vec()
                }
            };
            self.published.insert(in_bundle, number);
            self.numbers.insert((authority.kind, authority.id.clone()), number);
            self.fates.push(Fate {
                name: format!("{:?} authority {number}", authority.kind),
                ends: authority.not_after,
                published_at: now,
                activated_at: None,
                tainted: false,
                revoked_at: None,
                forced: false,
                signed: Vec::new(),
            });
        }
        if let Command::ActivateAuthority { kind, id, .. } = command {
            self.activations += 1;
            self.x509_activations += u32::from(*kind == AuthorityKind::X509);
            self.wit_activations += u32::from(*kind == AuthorityKind::Wit);
            self.fate(*kind, id).activated_at = Some(now);
        }
        if let Command::TaintAuthority { kind, id, .. } = command {
            self.fate(*kind, id).tainted = true;
        }
        if let Command::RevokeAuthority { kind, id, .. } = command {
            self.fate(*kind, id).revoked_at = Some(now);
        }
    }

    /// Whoever fetched, and however late it comes: each entry of the log stores a later bundle.
    fn refreshed(
        &mut self,
        refreshed: &Refreshed,
        outcome: &Result<Outcome, Rejection>,
        changes: &[Change],
    ) {
        let stores = matches!(refreshed, Refreshed::Succeeded(Some(_)));
        if outcome.is_err() {
            self.foreign.overtaken += u64::from(stores);
            return;
        }
        let is_stored = |change: &Change| matches!(change, Change::BundleWritten { .. });
        if stores != changes.iter().any(is_stored) {
            self.wrong(format!("{refreshed:?} changed {changes:?}"));
        }
        self.foreign.fetched += u64::from(stores);
        self.foreign.notes += u64::from(!stores);
    }

    /// The bundle of the trust domain that is federated with never goes back.
    fn take_foreign(&mut self, bundle: &Arc<Bundle>) {
        let before = self.foreign.bundle.replace(Arc::clone(bundle));
        let (before, after) = (before.map(|one| one.sequence_number), bundle.sequence_number);
        if before.is_some_and(|before| after < before) {
            let own = self.trust_domain.clone();
            self.wrong(format!("{own} stores sequence {after} after {before:?}"));
        }
    }

    fn fate(&mut self, kind: AuthorityKind, id: &AuthorityId) -> &mut Fate {
        let number = self.numbers[&(kind, id.clone())];
        &mut self.fates[number]
    }

    /// Takes journal and bundle of a state, whose sequence number must follow that of the last one.
    fn take(&mut self, changes: &[Change], follows: impl Fn(u64, u64) -> bool) {
        for change in changes {
            if let Change::JournalWritten(journal) = change {
                self.journal = Arc::clone(journal);
            }
            let Change::BundleWritten { bundle, .. } = change else { continue };
            if bundle.trust_domain != self.trust_domain {
                self.take_foreign(bundle);
                continue;
            }
            let before = self.sequences.last_key_value().map_or(0, |(sequence, _)| *sequence);
            let after = bundle.sequence_number;
            if !follows(before, after) {
                self.wrong(format!("sequence {after} follows {before}"));
            }
            let roots = bundle.x509_authorities.iter().map(|root| root.certificate_der.clone());
            let keys = bundle.jwt_authorities.iter().map(|key| key.key_id.as_bytes().to_vec());
            let wit_keys = bundle.wit_authorities.iter().map(|key| key.key_id.as_bytes().to_vec());
            let ids = roots.chain(keys).chain(wit_keys).map(|name| self.published[&name]).collect();
            self.sequences.insert(after, (Arc::clone(bundle), Arc::new(ids)));
        }
    }

    /// The sequence number that was published last.
    pub(super) fn newest(&self) -> u64 {
        self.sequences.last_key_value().map_or(0, |(sequence, _)| *sequence)
    }

    /// The bundle of a sequence number, with its authorities.
    pub(super) fn known(&self, sequence: u64) -> Option<(&Arc<Bundle>, &Arc<BTreeSet<usize>>)> {
        self.sequences.get(&sequence).map(|(bundle, ids)| (bundle, ids))
    }

    /// The number of the X.509 authority of this name.
    pub(super) fn x509_number(&self, id: &AuthorityId) -> Option<usize> {
        self.numbers.get(&(AuthorityKind::X509, id.clone())).copied()
    }

    /// A replica applied a command: it must have come to the same as all others.
    pub(super) fn same(&mut self, member: usize, applied: &ChangeBatch, known: &ChangeBatch) {
        if applied != known {
            self.wrong(format!("member {member} came to {applied:?}, and not to {known:?}"));
        }
    }

    /// The authorities in a bundle, which must be the one of its sequence number.
    pub(super) fn ids(&mut self, bundle: &Arc<Bundle>) -> Arc<BTreeSet<usize>> {
        let sequence = bundle.sequence_number;
        let Some((known, ids)) = self.sequences.get(&sequence) else {
            self.wrong(format!("nobody published sequence {sequence}"));
            return Arc::default();
        };
        let (same, ids) = (known == bundle, Arc::clone(ids));
        if !same {
            self.wrong(format!("two bundles have sequence {sequence}"));
        }
        ids
    }

    /// An SVID was released; `strict` says that its replica was in contact.
    pub(super) fn signed(
        &mut self,
        now: Timestamp,
        strict: bool,
        skew_limit: Duration,
        svid: Signed,
    ) {
        self.svids += 1;
        let number = self.numbers.get(&(svid.kind, svid.authority.clone())).copied();
        let Some(number) = number else {
            self.wrong(format!("{} signs, which nobody has published", svid.authority));
            return;
        };
        let fate = &mut self.fates[number];
        let mut wrong = Vec::new();
        if fate.activated_at.is_none() {
            wrong.push("signs before its activation is committed");
        }
        if strict && fate.tainted {
            wrong.push("signs after its taint was acknowledged");
        }
        if svid.ends > fate.ends {
            wrong.push("signs what outlives it");
        }
        let says = svid.begins.map(|begins| begins.plus(BACKDATE));
        let apart = says.map(|says| says.since(now).max(now.since(says)));
        if apart.is_some_and(|apart| apart > skew_limit + Duration::from_secs(1)) {
            wrong.push("signs with a wrong clock");
        }
        let so_far = fate.signed.last().map_or(svid.ends, |(_, ends)| svid.ends.max(*ends));
        fate.signed.push((now, so_far));
        if svid.serial.is_some_and(|serial| !self.serials.insert(serial.as_str().to_owned())) {
            wrong.push("signs a serial twice");
        }
        let name = fate.name.clone();
        for what in wrong {
            self.wrong(format!("{name} {what}, at {now}"));
        }
    }

    /// Whether everything verified with a bundle for as long as it was held.
    pub(super) fn held(&mut self, seen: &Seen<'_>) {
        self.bundles_held += 1;
        let mut wrong = Vec::new();
        // They end in about the order in which they are made.
        let is_over = |fate: &Fate| fate.ends.plus(LONG) < seen.from;
        while self.fates.get(self.over).is_some_and(is_over) {
            self.over += 1;
        }
        for (number, fate) in self.fates.iter().enumerate().skip(self.over) {
            let to = fate.revoked_at.map_or(seen.to, |revoked_at| seen.to.min(revoked_at));
            let (Some(activated_at), true) = (fate.activated_at, seen.from < to) else { continue };
            // A peer hears of a rotation by hand when it fetches the next time.
            let soon = activated_at.since(fate.published_at) < HEARD;
            if fate.forced || (seen.is_peer && soon) || seen.ids.contains(&number) {
                continue;
            }
            let before = fate.signed.partition_point(|(at, _)| *at < to);
            let Some((at, ends)) = before.checked_sub(1).map(|last| fate.signed[last]) else {
                continue;
            };
            if ends.plus(VERIFIERS_BEHIND) >= seen.from {
                wrong.push(format!(
                    "{} held a bundle from {} to {} without {}, published at {}, active from {}, \
                     which signed at {at} what is good until {ends}",
                    seen.by, seen.from, seen.to, fate.name, fate.published_at, activated_at
                ));
            }
        }
        self.wrong.extend(wrong);
    }
}

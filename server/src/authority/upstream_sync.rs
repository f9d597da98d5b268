//! Follows what an upstream authority publishes, on the leader.
//!
//! Owns SPIRE's order of things. New roots and keys are added. A root that is tainted above is marked
//! here only after a clean authority signs, so that whoever sees the mark and asks for a new SVID gets
//! one that is better. A marked root that is gone above goes here too.

use std::time::Duration;

use steeple_raft_store::Command;
use steeple_raft_store::change::Journal;
use steeple_raft_store::command::{AppendBundle, RootChange};
use steeple_spiffe_core::AuthorityId;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};
use steeple_spiffe_core::svid::x509::certificate_facts;
use tokio::time::{Instant, MissedTickBehavior};

use super::chained::leads_to;
use super::planner::Step;
use super::rotator::{READ_TIMEOUT, RotateError, Rotator};
use super::slots::{Slots, successor};
use crate::upstream::{Upstream, UpstreamError, UpstreamTrust};

/// How often the upstream authority is looked at (SPIRE: 5 s).
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a look had no effect. The next one starts anew.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("look at upstream authority {name:?}")]
    Upstream {
        name: &'static str,
        #[source]
        source: UpstreamError,
    },
    #[error("take over what upstream authority {name:?} publishes")]
    Rotate {
        name: &'static str,
        #[source]
        source: RotateError,
    },
}

/// What has to change here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Changes {
    add: Vec<Vec<u8>>,
    keys: Vec<JwtAuthority>,
    /// The present authority chains to one of `taint`.
    rotate: bool,
    taint: Vec<Vec<u8>>,
    revoke: Vec<Vec<u8>>,
}

impl Rotator {
    /// Looks at the upstream authority again and again; ends only by being dropped.
    pub async fn follow_upstream(&self, term: u64) {
        let Some(upstream) = &self.minter.upstream else { return std::future::pending().await };
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tick.tick().await;
            let looked = self.look_above(upstream, term).await;
            if let Err(error) = &looked {
                let error: &dyn std::error::Error = error;
                // Once is news, the rest is the same.
                if failing {
                    tracing::debug!(error, "Upstream authority is not followed yet");
                } else {
                    tracing::warn!(error, "Upstream authority is not followed; trying again");
                }
            } else if failing {
                tracing::info!("Upstream authority is followed again");
            }
            failing = looked.is_err();
        }
    }

    async fn look_above(&self, upstream: &Upstream, term: u64) -> Result<(), SyncError> {
        let name = upstream.name();
        let trust =
            upstream.trust().await.map_err(|source| SyncError::Upstream { name, source })?;
        let Some(trust) = trust else { return Ok(()) };
        let taken = self.take_over(&trust, term).await;
        taken.map_err(|source| SyncError::Rotate { name, source })
    }

    async fn take_over(&self, trust: &UpstreamTrust, term: u64) -> Result<(), RotateError> {
        let confirmed = self.handle.read_barrier(Instant::now() + READ_TIMEOUT).await?;
        self.follow(confirmed.revision).await?;
        let (journal, bundle) = self.views.trust(&self.minter.trust_domain);
        // Before there is a bundle, rotation makes it.
        let Some(bundle) = bundle else { return Ok(()) };
        let changes = changes(&journal, &bundle, trust);
        self.change_roots(RootChange::Add, changes.add, term).await?;
        if !changes.keys.is_empty() {
            let append =
                AppendBundle { x509_authorities: Vec::new(), jwt_authorities: changes.keys };
            self.propose(Command::AppendBundle(append), term).await?;
        }
        if changes.rotate {
            tracing::info!(
                "Current root CA is signed by a tainted upstream authority, preparing rotation"
            );
            self.replace_tainted(&changes.taint, term).await?;
        }
        for root in changes.taint {
            let subject_key_id = key_id(&root);
            self.change_roots(RootChange::Taint, vec![root], term).await?;
            tracing::info!(%subject_key_id, "X.509 authority tainted");
        }
        for root in changes.revoke {
            let subject_key_id = key_id(&root);
            self.change_roots(RootChange::Revoke, vec![root], term).await?;
            tracing::info!(%subject_key_id, "X.509 authority revoked");
        }
        Ok(())
    }

    /// Lets an authority sign that chains to none of these roots.
    async fn replace_tainted(&self, tainted: &[Vec<u8>], term: u64) -> Result<(), RotateError> {
        let kind = AuthorityKind::X509;
        let clean = |journal: &Journal| {
            let next = successor(journal, kind).filter(|next| !chains_to(next, tainted));
            next.map(|next| next.id.clone())
        };
        let mut journal = self.views.journal();
        if clean(&journal).is_none() {
            self.carry_out(Step::Prepare(kind), journal.revision, term, self.now()).await?;
            journal = self.views.journal();
        }
        // None is clean: the authority above has not been replaced yet. The next look finds it.
        let Some(id) = clean(&journal) else { return Err(RotateError::StillTainted) };
        self.carry_out(Step::Activate(kind, id), journal.revision, term, self.now()).await
    }

    async fn change_roots(
        &self,
        change: RootChange,
        roots: Vec<Vec<u8>>,
        term: u64,
    ) -> Result<(), RotateError> {
        if roots.is_empty() {
            return Ok(());
        }
        let expected_journal = self.views.journal().revision;
        self.propose(Command::ChangeRoots { expected_journal, change, roots }, term).await
    }

    async fn propose(&self, command: Command, term: u64) -> Result<(), RotateError> {
        let applied = self.handle.propose_duty(command, term).await?;
        applied.outcome?;
        self.follow(applied.revision).await
    }
}

fn changes(journal: &Journal, bundle: &Bundle, trust: &UpstreamTrust) -> Changes {
    let (above, here) = (&trust.x509_authorities, &bundle.x509_authorities);
    let find = |list: &[X509Authority], der: &[u8]| {
        list.iter().find(|one| one.certificate_der == der).map(|one| one.tainted)
    };
    let is_new =
        |root: &&X509Authority| !root.tainted && find(here, &root.certificate_der).is_none();
    let taint: Vec<_> = above
        .iter()
        .filter(|root| root.tainted && find(here, &root.certificate_der) == Some(false))
        .map(|root| root.certificate_der.clone())
        .collect();
    // What the cluster signed by itself, before it had an upstream authority, is not known above.
    let is_own = |der: &[u8]| journal.authorities.iter().any(|one| one.public_der == der);
    let is_gone = |root: &&X509Authority| {
        let der = &root.certificate_der;
        root.tainted && find(above, der).is_none() && !is_own(der)
    };
    let is_known =
        |key: &&JwtAuthority| bundle.jwt_authorities.iter().any(|known| known.key_id == key.key_id);
    let keys = trust.jwt_authorities.iter().filter(|key| !key.tainted && !is_known(key));
    let active = Slots::of(journal, AuthorityKind::X509).current;
    Changes {
        add: above.iter().filter(is_new).map(|root| root.certificate_der.clone()).collect(),
        keys: keys.cloned().collect(),
        rotate: active.is_some_and(|active| chains_to(active, &taint)),
        taint,
        revoke: here.iter().filter(is_gone).map(|root| root.certificate_der.clone()).collect(),
    }
}

fn chains_to(authority: &Authority, roots: &[Vec<u8>]) -> bool {
    let last = authority.upstream_chain.last().unwrap_or(&authority.public_der);
    let root = |der: &Vec<u8>| X509Authority { certificate_der: der.clone(), tainted: true };
    leads_to(last, &roots.iter().map(root).collect::<Vec<_>>())
}

/// As log lines name a root.
fn key_id(root: &[u8]) -> AuthorityId {
    let facts = certificate_facts(root);
    AuthorityId::from_subject_key_id(&facts.map(|facts| facts.subject_key_id).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::authority::SealedKey;
    use steeple_spiffe_core::{AuthorityStatus, Timestamp, TrustDomain};

    use super::*;
    use crate::upstream::fake::{Fake, Mood};

    const START: Timestamp = Timestamp::from_unix_s(1_800_000_000);

    fn root(der: &[u8], tainted: bool) -> X509Authority {
        X509Authority { certificate_der: der.to_vec(), tainted }
    }

    fn key(key_id: &str, tainted: bool) -> JwtAuthority {
        JwtAuthority {
            key_id: key_id.to_owned(),
            public_key_der: vec![1],
            expires_at: None,
            tainted,
        }
    }

    fn bundle(roots: Vec<X509Authority>, keys: Vec<JwtAuthority>) -> Bundle {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let (x509_authorities, jwt_authorities) = (roots, keys);
        Bundle { x509_authorities, jwt_authorities, ..Bundle::empty(trust_domain) }
    }

    /// An active authority whose chain ends below a root.
    fn active(public_der: &[u8], last: &[u8]) -> Journal {
        let authority = Authority {
            id: AuthorityId::new("a"),
            kind: AuthorityKind::X509,
            status: AuthorityStatus::Active,
            public_der: public_der.to_vec(),
            upstream_chain: vec![last.to_vec()],
            sealed_key: SealedKey::destroyed(),
            issued_at: START,
            not_after: START.plus(Duration::from_secs(3600)),
            tainted: false,
        };
        Journal { revision: 1, authorities: vec![authority] }
    }

    #[test]
    fn what_is_new_above_is_added_and_what_is_tainted_or_gone_there_follows() {
        let trust = UpstreamTrust {
            x509_authorities: vec![root(b"a", false), root(b"b", false), root(b"t", true)],
            jwt_authorities: vec![key("k1", false), key("k2", false), key("k3", true)],
        };
        let journal = active(b"own", b"none");
        let here = bundle(
            vec![root(b"a", false), root(b"gone", true), root(b"left", false), root(b"own", true)],
            vec![key("k1", true)],
        );
        let expected = Changes {
            add: vec![b"b".to_vec()],
            keys: vec![key("k2", false)],
            rotate: false,
            taint: Vec::new(),
            revoke: vec![b"gone".to_vec()],
        };
        assert_eq!(changes(&journal, &here, &trust), expected);

        let here = bundle(vec![root(b"a", true), root(b"b", false), root(b"t", false)], Vec::new());
        let taint = changes(&journal, &here, &trust);
        assert_eq!(taint.taint, [b"t".to_vec()]);
        assert!(!taint.rotate, "nothing signs below it");
        assert!(taint.revoke.is_empty(), "an operator marked it here, it is in use above");
        let after = bundle(
            vec![root(b"a", false), root(b"b", false), root(b"t", true)],
            trust.jwt_authorities.clone(),
        );
        assert_eq!(changes(&journal, &after, &trust), Changes::default());
    }

    #[test]
    fn an_authority_below_a_root_that_is_tainted_above_is_replaced_first() {
        let (first, second) = (Fake::new(START, Mood::Fails), Fake::new(START, Mood::Fails));
        let journal = active(b"own", &first.intermediate);
        let here = bundle(vec![root(&first.root, false), root(&second.root, false)], Vec::new());
        for (tainted, other, rotate) in [(&first, &second, true), (&second, &first, false)] {
            let x509_authorities = vec![root(&tainted.root, true), root(&other.root, false)];
            let trust = UpstreamTrust { x509_authorities, jwt_authorities: Vec::new() };
            assert_eq!(changes(&journal, &here, &trust).rotate, rotate);
        }
    }
}

//! The bundle endpoints of a cluster: what each replica presents, and what it gives out.

use std::sync::Arc;
use std::time::Duration;

use steeple_federation::Document;
use steeple_spiffe_core::bundle::{Bundle, document};
use steeple_spiffe_core::signer::Signer as _;
use steeple_spiffe_core::{AuthorityId, SpiffeId, Timestamp};

use super::super::issuer::X509Params;
use super::super::planner::Evidence;
use super::super::server_svid::{Due, due};
use super::judge::Signed;
use super::member::Condition;
use super::world::World;

/// What one replica answers.
pub(super) struct Served {
    /// The chain that it presents.
    pub(super) chain_der: Vec<Vec<u8>>,
    pub(super) bundle: Arc<Bundle>,
    /// When that was everything that was committed.
    pub(super) current_at: Timestamp,
}

impl World {
    /// What a replica answers, in contact or not, for as long as it runs.
    pub(super) fn endpoint(&mut self, index: usize) -> Option<Served> {
        match self.members[index].condition {
            Condition::Down { .. } => return None,
            Condition::Well => self.catch_up(index),
            Condition::Stalled { .. } | Condition::Cut { .. } => {}
        }
        if self.members[index].server.is_none() {
            self.renew_server(index);
        }
        let member = &self.members[index];
        let chain_der = member.server.as_ref()?.chain_der.clone();
        let (bundle, current_at) = (member.bundle()?, member.current_at);
        // It must be the one of its sequence number.
        self.judge.ids(&bundle);
        Some(Served { chain_der, bundle, current_at })
    }

    /// The document of a bundle, as peers read it.
    pub(super) fn document(&self, bundle: &Bundle) -> Document {
        Document::of(bundle, self.common.policy.refresh_hint.unwrap())
    }

    /// The bundle that peers read from the newest document.
    pub(super) fn published(&self) -> Bundle {
        let (newest, _) = self.judge.known(self.judge.newest()).unwrap();
        read(&self.document(newest), newest)
    }

    /// Every server renews its own SVID when that is due, whether anyone asks or not.
    pub(super) fn renew_servers(&mut self) {
        for index in 0..self.members.len() {
            match self.members[index].condition {
                Condition::Down { .. } => continue,
                Condition::Well => self.catch_up(index),
                Condition::Stalled { .. } | Condition::Cut { .. } => {}
            }
            if self.server_is_due(index) {
                self.renew_server(index);
            }
        }
    }

    fn server_is_due(&self, index: usize) -> bool {
        let member = &self.members[index];
        let Some(current) = &member.server else { return true };
        member.issuer.refresh();
        let (journal, active) = (member.journal(), member.issuer.active_x509_authority());
        let is_current = active.as_ref() == Some(&current.authority_id);
        let tainted =
            |id: &AuthorityId| journal.authorities.iter().any(|one| one.id == *id && one.tainted);
        let is_left = tainted(&current.authority_id) && active.is_some() && !is_current;
        let now = member.time();
        let found = journal.authorities.iter().find(|one| Some(&one.id) == active.as_ref());
        let is_known = |one| self.report(index, one).judge(now) == Evidence::Complete;
        match due(current, now, is_left) {
            Due::No => false,
            Due::OnceKnown => is_current || found.is_some_and(is_known),
            Due::Now => true,
        }
    }

    /// What cannot be renewed is presented until it ends, and after.
    fn renew_server(&mut self, index: usize) {
        let member = &self.members[index];
        member.issuer.refresh();
        let issued = member.issuer.sign_x509(X509Params {
            spiffe_id: SpiffeId::server(self.common.trust_domain.clone()),
            dns_names: Vec::new(),
            subject: None,
            public_key_spki: self.workload.public_key_spki().to_vec(),
            ttl: Duration::ZERO,
        });
        let Ok(issued) = issued else { return };
        let (strict, limit) =
            (member.condition == Condition::Well, self.common.policy.skew_limit());
        self.judge.signed(self.now, strict, limit, Signed::x509(issued.clone()));
        self.members[index].server = Some(issued);
    }
}

/// What a peer makes of a document.
pub(super) fn read(document: &Document, bundle: &Bundle) -> Bundle {
    let text = std::str::from_utf8(document.body()).unwrap();
    document::from_json(bundle.trust_domain.clone(), text).unwrap()
}

//! What is asked about authorities, upstream roots, cluster keys and what is sealed under them.

use std::time::Duration;

use steeple_raft_store::command::{ResealAuthority, RootChange, WriteSealed};
use steeple_raft_store::{Command, SealedName};
use steeple_spiffe_core::authority::{
    Authority, AuthorityId, AuthorityKind, AuthorityStatus, SealedKey,
};
use steeple_spiffe_core::bundle::X509Authority;

use super::{Operation, TRUST_DOMAIN, Workload};
use crate::authorities;
use crate::cluster_keys::Rows;
use crate::kept;
use crate::reference::Reference;
use crate::rows::Key;

/// How certificates of upstream roots begin, in simulations.
const ROOT: &[u8] = b"root";

/// So many upstream roots there are to be, about.
const ROOTS_FEW: usize = 3;

impl Workload {
    /// Sometimes another cluster key, and more often the next step towards it.
    fn cluster_key(&mut self, rows: &Rows) -> Option<Command> {
        let seals = rows.seals().to_owned();
        let left = rows.journal.authorities.iter().filter(|one| {
            one.sealed_key.kek_id != seals && one.sealed_key != SealedKey::destroyed()
        });
        let left: Vec<Authority> = left.cloned().collect();
        if let Some(one) = self.dice.pick(&left)
            && self.dice.chance(0.6)
        {
            let (kind, id, seen) = (one.kind, one.id.clone(), one.sealed_key.clone());
            let nonce = [self.number().to_be_bytes().as_slice(), &[0; 4]].concat();
            let sealed_key = SealedKey { kek_id: seals, nonce, ..seen.clone() };
            let (seen_kek_id, seen_nonce) = (seen.kek_id, seen.nonce);
            let reseal = ResealAuthority { kind, id, seen_kek_id, seen_nonce, sealed_key };
            return Some(Command::ResealAuthority(Box::new(reseal)));
        }
        if !self.dice.chance(0.1) {
            return None;
        }
        let (first, second) = &self.keys;
        let to = if seals == *first { second.clone() } else { first.clone() };
        Some(Command::MoveClusterKey { expected: seals, to })
    }

    pub(super) fn authority(&mut self, known: &Reference) -> Command {
        let rows = rows(known);
        if let Some(command) = self.cluster_key(&rows) {
            return command;
        }
        let expected_journal = rows.journal.revision;
        let of_status = |status: AuthorityStatus| {
            let all = rows.journal.authorities.iter();
            all.filter(|one| one.status == status).cloned().collect::<Vec<_>>()
        };
        let prepared = of_status(AuthorityStatus::Prepared);
        let old = [of_status(AuthorityStatus::Old), of_status(AuthorityStatus::Revoked)].concat();
        if let Some(one) = self.dice.pick(&old)
            && self.dice.chance(0.4)
        {
            let (kind, id) = (one.kind, one.id.clone());
            return if one.tainted {
                Command::RevokeAuthority { expected_journal, kind, id }
            } else {
                Command::TaintAuthority { expected_journal, kind, id }
            };
        }
        if let Some(one) = self.dice.pick(&old)
            && self.dice.chance(0.4)
        {
            let ids = vec![(one.kind, one.id.clone())];
            return Command::PruneAuthorities { expected_journal, ids };
        }
        if let Some(one) = self.dice.pick(&prepared)
            && self.dice.chance(0.7)
        {
            let (kind, id) = (one.kind, one.id.clone());
            return Command::ActivateAuthority { expected_journal, kind, id };
        }
        let kind = *self.dice.pick(&AuthorityKind::ALL).unwrap_or(&AuthorityKind::X509);
        let authority = Box::new(self.prepared(known, kind));
        Command::PrepareAuthority { expected_journal, authority }
    }

    /// An authority that nobody has.
    fn prepared(&mut self, known: &Reference, kind: AuthorityKind) -> Authority {
        let seals = rows(known).seals().to_owned();
        let (number, now) = (self.number(), known.time());
        Authority {
            id: AuthorityId::new(format!("k{number}")),
            kind,
            status: AuthorityStatus::Prepared,
            public_der: number.to_be_bytes().to_vec(),
            upstream_chain: Vec::new(),
            sealed_key: SealedKey {
                // Newcomers are refused that do not hold the key that seals.
                kek_id: if seals.is_empty() { self.keys.0.clone() } else { seals },
                version: 1,
                nonce: vec![0; 12],
                ciphertext: vec![1, 2, 3],
            },
            issued_at: now,
            not_after: now.plus(Duration::from_secs(86_400)),
            tainted: false,
        }
    }

    /// One of the values that are kept sealed, from the version that is known, or from an older
    /// one.
    pub(super) fn seal(&mut self, known: &Reference) -> Command {
        let names = [SealedName::AcmeAccount, SealedName::AcmeCertificate, SealedName::AcmeAttempt];
        let name = *self.dice.pick(&names).unwrap_or(&SealedName::AcmeAccount);
        let stored = known.row(&Key::Sealed(name.number()));
        let expected = kept::sealed(stored).map_or(0, |value| value.version);
        let expected = if self.dice.chance(0.1) { expected.saturating_sub(1) } else { expected };
        let rows = rows(known);
        let kek_id =
            if rows.seals().is_empty() { self.keys.0.clone() } else { rows.seals().to_owned() };
        let nonce = [self.number().to_be_bytes().as_slice(), &[0; 4]].concat();
        let sealed = SealedKey { kek_id, version: 1, nonce, ciphertext: vec![1, 2, 3] };
        Command::WriteSealed(Box::new(WriteSealed { name, expected, sealed }))
    }

    /// Roots of an upstream authority: some come, some are tainted, revoked, or pruned, and an
    /// authority chains to one.
    pub(super) fn roots(&mut self, known: &Reference) -> Operation {
        let rows = rows(known);
        let expected_journal = rows.journal.revision;
        let own = Key::Bundle(TRUST_DOMAIN.to_owned());
        let bundle = kept::bundle(known.row(&own)).map(|bundle| bundle.x509_authorities.as_slice());
        let is_root = |one: &&X509Authority| one.certificate_der.starts_with(ROOT);
        let there: Vec<X509Authority> =
            bundle.unwrap_or_default().iter().filter(is_root).cloned().collect();
        let fresh = [ROOT, &self.number().to_be_bytes()].concat();
        let is_few = there.len() < ROOTS_FEW;
        let Some(one) = self.dice.pick(&there).filter(|_| !is_few || self.dice.chance(0.5)) else {
            let (change, roots) = (RootChange::Add, vec![fresh]);
            return Operation::Command(Command::ChangeRoots { expected_journal, change, roots });
        };
        let roots = vec![one.certificate_der.clone()];
        match self.dice.within(0..=9) {
            0..=2 => Operation::Duty(Command::PruneBundle {
                expected_journal,
                roots,
                key_ids: Vec::new(),
            }),
            3..=4 => {
                let roots = if self.dice.chance(0.5) { roots } else { vec![fresh] };
                let upstream_chain = vec![b"chain".to_vec()];
                let authority = self.prepared(known, AuthorityKind::X509);
                let authority = Box::new(Authority { upstream_chain, ..authority });
                Operation::Command(Command::PrepareChained { expected_journal, authority, roots })
            }
            _ => {
                let change = if one.tainted { RootChange::Revoke } else { RootChange::Taint };
                Operation::Command(Command::ChangeRoots { expected_journal, change, roots })
            }
        }
    }
}

/// The rows that commands about authorities are made from.
fn rows(known: &Reference) -> Rows {
    Rows::of(known.row(&Key::Cluster), authorities::journal(known.row(&Key::Journal)))
}

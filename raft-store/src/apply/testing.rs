//! A registry in memory and short ways to say entries, agents and commands, for tests of apply and of
//! what stores its rows.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use steeple_spiffe_core::agent::{AgentRecord, Serial, Serials};
use steeple_spiffe_core::authority::{
    Authority, AuthorityId, AuthorityKind, AuthorityStatus, SealedKey,
};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::entry::{EntryId, EntryUpdate, RegistrationEntry};
use steeple_spiffe_core::selector::{Selector, SelectorSet};
use steeple_spiffe_core::time::Timestamp;
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use crate::apply::{self, Rows, Table, Tables, Transaction, snapshot_changes};
use crate::change::{Change, Journal};
use crate::codec::command_to_pb;
use crate::command::{AdmitAgent, Command, CreateJoinToken, InitCluster};
use crate::ids::ClusterId;
use crate::level::FEATURE_LEVEL_MAX;
use crate::mem::MemoryTables;
use crate::outcome::{Applied, EntryOutcome, Outcome, Rejection};
use crate::pb;

/// When tests begin.
pub(crate) const START_MS: i64 = 1_800_000_000_000;

/// A registry in memory and its place in the log.
pub(crate) struct Registry {
    pub(crate) tables: MemoryTables,
    pub(crate) index: u64,
    pub(crate) now: Timestamp,
}

impl Registry {
    pub(crate) fn empty() -> Self {
        let now = Timestamp::from_unix_ms(START_MS);
        Self { tables: MemoryTables::default(), index: 0, now }
    }

    pub(crate) fn formed() -> Self {
        let mut registry = Self::empty();
        registry.run(init()).outcome.unwrap();
        registry
    }

    /// The bundle of the cluster's own trust domain.
    pub(crate) fn bundle(&self) -> Arc<Bundle> {
        let mut changes = snapshot_changes(&self.tables).unwrap().into_iter();
        let bundle = changes.find_map(|change| {
            let Change::BundleWritten { bundle, .. } = change else { return None };
            Some(bundle)
        });
        bundle.unwrap()
    }

    pub(crate) fn run(&mut self, command: Command) -> Applied {
        self.run_as(command, [0; 16]).0
    }

    pub(crate) fn run_as(&mut self, command: Command, id: [u8; 16]) -> (Applied, Vec<Change>) {
        self.index += 1;
        let envelope = envelope(&command, id, self.now);
        let mut txn = Transaction::new(&self.tables);
        let done = apply::apply(&mut txn, self.index, &envelope).unwrap();
        let writes = txn.into_writes();
        self.tables.commit(writes).unwrap();
        (done.applied.unwrap(), done.batch.changes)
    }

    pub(crate) fn accepted(&mut self, command: Command) -> Outcome {
        self.run(command).outcome.unwrap()
    }

    pub(crate) fn rejected(&mut self, command: Command) -> Rejection {
        self.run(command).outcome.unwrap_err()
    }

    pub(crate) fn advance(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    pub(crate) fn agent(&self, id: &str) -> Option<AgentRecord> {
        snapshot_changes(&self.tables).unwrap().into_iter().find_map(|change| {
            let Change::AgentWritten { agent, .. } = change else { return None };
            (agent.id == spiffe(id)).then(|| (*agent).clone())
        })
    }

    pub(crate) fn count(&self, table: Table) -> usize {
        self.tables.scan(table, &[], usize::MAX).unwrap().len()
    }

    pub(crate) fn journal(&self) -> Journal {
        snapshot_changes(&self.tables)
            .unwrap()
            .into_iter()
            .find_map(|change| {
                let Change::JournalWritten(journal) = change else { return None };
                Some((*journal).clone())
            })
            .unwrap_or_default()
    }
}

pub(crate) fn envelope(command: &Command, id: [u8; 16], now: Timestamp) -> Vec<u8> {
    let command = command_to_pb(command);
    let body_hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &command.encode_to_vec());
    pb::store::Envelope {
        request_id: if id == [0; 16] { Vec::new() } else { id.to_vec() },
        time_unix_ms: now.unix_ms(),
        body_hash: body_hash.as_ref().to_vec(),
        command: Some(command),
    }
    .encode_to_vec()
}

pub(crate) fn init() -> Command {
    Command::InitCluster(InitCluster {
        cluster_id: ClusterId(7),
        name: "prod".to_owned(),
        trust_domain: td("example.org"),
        feature_level: FEATURE_LEVEL_MAX,
    })
}

pub(crate) fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn spiffe(path: &str) -> SpiffeId {
    SpiffeId::new(td("example.org"), path).unwrap()
}

pub(crate) fn entry_id(text: &str) -> EntryId {
    EntryId::parse(text).unwrap()
}

pub(crate) fn selectors(texts: &[&str]) -> SelectorSet {
    texts.iter().map(|text| Selector::parse(text).unwrap()).collect()
}

pub(crate) fn entry(id: &str, path: &str, selector: &str) -> RegistrationEntry {
    RegistrationEntry {
        revision: 9,
        ..RegistrationEntry::new(
            entry_id(id),
            spiffe(path),
            spiffe("/spire/agent/a"),
            selectors(&[selector]),
        )
    }
}

pub(crate) fn update(id: &str) -> EntryUpdate {
    EntryUpdate::of(entry_id(id))
}

pub(crate) fn item(outcome: Outcome) -> EntryOutcome {
    let Outcome::Entries(mut items) = outcome else { panic!("no items: {outcome:?}") };
    assert_eq!(items.len(), 1, "{items:?}");
    items.remove(0)
}

pub(crate) fn serial(number: u32) -> Serial {
    Serial::from_decimal(&number.to_string()).unwrap()
}

pub(crate) fn serials(current: Option<u32>, pending: Option<u32>) -> Serials {
    Serials { current: current.map(serial), pending: pending.map(serial) }
}

pub(crate) fn admit(id: &str, number: u32, seen: Option<Serials>) -> AdmitAgent {
    AdmitAgent {
        token: None,
        agent_id: spiffe(id),
        attestation_type: "x509pop".to_owned(),
        serial: serial(number),
        not_after: Timestamp::from_unix_ms(START_MS).plus(Duration::from_secs(3600)),
        selectors: selectors(&["x509pop:ca:1"]),
        can_reattest: true,
        seen,
    }
}

pub(crate) fn token(value: &str, expires_in_s: u64) -> CreateJoinToken {
    CreateJoinToken {
        token: value.to_owned(),
        expires_at: Timestamp::from_unix_ms(START_MS).plus(Duration::from_secs(expires_in_s)),
        alias: None,
    }
}

pub(crate) fn authority(kind: AuthorityKind, id: &str) -> Box<Authority> {
    Box::new(Authority {
        id: AuthorityId::new(id),
        kind,
        status: AuthorityStatus::Active,
        public_der: id.as_bytes().to_vec(),
        upstream_chain: Vec::new(),
        sealed_key: SealedKey {
            kek_id: "k".to_owned(),
            version: 1,
            nonce: vec![0; 12],
            ciphertext: vec![1, 2, 3],
        },
        issued_at: Timestamp::from_unix_ms(START_MS),
        not_after: Timestamp::from_unix_ms(START_MS).plus(Duration::from_secs(86_400)),
        tainted: false,
    })
}

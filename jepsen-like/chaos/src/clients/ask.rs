//! What a client asks, in the checker's words, and what comes back of entries and agents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use steeple_api::pb;
use steeple_checker::history as h;
use steeple_checker::history::operation::ANY;
use steeple_testkit::cluster::TRUST_DOMAIN;

/// A question or a wish.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Entries are created, in one batch.
    Create(Vec<NewEntry>),
    /// An entry gets another hint.
    Update { id: String, hint: String },
    /// Entries are deleted, in one batch.
    Delete(Vec<String>),
    /// An entry is read.
    Get(String),
    /// The entries of a parent are listed, or all.
    List { listing: u64, parent: Option<String> },
    /// All entries are counted.
    Count,
    /// A join token is made; it does not end within a run.
    Token(String),
    /// A token is redeemed with a client's key.
    Attest { token: String, client: u64 },
    /// An agent is banned.
    Ban(String),
    /// An agent is deleted.
    Forget(String),
    /// An agent is read.
    Agent(String),
    /// All agents are counted.
    CountAgents,
}

/// An entry to be created.
#[derive(Clone, Debug)]
pub(crate) struct NewEntry {
    /// Its id.
    pub(crate) id: String,
    /// The path of its SPIFFE ID.
    pub(crate) path: String,
    /// The path of its parent.
    pub(crate) parent: String,
    /// Its only selector.
    pub(crate) selector: (String, String),
    /// How long its SVIDs live in seconds; 0: as the server is configured.
    pub(crate) ttl_s: i32,
}

/// What a restore adds to the revision of each entry: more than anyone can have changed in an
/// epoch.
const RESTORE_ADDS: i64 = 1 << 20;

/// How long tokens live: longer than any run.
pub(crate) const TOKEN_TTL_S: i32 = 86_400;

impl Ask {
    /// Whether the same attempt may be sent again under its request id. A token's expiry and an
    /// agent's certificate are made anew by each attempt, so those are other requests.
    pub(crate) fn may_repeat(&self) -> bool {
        !matches!(self, Self::Token(_) | Self::Attest { .. })
    }

    /// In the checker's words.
    pub(crate) fn operation(&self) -> h::Operation {
        match self {
            Self::Create(entries) => {
                h::Operation::CreateEntries(entries.iter().map(NewEntry::recorded).collect())
            }
            Self::Update { id, hint } => h::Operation::UpdateEntries(vec![h::EntryUpdate {
                id: id.clone(),
                hint: Some(hint.clone()),
                ..h::EntryUpdate::default()
            }]),
            Self::Delete(ids) => h::Operation::DeleteEntries(ids.clone()),
            Self::Get(id) => h::Operation::GetEntry { id: id.clone() },
            Self::List { listing, parent } => h::Operation::ListEntries {
                listing: *listing,
                first: true,
                filter: h::Filter {
                    parent_id: parent.as_deref().map(full_id),
                    ..h::Filter::default()
                },
            },
            Self::Count => h::Operation::CountEntries,
            Self::Token(token) => h::Operation::CreateToken(h::Token {
                token: token.clone(),
                expires_at_ms: i64::MAX / 2,
                alias: None,
            }),
            Self::Attest { token, client } => h::Operation::AdmitAgent(h::Admission {
                token: Some(token.clone()),
                agent_id: full_id(&agent_path(token)),
                attestation_type: "join_token".to_owned(),
                serial: ANY.to_owned(),
                not_after_ms: None,
                selectors: BTreeSet::new(),
                can_reattest: false,
                seen: h::Seen::Any,
                public_key: format!("key of client {client}"),
            }),
            Self::Ban(token) => h::Operation::BanAgent { agent_id: full_id(&agent_path(token)) },
            Self::Forget(token) => {
                h::Operation::DeleteAgent { agent_id: full_id(&agent_path(token)) }
            }
            Self::Agent(token) => h::Operation::GetAgent { agent_id: full_id(&agent_path(token)) },
            Self::CountAgents => h::Operation::CountAgents,
        }
    }
}

impl NewEntry {
    /// One that no agent has. Two ids may have the same likeness: one of them is refused.
    pub(crate) fn alike(id: String, likeness: &str, parent: String) -> Self {
        Self {
            id,
            path: format!("/chaos/{likeness}"),
            parent,
            selector: ("unix".to_owned(), format!("user:{likeness}")),
            ttl_s: 0,
        }
    }

    fn recorded(&self) -> h::Entry {
        h::Entry {
            id: self.id.clone(),
            spiffe_id: full_id(&self.path),
            parent_id: full_id(&self.parent),
            selectors: BTreeSet::from([format!("{}:{}", self.selector.0, self.selector.1)]),
            ..h::Entry::default()
        }
    }

    /// As the API has it.
    pub(crate) fn message(&self) -> pb::types::Entry {
        pb::types::Entry {
            id: self.id.clone(),
            spiffe_id: Some(spiffe_id(&self.path)),
            parent_id: Some(spiffe_id(&self.parent)),
            selectors: vec![pb::types::Selector {
                r#type: self.selector.0.clone(),
                value: self.selector.1.clone(),
            }],
            x509_svid_ttl: self.ttl_s,
            jwt_svid_ttl: self.ttl_s,
            ..pb::types::Entry::default()
        }
    }
}

/// The path of the agent that a token admits.
pub(crate) fn agent_path(token: &str) -> String {
    format!("/spire/agent/join_token/{token}")
}

/// An id of the trust domain, as the API has it.
pub(crate) fn spiffe_id(path: &str) -> pb::types::Spiffeid {
    pb::types::Spiffeid { trust_domain: TRUST_DOMAIN.to_owned(), path: path.to_owned() }
}

fn full_id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}{path}")
}

fn id_text(id: Option<pb::types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path)).unwrap_or_default()
}

fn selectors(all: Vec<pb::types::Selector>) -> BTreeSet<String> {
    all.into_iter().map(|selector| format!("{}:{}", selector.r#type, selector.value)).collect()
}

/// An entry as it came back.
pub(crate) fn entry(told: pb::types::Entry) -> Arc<h::Entry> {
    Arc::new(h::Entry {
        id: told.id,
        spiffe_id: id_text(told.spiffe_id),
        parent_id: id_text(told.parent_id),
        selectors: selectors(told.selectors),
        federates_with: told.federates_with.into_iter().collect(),
        expires_at_s: told.expires_at,
        store_svid: told.store_svid,
        hint: told.hint,
        attributes: BTreeMap::new(),
        // How often it was changed, which no restore changes: the checker need not be told of any.
        revision: told.revision_number % RESTORE_ADDS,
    })
}

/// An agent as it came back.
pub(crate) fn agent(told: pb::types::Agent) -> Arc<h::Agent> {
    Arc::new(h::Agent {
        id: id_text(told.id),
        attestation_type: told.attestation_type,
        current: (!told.banned).then_some(told.x509svid_serial_number),
        pending: Some(ANY.to_owned()),
        not_after_ms: None,
        selectors: selectors(told.selectors),
        can_reattest: told.can_reattest,
        version: told.agent_version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_recorded_with_its_changes_whatever_was_restored() {
        let told = |revision_number| {
            entry(pb::types::Entry { revision_number, ..pb::types::Entry::default() }).revision
        };
        assert_eq!((told(0), told(3)), (0, 3));
        assert_eq!((told(RESTORE_ADDS + 3), told(2 * RESTORE_ADDS)), (3, 0));
    }
}

//! Agents that a restored state has forgotten, wholly or in part: adopted by the serial that they
//! present, once each in an epoch.
//!
//! Whether a certificate is one of the lost ones is found out before (it verifies, and was issued
//! between the time that the state knew last and the new epoch); here it counts what the rows say.
//! A known agent's newer serial is adopted whatever was decided; an unknown agent is recorded only if
//! that was. An agent that was deleted in this epoch stays deleted, one that is banned stays banned.

use std::sync::Arc;

use steeple_spiffe_core::SpiffeId;
use steeple_spiffe_core::agent::{AgentRecord, Serials};

use crate::apply::agents;
use crate::apply::dispatch::Verdict;
use crate::apply::step::Step;
use crate::apply::table::{SINGLE, Table};
use crate::apply::txn::{Rows, TableError};
use crate::change::{Change, Restored, UnknownAgents};
use crate::codec::cluster_to_pb;
use crate::command::AdoptAgent;
use crate::limits::AGENTS_MAX;
use crate::outcome::{Outcome, Rejection};

pub(super) fn adopt(step: &mut Step<'_, '_>, adopt: AdoptAgent) -> Verdict {
    let Some(restored) = restored(step) else { return Ok(Err(Rejection::NothingToAdopt)) };
    let found = agents::find(step, &adopt.agent_id)?;
    if found.as_ref().is_some_and(|(_, agent)| agent.is_banned()) {
        return Ok(Err(Rejection::AgentBanned));
    }
    if found.as_ref().map(|(_, agent)| &agent.serials) != adopt.seen.as_ref() {
        return Ok(Err(Rejection::SerialsChanged));
    }
    if is_marked(step, &adopt.agent_id)? {
        return Ok(Err(Rejection::NothingToAdopt));
    }
    let serials = Serials { current: Some(adopt.serial), pending: None };
    match found {
        Some((row, old)) => {
            let not_after = adopt.not_after;
            let new = AgentRecord { serials, not_after, pending_not_after: None, ..old.clone() };
            agents::replace(step, row, &old, new);
        }
        None => match restored.unknown_agents {
            UnknownAgents::Adopt if step.counters.agents >= AGENTS_MAX => {
                let what = "agents".into();
                return Ok(Err(Rejection::LimitReached { what, limit: AGENTS_MAX }));
            }
            UnknownAgents::Adopt => {
                let row = step.mint_row();
                step.counters.agents += 1;
                let new = AgentRecord {
                    id: adopt.agent_id.clone(),
                    attestation_type: adopt.attestation_type,
                    serials,
                    not_after: adopt.not_after,
                    pending_not_after: None,
                    // They come back when it attests again; a join token gives none.
                    selectors: Default::default(),
                    can_reattest: adopt.can_reattest,
                    agent_version: String::new(),
                    attested_at: step.now,
                };
                agents::write(step, row, new);
            }
            UnknownAgents::Undecided | UnknownAgents::Refuse => {
                return Ok(Err(Rejection::NothingToAdopt));
            }
        },
    }
    mark(step, &adopt.agent_id);
    Ok(Ok(Outcome::Done))
}

/// Decides about agents that the state does not know.
pub(super) fn decide(step: &mut Step<'_, '_>, decision: UnknownAgents) -> Verdict {
    let Some(restored) = restored(step) else { return Ok(Err(Rejection::NothingToAdopt)) };
    let Some(mut cluster) = step.cluster.clone() else { return Ok(Err(Rejection::NotInitialised)) };
    cluster.restored = Some(Restored { unknown_agents: decision, ..restored });
    step.put(Table::Cluster, SINGLE, &cluster_to_pb(&cluster));
    step.cluster = Some(cluster.clone());
    step.changes.push(Change::ClusterWritten(Arc::new(cluster)));
    Ok(Ok(Outcome::Done))
}

/// Keeps an agent that is deleted in a restored cluster from being adopted.
pub(super) fn forget(step: &mut Step<'_, '_>, id: &SpiffeId) {
    if restored(step).is_some() {
        mark(step, id);
    }
}

fn restored(step: &Step<'_, '_>) -> Option<Restored> {
    step.cluster.as_ref().and_then(|cluster| cluster.restored)
}

fn is_marked(step: &Step<'_, '_>, id: &SpiffeId) -> Result<bool, TableError> {
    Ok(step.txn.get(Table::AdoptedAgents, id.to_string().as_bytes())?.is_some())
}

fn mark(step: &mut Step<'_, '_>, id: &SpiffeId) {
    step.txn.put(Table::AdoptedAgents, id.to_string().as_bytes(), Vec::new());
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::time::Timestamp;

    use super::*;
    use crate::apply::testing::{Registry, START_MS, admit, serial, serials, spiffe};
    use crate::apply::{Tables, WriteSet, read_cluster};
    use crate::change::ClusterState;
    use crate::command::Command;
    use prost::Message;

    const AGENT: &str = "/spire/agent/x509pop/a";

    fn restored_registry() -> Registry {
        let registry = Registry::formed();
        let cluster = read_cluster(&registry.tables).unwrap().unwrap();
        let at = Timestamp::from_unix_ms(START_MS);
        let restored = Restored { lost_from: at, at, unknown_agents: UnknownAgents::Undecided };
        let cluster = ClusterState { epoch: 2, restored: Some(restored), ..cluster };
        let row = cluster_to_pb(&cluster).encode_to_vec();
        let writes = WriteSet::from([((Table::Cluster, SINGLE.to_vec()), Some(row))]);
        registry.tables.commit(writes).unwrap();
        registry
    }

    fn adopt(number: u32, seen: Option<Serials>) -> Command {
        Command::AdoptAgent(AdoptAgent {
            agent_id: spiffe(AGENT),
            attestation_type: "x509pop".to_owned(),
            serial: serial(number),
            not_after: Timestamp::from_unix_ms(START_MS + 5000),
            can_reattest: true,
            seen,
        })
    }

    #[test]
    fn a_known_agents_newer_serial_is_adopted_once() {
        let mut registry = restored_registry();
        registry.accepted(Command::AdmitAgent(admit(AGENT, 1, None)));
        let seen = || Some(serials(Some(1), None));
        assert_eq!(registry.rejected(adopt(2, None)), Rejection::SerialsChanged);
        assert_eq!(
            registry.rejected(adopt(2, Some(serials(Some(7), None)))),
            Rejection::SerialsChanged
        );
        registry.accepted(adopt(2, seen()));
        let agent = registry.agent(AGENT).unwrap();
        assert_eq!(agent.serials, serials(Some(2), None));
        assert_eq!(agent.not_after, Timestamp::from_unix_ms(START_MS + 5000));
        assert!(!agent.selectors.is_empty(), "its selectors stay");
        let again = adopt(3, Some(serials(Some(2), None)));
        assert_eq!(registry.rejected(again), Rejection::NothingToAdopt);
    }

    #[test]
    fn an_unknown_agent_is_adopted_only_after_the_decision_and_never_after_its_deletion() {
        let mut registry = restored_registry();
        for decision in [UnknownAgents::Undecided, UnknownAgents::Refuse] {
            registry.accepted(Command::DecideAgents(decision));
            assert_eq!(registry.rejected(adopt(2, None)), Rejection::NothingToAdopt);
        }
        registry.accepted(Command::DecideAgents(UnknownAgents::Adopt));
        registry.accepted(adopt(2, None));
        let agent = registry.agent(AGENT).unwrap();
        assert_eq!((agent.serials, agent.can_reattest), (serials(Some(2), None), true));
        registry.accepted(Command::DeleteAgent(spiffe(AGENT)));
        assert_eq!(registry.rejected(adopt(3, None)), Rejection::NothingToAdopt);
        assert_eq!(registry.agent(AGENT), None);
    }

    #[test]
    fn a_banned_agent_stays_banned_and_one_deleted_since_stays_deleted() {
        let mut registry = restored_registry();
        registry.accepted(Command::DecideAgents(UnknownAgents::Adopt));
        registry.accepted(Command::AdmitAgent(admit(AGENT, 1, None)));
        registry.accepted(Command::BanAgent(spiffe(AGENT)));
        assert_eq!(registry.rejected(adopt(2, Some(Serials::default()))), Rejection::AgentBanned);
        registry.accepted(Command::DeleteAgent(spiffe(AGENT)));
        assert_eq!(registry.rejected(adopt(2, None)), Rejection::NothingToAdopt);
    }

    #[test]
    fn a_cluster_that_was_never_restored_adopts_no_one() {
        let mut registry = Registry::formed();
        assert_eq!(registry.rejected(adopt(2, None)), Rejection::NothingToAdopt);
        let decide = Command::DecideAgents(UnknownAgents::Adopt);
        assert_eq!(registry.rejected(decide), Rejection::NothingToAdopt);
    }
}

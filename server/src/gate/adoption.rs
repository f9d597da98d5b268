//! Agents that a restored state has forgotten (`docs/reference/cluster.md` 11). Pure.
//!
//! Owns which certificates may be such an agent's: those that verify (the handshake has seen to it)
//! and were issued after the last time that the state knew and before the epoch began. What becomes
//! of them is decided by the command.

use std::time::Duration;

use steeple_raft_store::change::{Restored, UnknownAgents};
use steeple_spiffe_core::{AgentRecord, SpiffeId, Timestamp};

use super::agent_check::Reason;
use crate::authority::BACKDATE;

/// A certificate is signed a moment before the command that records it is stamped, and by another
/// member's clock, which may be off by the skew limit.
const TOLERANCE: Duration = Duration::from_secs(60);

/// What to do about a certificate that does not speak for an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// It is none that the state may have forgotten: refuse it as ever.
    No,
    /// Its serial may be adopted; the command decides.
    Adopt,
    /// No one has decided about agents that the state does not know.
    Undecided,
}

/// The attestor's name in an agent's id: `/spire/agent/NAME/…`.
pub fn attestation_type(id: &SpiffeId) -> &str {
    let path = id.path().strip_prefix("/spire/agent/").unwrap_or_default();
    path.split('/').next().unwrap_or_default()
}

/// Judges a certificate that was refused for a reason.
pub fn judge(
    restored: Option<&Restored>,
    reason: Reason,
    record: Option<&AgentRecord>,
    not_before: Timestamp,
) -> Forgotten {
    let Some(restored) = restored else { return Forgotten::No };
    match reason {
        Reason::NotAttested | Reason::NotActive => {}
        Reason::Expired | Reason::Banned | Reason::ClocksDisagree { .. } => return Forgotten::No,
    }
    let issued = not_before.plus(BACKDATE);
    if issued.plus(TOLERANCE) < restored.lost_from || issued > restored.at {
        return Forgotten::No;
    }
    match (record, restored.unknown_agents) {
        (Some(_), _) | (None, UnknownAgents::Adopt) => Forgotten::Adopt,
        (None, UnknownAgents::Undecided) => Forgotten::Undecided,
        (None, UnknownAgents::Refuse) => Forgotten::No,
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::agent::Serials;
    use steeple_spiffe_core::{SelectorSet, Serial};

    use super::*;

    fn record() -> AgentRecord {
        let current = Some(Serial::from_decimal("1").expect("digits"));
        AgentRecord {
            id: SpiffeId::parse("spiffe://example.org/spire/agent/x509pop/a").expect("an id"),
            attestation_type: "x509pop".into(),
            serials: Serials { current, pending: None },
            not_after: Timestamp::from_unix_s(9000),
            pending_not_after: None,
            selectors: SelectorSet::new(),
            can_reattest: true,
            agent_version: String::new(),
            attested_at: Timestamp::from_unix_s(0),
        }
    }

    #[test]
    fn only_certificates_of_the_lost_time_are_forgotten_ones() {
        let at = Timestamp::from_unix_s;
        let restored =
            |unknown_agents| Restored { lost_from: at(1000), at: at(2000), unknown_agents };
        let (adopt, open) = (restored(UnknownAgents::Adopt), restored(UnknownAgents::Undecided));
        let refuse = restored(UnknownAgents::Refuse);
        let known = record();
        let known = Some(&known);
        // A certificate begins ten seconds before it is issued.
        let table = [
            ("never restored", None, Reason::NotActive, known, 1500, Forgotten::No),
            ("known, lost", Some(&open), Reason::NotActive, known, 1500, Forgotten::Adopt),
            ("known, refusing", Some(&refuse), Reason::NotActive, known, 1500, Forgotten::Adopt),
            ("just before", Some(&open), Reason::NotActive, known, 930, Forgotten::Adopt),
            ("long before", Some(&open), Reason::NotActive, known, 929, Forgotten::No),
            ("of the new epoch", Some(&open), Reason::NotActive, known, 1991, Forgotten::No),
            ("banned", Some(&adopt), Reason::Banned, known, 1500, Forgotten::No),
            ("expired", Some(&adopt), Reason::Expired, None, 1500, Forgotten::No),
            ("unknown", Some(&open), Reason::NotAttested, None, 1500, Forgotten::Undecided),
            ("unknown, adopt", Some(&adopt), Reason::NotAttested, None, 1500, Forgotten::Adopt),
            ("unknown, refuse", Some(&refuse), Reason::NotAttested, None, 1500, Forgotten::No),
            ("unknown, of before", Some(&adopt), Reason::NotAttested, None, 500, Forgotten::No),
        ];
        for (case, restored, reason, record, not_before, expected) in table {
            assert_eq!(judge(restored, reason, record, at(not_before)), expected, "{case}");
        }
    }
}

//! Whether an agent's certificate still speaks for the agent. Pure.
//!
//! Owns the checks of `spire-api` 0.5 in SPIRE's order. The verdict holds for the record it was
//! given: the gate asks again on a confirmed read before it tells an agent no, since each refusal
//! makes a stock agent delete its SVID or exit.

use steeple_spiffe_core::agent::Serials;
use steeple_spiffe_core::{AgentRecord, Serial, Timestamp};

/// What the record says about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the agent's current certificate.
    Current,
    /// It is the renewed one, presented for the first time: it becomes the current one.
    Pending {
        /// The pair that was seen; promotion compares and sets on it.
        seen: Serials,
    },
    /// It does not speak for an agent.
    Refused(Reason),
}

/// Why a certificate does not speak for an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The certificate has ended by every clock that was asked.
    Expired,
    /// The certificate has ended by this replica's clock but not by the cluster's: one of them is
    /// wrong, or the last write is too long ago, so nothing may be concluded.
    ClocksDisagree {
        /// This replica's clock, the one that is ahead.
        local: Timestamp,
        /// Cluster time, which is behind.
        cluster: Timestamp,
    },
    /// The registry knows no such agent.
    NotAttested,
    /// The agent is banned.
    Banned,
    /// The agent has another certificate by now.
    NotActive,
}

/// Judges a certificate by the agent's record. `local` is this replica's clock, `cluster` the time
/// stamped on the newest applied command.
pub fn judge(
    record: Option<&AgentRecord>,
    presented: &Serial,
    not_after: Timestamp,
    local: Timestamp,
    cluster: Timestamp,
) -> Verdict {
    if local > not_after {
        let ended = cluster > not_after;
        let disagree = Reason::ClocksDisagree { local, cluster };
        return Verdict::Refused(if ended { Reason::Expired } else { disagree });
    }
    let Some(record) = record else { return Verdict::Refused(Reason::NotAttested) };
    let Some(current) = &record.serials.current else { return Verdict::Refused(Reason::Banned) };
    if current == presented {
        return Verdict::Current;
    }
    if record.serials.pending.as_ref() == Some(presented) {
        return Verdict::Pending { seen: record.serials.clone() };
    }
    Verdict::Refused(Reason::NotActive)
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::{SelectorSet, SpiffeId};

    use super::*;

    fn serial(digits: &str) -> Serial {
        Serial::from_decimal(digits).expect("digits")
    }

    fn agent(current: Option<&str>, pending: Option<&str>) -> AgentRecord {
        AgentRecord {
            id: SpiffeId::parse("spiffe://example.org/spire/agent/x509pop/a").expect("an id"),
            attestation_type: "x509pop".into(),
            serials: Serials { current: current.map(serial), pending: pending.map(serial) },
            not_after: Timestamp::from_unix_s(1000),
            pending_not_after: None,
            selectors: SelectorSet::new(),
            can_reattest: true,
            agent_version: String::new(),
            attested_at: Timestamp::from_unix_s(0),
        }
    }

    #[test]
    fn a_certificate_is_judged_in_the_order_of_spire() {
        let seen = Serials { current: Some(serial("1")), pending: Some(serial("2")) };
        let refused = Verdict::Refused;
        let table = [
            ("current", Some(agent(Some("1"), None)), "1", 5, 5, Verdict::Current),
            (
                "current beside pending",
                Some(agent(Some("1"), Some("2"))),
                "1",
                5,
                5,
                Verdict::Current,
            ),
            ("pending", Some(agent(Some("1"), Some("2"))), "2", 5, 5, Verdict::Pending { seen }),
            ("superseded", Some(agent(Some("3"), None)), "1", 5, 5, refused(Reason::NotActive)),
            ("banned", Some(agent(None, None)), "1", 5, 5, refused(Reason::Banned)),
            ("unknown", None, "1", 5, 5, refused(Reason::NotAttested)),
            ("expired and unknown", None, "1", 101, 101, refused(Reason::Expired)),
            (
                "expired and banned",
                Some(agent(None, None)),
                "1",
                101,
                101,
                refused(Reason::Expired),
            ),
            ("in its last second", Some(agent(Some("1"), None)), "1", 100, 100, Verdict::Current),
            (
                "expired by one clock only",
                Some(agent(Some("1"), None)),
                "1",
                101,
                99,
                refused(Reason::ClocksDisagree {
                    local: Timestamp::from_unix_s(101),
                    cluster: Timestamp::from_unix_s(99),
                }),
            ),
        ];
        for (case, record, presented, local, cluster, expected) in table {
            let verdict = judge(
                record.as_ref(),
                &serial(presented),
                Timestamp::from_unix_s(100),
                Timestamp::from_unix_s(local),
                Timestamp::from_unix_s(cluster),
            );
            assert_eq!(verdict, expected, "{case}");
        }
    }
}

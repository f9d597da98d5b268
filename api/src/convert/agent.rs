//! Attested agents: to answers with a mask, and the one filter that is a text.
//!
//! No request carries an agent, so there is no way in. Ids of agents are checked in `id`.

use steeple_spiffe_core::{AgentRecord, Timestamp};
use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

use super::entry_mask::keep;
use super::{id, selector};
use crate::pb;

/// The message of an agent, every field filled. A banned agent has no serial number (SPIRE's rule).
pub fn to_pb(agent: &AgentRecord) -> pb::types::Agent {
    let serial = agent.serials.current.as_ref();
    pb::types::Agent {
        id: Some(id::to_pb(&agent.id)),
        attestation_type: agent.attestation_type.clone(),
        x509svid_serial_number: serial.map(|serial| serial.as_str().to_owned()).unwrap_or_default(),
        x509svid_expires_at: agent.not_after.unix_s(),
        selectors: selector::set_to_pb(&agent.selectors),
        banned: agent.is_banned(),
        can_reattest: agent.can_reattest,
        agent_version: agent.agent_version.clone(),
    }
}

/// Empties the fields that the mask leaves out; without a mask all stay.
pub fn apply_mask(agent: &mut pb::types::Agent, mask: Option<&pb::types::AgentMask>) {
    let Some(mask) = mask else { return };
    // Without `..`: a new field of the mask does not compile until it is treated here.
    let pb::types::AgentMask {
        attestation_type,
        x509svid_serial_number,
        x509svid_expires_at,
        selectors,
        banned,
        can_reattest,
        agent_version,
    } = *mask;
    keep(attestation_type, &mut agent.attestation_type);
    keep(x509svid_serial_number, &mut agent.x509svid_serial_number);
    keep(x509svid_expires_at, &mut agent.x509svid_expires_at);
    keep(selectors, &mut agent.selectors);
    keep(banned, &mut agent.banned);
    keep(can_reattest, &mut agent.can_reattest);
    keep(agent_version, &mut agent.agent_version);
}

/// Go's layout `2006-01-02 15:04:05 -0700`, what SPIRE's tools send without its last part.
const EXPIRES_BEFORE: StaticFormatDescription = format_description!(
    "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
);

/// The filter `by_expires_before`, in Go's layout `2006-01-02 15:04:05 -0700 -07`. `None` for what
/// cannot be read: SPIRE then filters nothing, without an error.
pub fn expires_before(text: &str) -> Option<Timestamp> {
    let (time, hours) = text.rsplit_once(' ')?;
    // The last part repeats the offset's hours.
    let repeated = time.get(..time.len().checked_sub(2)?)?;
    if hours.len() != 3 || !repeated.ends_with(hours) {
        return None;
    }
    let time = OffsetDateTime::parse(time, EXPIRES_BEFORE).ok()?;
    Some(Timestamp::from_unix_s(time.unix_timestamp()))
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::{Selector, Serial, Serials, SpiffeId};

    use super::*;

    fn record() -> AgentRecord {
        AgentRecord {
            id: SpiffeId::parse("spiffe://example.org/spire/agent/join_token/t").unwrap(),
            attestation_type: "join_token".to_owned(),
            serials: Serials { current: Serial::from_decimal("42"), pending: None },
            not_after: Timestamp::from_unix_ms(1_700_000_000_999),
            pending_not_after: None,
            selectors: [Selector::parse("x:y").unwrap()].into(),
            can_reattest: true,
            agent_version: "1.15.3".to_owned(),
            attested_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn full() -> pb::types::Agent {
        pb::types::Agent {
            id: Some(pb::types::Spiffeid {
                trust_domain: "example.org".to_owned(),
                path: "/spire/agent/join_token/t".to_owned(),
            }),
            attestation_type: "join_token".to_owned(),
            x509svid_serial_number: "42".to_owned(),
            x509svid_expires_at: 1_700_000_000,
            selectors: vec![pb::types::Selector { r#type: "x".to_owned(), value: "y".to_owned() }],
            banned: false,
            can_reattest: true,
            agent_version: "1.15.3".to_owned(),
        }
    }

    #[test]
    fn an_agent_shows_every_field() {
        assert_eq!(to_pb(&record()), full());
    }

    #[test]
    fn a_banned_agent_has_no_serial_number() {
        let banned = to_pb(&AgentRecord { serials: Serials::default(), ..record() });
        assert!(banned.banned);
        assert_eq!(banned.x509svid_serial_number, "");
    }

    #[test]
    fn a_mask_keeps_exactly_the_fields_it_names() {
        type Keep = (fn(&mut pb::types::AgentMask), fn(&mut pb::types::Agent, pb::types::Agent));
        let fields: [Keep; 7] = [
            (|m| m.attestation_type = true, |a, f| a.attestation_type = f.attestation_type),
            (
                |m| m.x509svid_serial_number = true,
                |a, f| a.x509svid_serial_number = f.x509svid_serial_number,
            ),
            (
                |m| m.x509svid_expires_at = true,
                |a, f| a.x509svid_expires_at = f.x509svid_expires_at,
            ),
            (|m| m.selectors = true, |a, f| a.selectors = f.selectors),
            (|m| m.banned = true, |a, f| a.banned = f.banned),
            (|m| m.can_reattest = true, |a, f| a.can_reattest = f.can_reattest),
            (|m| m.agent_version = true, |a, f| a.agent_version = f.agent_version),
        ];
        let stored = pb::types::Agent { banned: true, ..full() };
        for (set, copy) in fields {
            let mut mask = pb::types::AgentMask::default();
            set(&mut mask);
            let nothing = pb::types::Agent { id: stored.id.clone(), ..Default::default() };
            let mut expected = nothing.clone();
            copy(&mut expected, stored.clone());
            let mut agent = stored.clone();
            apply_mask(&mut agent, Some(&mask));
            assert_eq!(agent, expected);
            assert_ne!(agent, nothing);
        }
        let mut agent = stored.clone();
        apply_mask(&mut agent, None);
        assert_eq!(agent, stored);
    }

    #[test]
    fn a_time_in_gos_layout_is_read_and_any_other_ignored() {
        let table = [
            ("2023-11-14 22:13:20 +0000 +00", Some(1_700_000_000)),
            ("2023-11-15 00:13:20 +0200 +02", Some(1_700_000_000)),
            ("2023-11-14 16:43:20 -0530 -05", Some(1_700_000_000)),
            ("2023-11-14 22:13:20 +0000 UTC", None),
            ("2023-11-14 22:13:20 +0000 +01", None),
            ("2023-11-14 22:13:20", None),
            ("2023-13-14 22:13:20 +0000 +00", None),
            ("1700000000", None),
            ("", None),
            (" ", None),
            ("é +00", None),
        ];
        for (text, unix_s) in table {
            assert_eq!(expires_before(text), unix_s.map(Timestamp::from_unix_s), "{text:?}");
        }
    }
}

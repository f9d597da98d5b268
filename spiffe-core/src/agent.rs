//! Attested agents as the registry keeps them.
//!
//! Owns the record and the serial rules of `spec/spire-semantics.md` 7: an agent has a current
//! certificate serial and, after a renewal, a pending one that its first use promotes. A banned
//! agent has neither.

use std::fmt;

use crate::id::SpiffeId;
use crate::selector::SelectorSet;
use crate::time::Timestamp;

/// A certificate serial number in decimal, as SPIRE stores and compares it. Never empty: "none" is
/// an `Option`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

impl Serial {
    /// From decimal digits; `None` for anything else.
    pub fn from_decimal(digits: &str) -> Option<Self> {
        let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        valid.then(|| Self(digits.to_owned()))
    }

    /// From a certificate's big-endian bytes.
    pub fn from_be_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let significant = bytes.get(zeros..).unwrap_or_default();
        let mut number = [0; 16];
        // Ours have 16 bytes, and each SVID has one.
        if let Some(room) = number.len().checked_sub(significant.len())
            && let Some(low) = number.get_mut(room..)
        {
            low.copy_from_slice(significant);
            return Self(u128::from_be_bytes(number).to_string());
        }
        // Schoolbook base conversion of those that others signed.
        let mut digits: Vec<u8> = vec![0];
        for byte in significant {
            let mut carry = u32::from(*byte);
            for digit in &mut digits {
                let value = u32::from(*digit) * 256 + carry;
                *digit = u8::try_from(value % 10).unwrap_or(0);
                carry = value / 10;
            }
            while carry > 0 {
                digits.push(u8::try_from(carry % 10).unwrap_or(0));
                carry /= 10;
            }
        }
        Self(digits.iter().rev().map(|d| char::from(b'0' + d)).collect())
    }

    /// The decimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The pair of serials that an authorising read has seen; commands about serials compare and set
/// on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serials {
    /// The certificate in use; `None` when the agent is banned.
    pub current: Option<Serial>,
    /// The certificate handed out by a renewal and not yet presented.
    pub pending: Option<Serial>,
}

/// An attested agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRecord {
    /// The agent's id, below `/spire/agent/`.
    pub id: SpiffeId,
    /// How it attested first, for instance `join_token`.
    pub attestation_type: String,
    /// Current and pending serial. Both `None` means banned.
    pub serials: Serials,
    /// When the current certificate ends.
    pub not_after: Timestamp,
    /// When the pending certificate ends.
    pub pending_not_after: Option<Timestamp>,
    /// Node selectors, found by the attestor.
    pub selectors: SelectorSet,
    /// Whether the agent may attest again under the same id.
    pub can_reattest: bool,
    /// What the agent reported by PostStatus; empty until then.
    pub agent_version: String,
    /// When the agent was first admitted.
    pub attested_at: Timestamp,
}

impl AgentRecord {
    /// Whether the agent is banned: it then has no current serial (SPIRE's rule).
    pub fn is_banned(&self) -> bool {
        self.serials.current.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn serials_take_decimal_digits_and_nothing_else() {
        assert_eq!(Serial::from_decimal("0123").unwrap().as_str(), "0123");
        for text in ["", "-1", "+1", "1 ", "0x1", "١"] {
            assert_eq!(Serial::from_decimal(text), None, "{text:?}");
        }
    }

    #[test]
    fn largest_serial_converts_exactly() {
        let serial = Serial::from_be_bytes(&[0xff; 20]);
        assert_eq!(serial.as_str(), "1461501637330902918203684832716283019655932542975");
        assert_eq!(Serial::from_be_bytes(&[]).as_str(), "0");
        assert_eq!(Serial::from_be_bytes(&[0, 0]).as_str(), "0");
    }

    proptest! {
        #[test]
        fn conversion_agrees_with_integer_printing(bytes: [u8; 16], zeros in 0_usize..5) {
            let padded = [vec![0; zeros], bytes.to_vec()].concat();
            let expected = u128::from_be_bytes(bytes).to_string();
            prop_assert_eq!(Serial::from_be_bytes(&padded).to_string(), expected);
        }
    }
}

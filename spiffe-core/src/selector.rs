//! Selectors: facts about a node or a workload, as `type:value`.
//!
//! Owns the check of a selector and the four ways SPIRE matches sets of them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::limits::SELECTOR_BYTES_MAX;
use crate::sorted_set::SortedSet;

/// One checked selector.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Selector {
    /// `type:value`, in one piece: a server holds millions of them.
    text: Box<str>,
    /// Length of the type.
    kind: u16,
}

const _: () = assert!(SELECTOR_BYTES_MAX <= u16::MAX as usize);

/// A sorted set of selectors without duplicates.
pub type SelectorSet = SortedSet<Selector>;

/// Why a selector is refused. Texts are SPIRE's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The type is empty.
    #[error("missing selector type")]
    MissingType,
    /// The type contains a colon.
    #[error("selector type contains ':'")]
    ColonInType,
    /// The value is empty.
    #[error("missing selector value")]
    MissingValue,
    /// The text has no colon.
    #[error("selector \"{0}\" must be formatted as type:value")]
    NotTypeValue(String),
    /// Longer than [`SELECTOR_BYTES_MAX`].
    #[error("selector is longer than {SELECTOR_BYTES_MAX} bytes")]
    TooLong,
}

impl Selector {
    /// Checks a type and a value.
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        if kind.is_empty() {
            return Err(SelectorError::MissingType);
        }
        if kind.contains(':') {
            return Err(SelectorError::ColonInType);
        }
        if value.is_empty() {
            return Err(SelectorError::MissingValue);
        }
        let (Ok(length), true) =
            (u16::try_from(kind.len()), kind.len() + value.len() <= SELECTOR_BYTES_MAX)
        else {
            return Err(SelectorError::TooLong);
        };
        Ok(Self { text: [kind, ":", value].concat().into(), kind: length })
    }

    /// Parses `type:value`; only the first colon splits.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let (kind, value) =
            text.split_once(':').ok_or_else(|| SelectorError::NotTypeValue(text.to_owned()))?;
        Self::new(kind, value)
    }

    /// The type, for instance `unix`.
    pub fn kind(&self) -> &str {
        self.parts().0
    }

    /// The value, for instance `uid:1000`.
    pub fn value(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        let (kind, value) = self.text.split_at(usize::from(self.kind));
        (kind, value.strip_prefix(':').unwrap_or_default())
    }
}

/// By type, then by value.
impl Ord for Selector {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({:?})", self.text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// How a stored set C is compared with a given set G (`spire.api.types.SelectorMatch`). The same
/// four serve trust domains (`FederatesWithMatch`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectorMatch {
    /// C = G.
    Exact,
    /// C ⊆ G, and C is not empty.
    Subset,
    /// C ⊇ G.
    Superset,
    /// C ∩ G ≠ ∅.
    Any,
}

impl SelectorMatch {
    /// Whether the stored set matches the given one.
    pub fn matches<T: Ord>(self, stored: &SortedSet<T>, given: &SortedSet<T>) -> bool {
        match self {
            Self::Exact => stored == given,
            Self::Subset => !stored.is_empty() && stored.is_subset(given),
            Self::Superset => stored.is_superset(given),
            Self::Any => !stored.is_disjoint(given),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_match_in_the_four_ways_of_spire() {
        let set = |items: &str| -> SortedSet<char> { items.chars().collect() };
        // stored, given, exact, subset, superset, any
        let cases = [
            ("ab", "ab", true, true, true, true),
            ("a", "ab", false, true, false, true),
            ("ab", "a", false, false, true, true),
            ("ac", "ab", false, false, false, true),
            ("c", "ab", false, false, false, false),
            ("", "ab", false, false, false, false),
            ("", "", true, false, true, false),
            ("a", "", false, false, true, false),
        ];
        for (stored, given, exact, subset, superset, any) in cases {
            let check = |how: SelectorMatch| how.matches(&set(stored), &set(given));
            let got = [
                check(SelectorMatch::Exact),
                check(SelectorMatch::Subset),
                check(SelectorMatch::Superset),
                check(SelectorMatch::Any),
            ];
            assert_eq!(got, [exact, subset, superset, any], "{stored:?} against {given:?}");
        }
    }

    #[test]
    fn selectors_are_ordered_by_type_and_then_by_value() {
        // As texts, the one with the dash would come first.
        let ordered: Vec<Selector> =
            ["k8s:b", "k8s:c", "k8s-x:a"].map(|text| text.parse().unwrap()).into();
        let mut sorted = ordered.clone();
        sorted.reverse();
        sorted.sort();
        assert_eq!(sorted, ordered);
    }

    #[test]
    fn only_the_first_colon_splits() {
        let selector: Selector = "k8s:pod-label:app:web".parse().unwrap();
        assert_eq!((selector.kind(), selector.value()), ("k8s", "pod-label:app:web"));
        assert_eq!(selector.to_string(), "k8s:pod-label:app:web");
    }
}

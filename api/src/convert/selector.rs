//! Selectors, sets of them, and the two filters that compare sets.
//!
//! Owns the order on the wire (sorted, as the checked set keeps them) and the numbers of match
//! behaviours. What a match means is `SelectorMatch`'s.

use steeple_spiffe_core::limits::{FEDERATES_WITH_MAX, SELECTORS_MAX};
use steeple_spiffe_core::{Selector, SelectorMatch, SelectorSet, SortedSet, TrustDomain};

use super::ConvertError;
use crate::pb;

/// The message of a selector.
pub fn to_pb(selector: &Selector) -> pb::types::Selector {
    pb::types::Selector { r#type: selector.kind().to_owned(), value: selector.value().to_owned() }
}

/// The messages of a set, sorted.
pub fn set_to_pb(selectors: &SelectorSet) -> Vec<pb::types::Selector> {
    selectors.iter().map(to_pb).collect()
}

/// A checked selector.
pub fn from_pb(message: &pb::types::Selector) -> Result<Selector, ConvertError> {
    Ok(Selector::new(&message.r#type, &message.value)?)
}

/// A checked set; doubles fall together. May be empty: who needs one selector at least says so.
pub fn set_from_pb(messages: &[pb::types::Selector]) -> Result<SelectorSet, ConvertError> {
    if messages.len() > SELECTORS_MAX {
        return Err(ConvertError::TooManySelectors);
    }
    messages.iter().map(from_pb).collect()
}

/// A filter on selectors, which must name one at least.
pub fn filter_from_pb(
    message: &pb::types::SelectorMatch,
) -> Result<(SelectorMatch, SelectorSet), ConvertError> {
    let given = set_from_pb(&message.selectors)?;
    if given.is_empty() {
        return Err(ConvertError::EmptySelectorSet);
    }
    Ok((behavior(message.r#match)?, given))
}

/// A filter on foreign trust domains, which must name one at least.
pub fn federates_with_filter_from_pb(
    message: &pb::types::FederatesWithMatch,
) -> Result<(SelectorMatch, SortedSet<TrustDomain>), ConvertError> {
    // SPIRE 1.15.3 names a bad trust domain of a filter without the words it has for an entry's.
    let given = trust_domains_from_pb(&message.trust_domains).map_err(|error| {
        if let ConvertError::FederatedTrustDomain(error) = error {
            return ConvertError::FilteredTrustDomain(error);
        }
        error
    })?;
    if given.is_empty() {
        return Err(ConvertError::EmptyTrustDomainSet);
    }
    Ok((behavior(message.r#match)?, given))
}

/// The meaning of a match's number: both filters number theirs alike (a test holds them to it).
fn behavior(number: i32) -> Result<SelectorMatch, ConvertError> {
    use pb::types::selector_match::MatchBehavior;

    match MatchBehavior::try_from(number) {
        Ok(MatchBehavior::MatchExact) => Ok(SelectorMatch::Exact),
        Ok(MatchBehavior::MatchSubset) => Ok(SelectorMatch::Subset),
        Ok(MatchBehavior::MatchSuperset) => Ok(SelectorMatch::Superset),
        Ok(MatchBehavior::MatchAny) => Ok(SelectorMatch::Any),
        Err(_) => Err(ConvertError::MatchBehavior(number)),
    }
}

/// A checked set of foreign trust domains, each a name or an id.
pub(super) fn trust_domains_from_pb(
    names: &[String],
) -> Result<SortedSet<TrustDomain>, ConvertError> {
    if names.len() > FEDERATES_WITH_MAX {
        return Err(ConvertError::TooManyFederatedTrustDomains);
    }
    names
        .iter()
        .map(|name| super::id::trust_domain(name).map_err(ConvertError::FederatedTrustDomain))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, value: &str) -> pb::types::Selector {
        pb::types::Selector { r#type: kind.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn a_set_comes_back_sorted_and_without_doubles() {
        let messages = [message("unix", "uid:2"), message("k8s", "ns:a"), message("unix", "uid:2")];
        let set = set_from_pb(&messages).unwrap();
        assert_eq!(set_to_pb(&set), [message("k8s", "ns:a"), message("unix", "uid:2")]);
    }

    #[test]
    fn a_malformed_selector_is_refused_with_spires_text() {
        let table = [
            ("", "x", "missing selector type"),
            ("a:b", "x", "selector type contains ':'"),
            ("unix", "", "missing selector value"),
        ];
        for (kind, value, text) in table {
            let error = set_from_pb(&[message("unix", "uid:1"), message(kind, value)]).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
        let many = vec![message("unix", "uid:1"); SELECTORS_MAX + 1];
        assert_eq!(set_from_pb(&many), Err(ConvertError::TooManySelectors));
    }

    #[test]
    fn each_number_of_a_match_has_its_meaning() {
        let meanings = [
            SelectorMatch::Exact,
            SelectorMatch::Subset,
            SelectorMatch::Superset,
            SelectorMatch::Any,
        ];
        for (number, meaning) in (0..).zip(meanings) {
            let name = pb::types::selector_match::MatchBehavior::try_from(number).unwrap();
            let other = pb::types::federates_with_match::MatchBehavior::try_from(number).unwrap();
            assert_eq!(name.as_str_name(), other.as_str_name());
            let selectors = pb::types::SelectorMatch {
                selectors: vec![message("unix", "uid:1")],
                r#match: number,
            };
            assert_eq!(filter_from_pb(&selectors).unwrap().0, meaning);
            let domains = pb::types::FederatesWithMatch {
                trust_domains: vec!["spiffe://a.org".to_owned(), "b.org".to_owned()],
                r#match: number,
            };
            let (behavior, given) = federates_with_filter_from_pb(&domains).unwrap();
            assert_eq!(behavior, meaning);
            assert_eq!(given.len(), 2);
        }
    }

    #[test]
    fn a_filter_without_content_or_meaning_is_refused() {
        let empty = pb::types::SelectorMatch::default();
        assert_eq!(filter_from_pb(&empty).unwrap_err().to_string(), "empty selector set");
        let empty = pb::types::FederatesWithMatch::default();
        let error = federates_with_filter_from_pb(&empty).unwrap_err();
        assert_eq!(error.to_string(), "empty trust domain set");
        let bad = pb::types::FederatesWithMatch {
            trust_domains: vec!["BAD!".to_owned()],
            ..Default::default()
        };
        // Recorded from SPIRE 1.15.3.
        assert_eq!(
            federates_with_filter_from_pb(&bad).unwrap_err().to_string(),
            "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
        );
        let odd = pb::types::SelectorMatch { selectors: vec![message("a", "b")], r#match: 9 };
        assert_eq!(filter_from_pb(&odd), Err(ConvertError::MatchBehavior(9)));
    }
}

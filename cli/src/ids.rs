//! SPIFFE ids, selectors and numbers between what is typed, what is sent and what is shown.
//!
//! Owns the readings with SPIRE's error texts; the grammar of an id is `steeple-spiffe-core`'s.

use steeple_api::pb;
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use crate::error::Error;
use crate::output::go_quote;

/// Reads a SPIFFE id that was typed.
pub(crate) fn parse_id(text: &str) -> Result<pb::types::Spiffeid, Error> {
    let id = SpiffeId::parse(text).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(sent(&id))
}

/// Reads a SPIFFE id that a flag must bring.
pub(crate) fn required_id(text: &str) -> Result<pb::types::Spiffeid, Error> {
    if text.is_empty() {
        return Err(Error::invalid("a SPIFFE ID is required"));
    }
    parse_id(text)
}

/// The id as messages carry it.
pub(crate) fn sent(id: &SpiffeId) -> pb::types::Spiffeid {
    pb::types::Spiffeid {
        trust_domain: id.trust_domain().as_str().to_owned(),
        path: id.path().to_owned(),
    }
}

/// The id of the servers of a typed id's trust domain.
pub(crate) fn server_of(id: &pb::types::Spiffeid) -> Result<pb::types::Spiffeid, Error> {
    let trust_domain =
        TrustDomain::parse(&id.trust_domain).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(sent(&SpiffeId::server(trust_domain)))
}

/// The text of an id that was received; an absent one is empty, as SPIRE shows it.
pub(crate) fn shown(id: Option<&pb::types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path)).unwrap_or_default()
}

/// Reads `type:value`; only the first colon splits.
pub(crate) fn parse_selector(text: &str) -> Result<pb::types::Selector, Error> {
    let (kind, value) = text.split_once(':').ok_or_else(|| {
        Error::invalid(format!("selector {} must be formatted as type:value", go_quote(text)))
    })?;
    Ok(pb::types::Selector { r#type: kind.to_owned(), value: value.to_owned() })
}

/// Reads a list of selectors.
pub(crate) fn parse_selectors(texts: &[String]) -> Result<Vec<pb::types::Selector>, Error> {
    texts.iter().map(|text| parse_selector(text)).collect()
}

/// How a filter compares sets: `exact`, `any`, `superset` or `subset`.
pub(crate) fn parse_match(text: &str) -> Result<pb::types::selector_match::MatchBehavior, Error> {
    use pb::types::selector_match::MatchBehavior;
    match text {
        "exact" => Ok(MatchBehavior::MatchExact),
        "any" => Ok(MatchBehavior::MatchAny),
        "superset" => Ok(MatchBehavior::MatchSuperset),
        "subset" => Ok(MatchBehavior::MatchSubset),
        _ => Err(Error::invalid(format!("match behavior {} unknown", go_quote(text)))),
    }
}

/// Narrows a number that a flag took to what the message holds.
pub(crate) fn to_i32(value: i64, what: &str) -> Result<i32, Error> {
    i32::try_from(value).map_err(|_too_large| {
        Error::invalid(format!(
            "invalid value for {what}: overflow converting int({value}) to int32"
        ))
    })
}

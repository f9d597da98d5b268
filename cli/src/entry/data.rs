//! The JSON files of `entry create -data` and `entry update -data`.
//!
//! Owns the keys of an entry; how an object is read is `go_json`'s. Two old habits are honoured: the
//! key `ttl` (a warning names its heir), and `node`, which stands for a missing parent.

use serde_json::Value;
use steeple_api::pb;
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use crate::error::Error;
use crate::files::read_text;
use crate::go_json::{self, Object, wrong};
use crate::ids::sent;
use crate::io::Io;

/// The explanation of the flag.
pub(crate) const USAGE: &str = "Path to a file of JSON with the entries; other flags that describe an entry are ignored then. If set to '-', read the JSON from stdin";

/// Reads the entries of a file, or of standard input for `-`.
pub(crate) fn read_entries(path: &str, io: &mut Io<'_>) -> Result<Vec<pb::types::Entry>, Error> {
    let text = read_text(path, io)?;
    let (entries, old_ttl) = parse_entries(&text)?;
    if old_ttl {
        io.warn("the key \"ttl\" is an old spelling and sets the lifetime of X509-SVIDs alone; use \"x509_svid_ttl\" and \"jwt_svid_ttl\"")?;
    }
    Ok(entries)
}

/// The entries, and whether one has the old key `ttl`.
fn parse_entries(text: &str) -> Result<(Vec<pb::types::Entry>, bool), Error> {
    let tree = go_json::parse(text)?;
    let object = Object::of(&tree, "the file")?;
    let entries = match object.get("entries") {
        Some(Value::Array(entries)) => entries.as_slice(),
        Some(_) => return Err(wrong("\"entries\" must be a list")),
        None => return Err(wrong("expected an object with \"entries\"")),
    };
    let mut old_ttl = false;
    let mut parsed = Vec::with_capacity(entries.len());
    for entry in entries {
        let object = Object::of(entry, "an entry")?;
        old_ttl |= object.get("ttl").is_some();
        parsed.push(parse_entry(&object)?);
    }
    Ok((parsed, old_ttl))
}

fn parse_entry(object: &Object<'_>) -> Result<pb::types::Entry, Error> {
    let spiffe_id = SpiffeId::parse(&object.text("spiffe_id")?)
        .map_err(|error| Error::invalid(format!("invalid SPIFFE ID: {error}")))?;
    let parent_id = parent(object, &spiffe_id)?;
    let x509_svid_ttl = match (object.get("x509_svid_ttl"), object.get("ttl")) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid(
                "use x509_svid_ttl and jwt_svid_ttl or the deprecated ttl, not both",
            ));
        }
        (None, Some(_)) => object.int32("ttl")?,
        (_, None) => object.int32("x509_svid_ttl")?,
    };
    Ok(pb::types::Entry {
        id: object.text("entry_id")?,
        spiffe_id: Some(sent(&spiffe_id)),
        parent_id: Some(sent(&parent_id)),
        selectors: selectors(object)?,
        x509_svid_ttl,
        jwt_svid_ttl: object.int32("jwt_svid_ttl")?,
        federates_with: federates_with(object)?,
        admin: object.bool("admin")?,
        downstream: object.bool("downstream")?,
        store_svid: object.bool("store_svid")?,
        expires_at: object.int64("entryExpiry")?,
        dns_names: object.texts("dns_names")?,
        revision_number: object.int64("revision_number")?,
        created_at: object.int64("created_at")?,
        hint: object.text("hint")?,
        additional_attributes: additional(object)?,
    })
}

/// The walkthroughs of 2021 write `"node": "true"` and no parent for entries of agents.
fn parent(object: &Object<'_>, spiffe_id: &SpiffeId) -> Result<SpiffeId, Error> {
    let text = object.text("parent_id")?;
    let node = match object.get("node") {
        Some(Value::Bool(node)) => *node,
        Some(Value::String(node)) => node == "true",
        Some(_) | None => false,
    };
    if text.is_empty() && node {
        return Ok(SpiffeId::server(spiffe_id.trust_domain().clone()));
    }
    SpiffeId::parse(&text).map_err(|error| Error::invalid(format!("invalid parent ID: {error}")))
}

fn selectors(object: &Object<'_>) -> Result<Vec<pb::types::Selector>, Error> {
    let parse = |value: &Value| {
        let selector = Object::of(value, "a selector")?;
        Ok(pb::types::Selector { r#type: selector.text("type")?, value: selector.text("value")? })
    };
    object.list("selectors")?.iter().map(parse).collect()
}

fn federates_with(object: &Object<'_>) -> Result<Vec<String>, Error> {
    let name = |text: String| {
        let trust_domain = TrustDomain::parse_name_or_id(&text)
            .map_err(|error| Error::invalid(format!("invalid federated trust domain: {error}")))?;
        Ok(trust_domain.as_str().to_owned())
    };
    object.texts("federates_with")?.into_iter().map(name).collect()
}

fn additional(
    object: &Object<'_>,
) -> Result<Option<pb::types::entry::AdditionalAttributes>, Error> {
    let Some(value) = object.get("additional_attributes") else { return Ok(None) };
    let attributes = Object::of(value, "additional_attributes")?;
    Ok(Some(pb::types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: attributes.bool("disable_x509_svid_prefetch")?,
        jwt_svid_include_jti: attributes.bool("jwt_svid_include_jti")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entry: &str) -> Result<(pb::types::Entry, bool), String> {
        let (mut entries, old_ttl) =
            parse_entries(&format!("{{\"entries\":[{entry}]}}")).map_err(|error| error.chain())?;
        Ok((entries.remove(0), old_ttl))
    }

    /// The members every entry needs, before those of the case.
    fn with(members: &str) -> String {
        format!(
            "{{\"spiffe_id\":\"spiffe://example.org/a\",\"parent_id\":\"spiffe://example.org/p\"{members}}}"
        )
    }

    #[test]
    fn keys_are_read_in_any_case_and_unknown_ones_ignored() {
        let text =
            with(",\"DNS_Names\":[\"a\"],\"ENTRYEXPIRY\":7,\"node\":\"true\",\"whatever\":{}");
        let (entry, old_ttl) = parse(&text).expect("the entry is well formed");
        assert_eq!(entry.dns_names, ["a"]);
        assert_eq!(entry.expires_at, 7);
        assert_eq!(entry.parent_id.expect("a parent").path, "/p");
        assert!(!old_ttl);
    }

    #[test]
    fn node_stands_for_a_missing_parent() {
        for (node, expected) in [
            ("\"true\"", Ok("/spire/server")),
            ("true", Ok("/spire/server")),
            ("false", Err("invalid parent ID: cannot be empty")),
        ] {
            let text = format!("{{\"spiffe_id\":\"spiffe://example.org/a\",\"node\":{node}}}");
            let parent = parse(&text).map(|(entry, _)| entry.parent_id.expect("a parent").path);
            assert_eq!(parent, expected.map(str::to_owned).map_err(str::to_owned), "{node}");
        }
    }

    #[test]
    fn the_old_ttl_sets_the_lifetime_of_x509_svids_alone() {
        let (entry, old_ttl) = parse(&with(",\"ttl\":60")).expect("the entry is well formed");
        assert_eq!((entry.x509_svid_ttl, entry.jwt_svid_ttl, old_ttl), (60, 0, true));
        let error = parse(&with(",\"ttl\":60,\"x509_svid_ttl\":60")).expect_err("both are given");
        assert!(error.contains("deprecated ttl"), "{error}");
    }

    #[test]
    fn trust_domains_lose_their_scheme() {
        let text = with(",\"federates_with\":[\"spiffe://other.test\",\"third.test\"]");
        let (entry, _) = parse(&text).expect("the entry is well formed");
        assert_eq!(entry.federates_with, ["other.test", "third.test"]);
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for (text, expected) in [
            (with(",\"admin\":\"true\""), "\"admin\" must be true or false, not \"true\""),
            (with(",\"x509_svid_ttl\":\"60\""), "\"x509_svid_ttl\" must be a whole number"),
            (with(",\"x509_svid_ttl\":3000000000"), "\"x509_svid_ttl\" must be a whole number"),
            (with(",\"selectors\":{}"), "\"selectors\" must be a list"),
            (with(",\"dns_names\":[1]"), "\"dns_names\" must be a list of texts"),
            ("{}".to_owned(), "invalid SPIFFE ID: cannot be empty"),
            ("7".to_owned(), "an entry must be an object"),
        ] {
            let error = parse(&text).expect_err(&text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        for text in ["", "[]", "{}", "{\"entries\":{}}"] {
            let error = parse_entries(text).expect_err(text).chain();
            assert!(error.starts_with("failed to parse JSON: "), "{text}: {error}");
        }
    }
}

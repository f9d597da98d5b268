//! Ids, trust domains, selectors: grammar, printing, and texts of refusal.

use proptest::prelude::*;
use steeple_spiffe_core::entry::EntryIdError;
use steeple_spiffe_core::id::SpiffeIdError;
use steeple_spiffe_core::selector::SelectorError;
use steeple_spiffe_core::trust_domain::TrustDomainError;
use steeple_spiffe_core::{EntryId, Selector, SpiffeId, TrustDomain};

#[test]
fn ids_that_break_a_rule_are_refused_with_its_text() {
    use SpiffeIdError as E;
    let long_name = "a".repeat(256);
    let long_path = "a".repeat(2048);
    let cases = [
        ("", E::Empty),
        ("example.org/x", E::WrongScheme),
        ("http://example.org/x", E::WrongScheme),
        ("SPIFFE://example.org", E::WrongScheme),
        ("spiffe:/example.org", E::WrongScheme),
        ("spiffe://", E::MissingTrustDomain),
        ("spiffe:///x", E::MissingTrustDomain),
        ("spiffe://Example.org/x", E::BadTrustDomainCharacter),
        ("spiffe://example.org:80/x", E::BadTrustDomainCharacter),
        ("spiffe://user@example.org/x", E::BadTrustDomainCharacter),
        ("spiffe://ex%61mple.org", E::BadTrustDomainCharacter),
        ("spiffe://example.org?x", E::BadTrustDomainCharacter),
        ("spiffe://exämple.org", E::BadTrustDomainCharacter),
        ("spiffe://example.org/", E::TrailingSlash),
        ("spiffe://example.org/a/", E::TrailingSlash),
        ("spiffe://example.org//", E::TrailingSlash),
        ("spiffe://example.org//a", E::EmptySegment),
        ("spiffe://example.org/a//b", E::EmptySegment),
        ("spiffe://example.org/.", E::DotSegment),
        ("spiffe://example.org/a/../b", E::DotSegment),
        ("spiffe://example.org/a b", E::BadPathCharacter),
        ("spiffe://example.org/a%20b", E::BadPathCharacter),
        ("spiffe://example.org/a#b", E::BadPathCharacter),
        ("spiffe://example.org/a?b", E::BadPathCharacter),
        ("spiffe://example.org/ä", E::BadPathCharacter),
        ("spiffe://example.org/a\0", E::BadPathCharacter),
        (&format!("spiffe://{long_name}/x"), E::TrustDomainTooLong),
        (&format!("spiffe://example.org/{long_path}"), E::TooLong),
    ];
    for (text, expected) in cases {
        assert_eq!(SpiffeId::parse(text), Err(expected), "{text:?}");
    }
    let no_slash = SpiffeId::new(TrustDomain::parse("td").unwrap(), "x");
    assert_eq!(no_slash, Err(E::NoLeadingSlash));
}

#[test]
fn longest_id_is_accepted_and_one_byte_more_is_not() {
    let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
    assert_eq!(SpiffeId::parse(&longest).unwrap().to_string(), longest);
    assert_eq!(SpiffeId::parse(&format!("{longest}a")), Err(SpiffeIdError::TooLong));
}

#[test]
fn reserved_paths_are_told_apart() {
    let cases = [
        // path, reserved, agent, server
        ("", false, false, false),
        ("/spire", true, false, false),
        ("/spire/server", true, false, true),
        ("/spire/server/x", true, false, false),
        ("/spire/agent", true, false, false),
        ("/spire/agent/join_token/x", true, true, false),
        ("/spire-x", false, false, false),
        ("/a/spire/agent/x", false, false, false),
    ];
    for (path, reserved, agent, server) in cases {
        let id = SpiffeId::new(TrustDomain::parse("td").unwrap(), path).unwrap();
        assert_eq!((id.is_reserved(), id.is_agent(), id.is_server()), (reserved, agent, server));
    }
}

#[test]
fn trust_domains_parse_from_names_and_ids() {
    let expected = TrustDomain::parse("example.org").unwrap();
    for text in ["example.org", "spiffe://example.org", "spiffe://example.org/a/b"] {
        assert_eq!(TrustDomain::parse_name_or_id(text).as_ref(), Ok(&expected), "{text}");
    }
    let refusals = [
        ("", "trust domain is missing"),
        (
            "Example.org",
            "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores",
        ),
        ("https://example.org", "scheme is missing or invalid"),
        ("spiffe://example.org/", "path cannot have a trailing slash"),
    ];
    for (text, message) in refusals {
        assert_eq!(TrustDomain::parse_name_or_id(text).unwrap_err().to_string(), message);
    }
    assert_eq!(TrustDomain::parse(&"a".repeat(256)), Err(TrustDomainError::TooLong));
    assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
}

#[test]
fn selectors_and_entry_ids_are_checked() {
    let selector = Selector::parse("unix:uid:1000").unwrap();
    assert_eq!((selector.kind(), selector.value()), ("unix", "uid:1000"));
    let long = "v".repeat(9000);
    let cases = [
        ("unix", SelectorError::NotTypeValue("unix".to_owned())),
        (":x", SelectorError::MissingType),
        ("unix:", SelectorError::MissingValue),
        (&format!("unix:{long}"), SelectorError::TooLong),
    ];
    for (text, expected) in cases {
        assert_eq!(Selector::parse(text), Err(expected), "{text}");
    }
    assert_eq!(Selector::new("a:b", "c"), Err(SelectorError::ColonInType));
    assert_eq!(EntryId::parse("a b"), Err(EntryIdError::BadCharacter));
    assert_eq!(EntryId::parse(""), Err(EntryIdError::BadCharacter));
    assert_eq!(EntryId::parse(&"a".repeat(256)), Err(EntryIdError::TooLong));
    assert_eq!(EntryId::parse("A-z_0.9").unwrap().as_str(), "A-z_0.9");
}

/// Texts near the grammar: most are ids, some break one rule.
fn near_id() -> impl Strategy<Value = String> {
    let segment = "[a-zA-Z0-9._-]{0,6}";
    (
        prop::sample::select(vec!["spiffe://", "spiffe:/", "Spiffe://", ""]),
        "[a-z0-9._A-]{0,12}",
        prop::collection::vec(segment, 0..5),
    )
        .prop_map(|(scheme, name, segments)| {
            let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            format!("{scheme}{name}{path}")
        })
}

proptest! {
    #[test]
    fn parsing_then_printing_gives_the_text_back(text in near_id()) {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn printing_then_parsing_gives_the_id_back(
        name in "[a-z0-9._-]{1,40}",
        segments in prop::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,12}", 0..6),
    ) {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        let id = SpiffeId::new(TrustDomain::parse(&name).unwrap(), &path).unwrap();
        prop_assert_eq!(SpiffeId::parse(&id.to_string()), Ok(id));
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in any::<String>()) {
        drop(SpiffeId::parse(&text));
        drop(SpiffeId::parse(&format!("spiffe://{text}")));
        drop(TrustDomain::parse_name_or_id(&text));
        drop(Selector::parse(&text));
        drop(EntryId::parse(&text));
        drop(steeple_spiffe_core::check_dns_name(&text));
    }
}

//! Tests of entry conversions: what comes in, what is refused, what goes out.

use super::*;

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn spiffeid(trust_domain: &str, path: &str) -> pb::types::Spiffeid {
    pb::types::Spiffeid { trust_domain: trust_domain.to_owned(), path: path.to_owned() }
}

fn selector(kind: &str, value: &str) -> pb::types::Selector {
    pb::types::Selector { r#type: kind.to_owned(), value: value.to_owned() }
}

/// A message with every field that a request may set, in the order in which it comes back.
fn full() -> pb::types::Entry {
    pb::types::Entry {
        id: "entry-1".into(),
        spiffe_id: Some(spiffeid("example.org", "/web")),
        parent_id: Some(spiffeid("example.org", "/spire/agent/join_token/t")),
        selectors: vec![selector("unix", "gid:1000"), selector("unix", "uid:1000")],
        x509_svid_ttl: 60,
        federates_with: vec!["a.org".into(), "b.org".into()],
        admin: true,
        downstream: true,
        expires_at: 1_900_000_000,
        dns_names: vec!["web.example.org".into(), "*.apps.example.org".into()],
        revision_number: 0,
        store_svid: true,
        jwt_svid_ttl: 30,
        hint: "internal".into(),
        created_at: 0,
        additional_attributes: Some(pb::types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: true,
        }),
    }
}

fn convert(message: &pb::types::Entry) -> Result<RegistrationEntry, ConvertError> {
    from_pb(message, &td(), || "minted".to_owned())
}

#[test]
fn an_entry_comes_back_as_it_went_in() {
    assert_eq!(to_pb(&convert(&full()).unwrap()), full());
}

#[test]
fn an_agent_reads_back_what_the_server_wrote() {
    let agent = SpiffeId::parse("spiffe://example.org/spire/agent/x/1").unwrap();
    let mut stored = convert(&full()).unwrap();
    stored.revision = 7;
    stored.created_at = Timestamp::from_unix_s(1_700_000_000);
    assert_eq!(authorized_from_pb(&to_pb(&stored), &agent).unwrap(), stored);

    let mut without_parent = to_pb(&stored);
    without_parent.parent_id = None;
    assert_eq!(authorized_from_pb(&without_parent, &agent).unwrap().parent_id, agent);

    let nothing = pb::types::Entry { id: "entry-1".into(), ..Default::default() };
    let error = authorized_from_pb(&nothing, &agent).unwrap_err();
    assert_eq!(error.to_string(), "invalid spiffe ID: request must specify SPIFFE ID");
}

#[test]
fn the_server_sets_what_a_request_may_not() {
    let message =
        pb::types::Entry { id: String::new(), revision_number: 9, created_at: 9, ..full() };
    let entry = convert(&message).unwrap();
    assert_eq!(entry.id.as_str(), "minted");
    assert_eq!(entry.revision, 0);
    assert_eq!(entry.created_at, Timestamp::UNIX_EPOCH);
}

#[test]
fn attributes_that_say_nothing_are_left_out() {
    let message = pb::types::Entry {
        additional_attributes: Some(pb::types::entry::AdditionalAttributes::default()),
        ..full()
    };
    assert_eq!(to_pb(&convert(&message).unwrap()).additional_attributes, None);
}

/// What is wrong, how the message gets so, and SPIRE's text.
type Refusal = (&'static str, fn(&mut pb::types::Entry), &'static str);

const REFUSALS: [Refusal; 17] = [
    ("no parent", |e| e.parent_id = None, "invalid parent ID: request must specify SPIFFE ID"),
    (
        "foreign parent",
        |e| e.parent_id = Some(spiffeid("x.org", "/a")),
        "invalid parent ID: \"spiffe://x.org/a\" is not a member of trust domain \"example.org\"",
    ),
    ("no identity", |e| e.spiffe_id = None, "invalid spiffe ID: request must specify SPIFFE ID"),
    (
        "reserved identity",
        |e| e.spiffe_id = Some(spiffeid("example.org", "/spire/server")),
        "invalid spiffe ID: \"spiffe://example.org/spire/server\" is not a workload in trust \
         domain \"example.org\"; path is in the reserved namespace",
    ),
    ("no selector", |e| e.selectors.clear(), "selector list is empty"),
    ("bad selector", |e| e.selectors = vec![selector("", "x")], "missing selector type"),
    (
        "selectors of two types in a stored SVID",
        |e| e.selectors.push(selector("k8s", "ns:a")),
        "datastore-validation: invalid registration entry: selector types must be the same when \
         store SVID is enabled",
    ),
    (
        "DNS name",
        |e| e.dns_names.push("a..b".into()),
        "invalid DNS name: idna error\nidna: invalid label \"a..b\"",
    ),
    (
        "too many DNS names",
        |e| e.dns_names = vec!["a.b".into(); DNS_NAMES_MAX + 1],
        "too many DNS names, at most 1024 are allowed",
    ),
    (
        "federated trust domain",
        |e| e.federates_with.push("UPPER".into()),
        "invalid federated trust domain: trust domain characters are limited to lowercase \
         letters, numbers, dots, dashes, and underscores",
    ),
    (
        "too many federated trust domains",
        |e| e.federates_with = vec!["a.org".into(); 1025],
        "too many federated trust domains, at most 1024 are allowed",
    ),
    ("long hint", |e| e.hint = "h".repeat(1025), "hint is too long, max length is 1024 characters"),
    (
        "long id",
        |e| e.id = "i".repeat(256),
        "datastore-validation: invalid registration entry: entry ID too long",
    ),
    (
        "odd id",
        |e| e.id = "a/b".into(),
        "datastore-validation: invalid registration entry: entry ID contains invalid characters",
    ),
    (
        "negative X.509 lifetime",
        |e| e.x509_svid_ttl = -1,
        "datastore-validation: invalid registration entry: X509SvidTtl is not set",
    ),
    (
        "negative JWT lifetime",
        |e| e.jwt_svid_ttl = -1,
        "datastore-validation: invalid registration entry: JwtSvidTtl is not set",
    ),
    (
        "stored SVID without prefetch",
        |e| {
            e.additional_attributes = Some(pb::types::entry::AdditionalAttributes {
                disable_x509_svid_prefetch: true,
                jwt_svid_include_jti: false,
            });
        },
        "datastore-validation: specifying cache behaviour is incompatible with storable SVIDs",
    ),
];

#[test]
fn a_malformed_entry_is_refused_with_spires_text() {
    for (name, spoil, text) in REFUSALS {
        let mut message = full();
        spoil(&mut message);
        let error = convert(&message).expect_err(name);
        assert_eq!(error.to_string(), text, "{name}");
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{name}");
    }
}

#[test]
fn an_item_says_which_layer_of_spire_refuses() {
    let mut message = pb::types::Entry { selectors: Vec::new(), ..full() };
    let status = convert(&message).unwrap_err().entry_status("create");
    assert_eq!(
        (status.code, status.message.as_str()),
        (3, "failed to convert entry: selector list is empty")
    );

    message = pb::types::Entry { x509_svid_ttl: -1, ..full() };
    let status = convert(&message).unwrap_err().entry_status("create");
    assert!(status.message.starts_with("failed to create entry: datastore-validation: "));

    message = pb::types::Entry { id: "no/such".into(), ..full() };
    let status = update_from_pb(&message, None, &td()).unwrap_err().entry_status("update");
    assert_eq!((status.code, status.message.as_str()), (5, "failed to update entry"));
}

#[test]
fn an_update_without_a_mask_replaces_every_field() {
    let update = update_from_pb(&full(), None, &td()).unwrap();
    let entry = convert(&full()).unwrap();
    let expected = EntryUpdate {
        id: entry.id,
        spiffe_id: Some(entry.spiffe_id),
        parent_id: Some(entry.parent_id),
        selectors: Some(entry.selectors),
        x509_svid_ttl_s: Some(60),
        jwt_svid_ttl_s: Some(30),
        federates_with: Some(entry.federates_with),
        admin: Some(true),
        downstream: Some(true),
        expires_at_unix_s: Some(1_900_000_000),
        dns_names: Some(entry.dns_names),
        store_svid: Some(true),
        hint: Some("internal".to_owned()),
        additional_attributes: entry.additional_attributes,
    };
    assert_eq!(update, expected);

    let cleared = pb::types::Entry { additional_attributes: None, ..full() };
    let update = update_from_pb(&cleared, None, &td()).unwrap();
    assert_eq!(update.additional_attributes, Some(AdditionalAttributes::default()));
}

#[test]
fn an_update_reads_and_checks_only_what_its_mask_names() {
    let message =
        pb::types::Entry { id: "entry-1".into(), hint: "new".into(), ..Default::default() };
    let mask = pb::types::EntryMask { hint: true, ..Default::default() };
    let update = update_from_pb(&message, Some(&mask), &td()).unwrap();
    let expected = EntryUpdate {
        id: EntryId::parse("entry-1").unwrap(),
        spiffe_id: None,
        parent_id: None,
        selectors: None,
        x509_svid_ttl_s: None,
        jwt_svid_ttl_s: None,
        federates_with: None,
        admin: None,
        downstream: None,
        expires_at_unix_s: None,
        dns_names: None,
        store_svid: None,
        hint: Some("new".to_owned()),
        additional_attributes: None,
    };
    assert_eq!(update, expected);
    assert!(update_from_pb(&message, None, &td()).is_err());
}

#[test]
fn a_malformed_update_is_refused_as_a_malformed_entry_is() {
    for (name, spoil, text) in REFUSALS {
        let mut message = full();
        spoil(&mut message);
        let result = update_from_pb(&message, None, &td());
        match name {
            "long id" | "odd id" => {
                assert_eq!(result.unwrap_err(), ConvertError::UnknownEntryId, "{name}");
            }
            // SPIRE checks this on creation only.
            "stored SVID without prefetch" => assert!(result.is_ok(), "{name}"),
            _ => assert_eq!(result.unwrap_err().to_string(), text, "{name}"),
        }
    }
}

#[test]
fn a_mask_keeps_exactly_the_fields_it_names() {
    type Keep = (fn(&mut pb::types::EntryMask), fn(&mut pb::types::Entry, pb::types::Entry));
    let fields: [Keep; 15] = [
        (|m| m.spiffe_id = true, |e, f| e.spiffe_id = f.spiffe_id),
        (|m| m.parent_id = true, |e, f| e.parent_id = f.parent_id),
        (|m| m.selectors = true, |e, f| e.selectors = f.selectors),
        (|m| m.x509_svid_ttl = true, |e, f| e.x509_svid_ttl = f.x509_svid_ttl),
        (|m| m.federates_with = true, |e, f| e.federates_with = f.federates_with),
        (|m| m.admin = true, |e, f| e.admin = f.admin),
        (|m| m.downstream = true, |e, f| e.downstream = f.downstream),
        (|m| m.expires_at = true, |e, f| e.expires_at = f.expires_at),
        (|m| m.dns_names = true, |e, f| e.dns_names = f.dns_names),
        (|m| m.revision_number = true, |e, f| e.revision_number = f.revision_number),
        (|m| m.store_svid = true, |e, f| e.store_svid = f.store_svid),
        (|m| m.jwt_svid_ttl = true, |e, f| e.jwt_svid_ttl = f.jwt_svid_ttl),
        (|m| m.hint = true, |e, f| e.hint = f.hint),
        (|m| m.created_at = true, |e, f| e.created_at = f.created_at),
        (
            |m| m.additional_attributes = true,
            |e, f| e.additional_attributes = f.additional_attributes,
        ),
    ];
    let stored = pb::types::Entry { revision_number: 5, created_at: 6, ..full() };
    for (set, copy) in fields {
        let mut mask = pb::types::EntryMask::default();
        set(&mut mask);
        let mut expected = pb::types::Entry { id: "entry-1".into(), ..Default::default() };
        copy(&mut expected, stored.clone());
        let mut entry = stored.clone();
        apply_mask(&mut entry, Some(&mask));
        assert_eq!(entry, expected);
        assert_ne!(entry, pb::types::Entry { id: "entry-1".into(), ..Default::default() });
    }
    for mask in [None, Some(&ALL)] {
        let mut entry = stored.clone();
        apply_mask(&mut entry, mask);
        assert_eq!(entry, stored);
    }
}

//! Frozen bytes: what earlier builds wrote must decode for ever, and today's build must write the same.
//!
//! One file a command in `golden/v1/`, hex. A new command adds a file; no file is ever changed. To write
//! the files of new commands, run this test with `STEEPLE_WRITE_GOLDEN=1`: existing ones stay.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::authority::{AuthorityId, AuthorityKind, SealedKey};
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};
use steeple_spiffe_core::entry::AdditionalAttributes;
use steeple_spiffe_core::federation::{EndpointProfile, EndpointUrl, FederationRelationship};
use steeple_spiffe_core::time::Timestamp;

use crate::apply::testing::{
    admit, authority, entry, entry_id, init, selectors, serial, serials, spiffe, token, update,
};
use crate::change::UnknownAgents;
use crate::codec::{
    applied_from_pb, applied_to_pb, command_from_pb, command_to_pb, relationship_from_pb,
    relationship_to_pb,
};
use crate::command::{
    AdoptAgent, AppendBundle, BundleDeletion, BundleDigest, BundleFields, BundleWrite, Command,
    DeleteBundles, FetchedBundle, InitCluster, PromoteSerial, PruneExpired, Refreshed,
    RelationshipFields, RelationshipMode, RelationshipWrite, ResealAuthority, RootChange,
    SetPendingSerial, WriteBundles, WriteRelationships, WriteSealed,
};
use crate::ids::Revision;
use crate::level::FEATURE_LEVEL_MAX;
use crate::outcome::{
    Applied, BundleOutcome, EntryOutcome, Outcome, Rejection, RelationshipOutcome,
};
use crate::pb;
use crate::sealed_values::SealedName;

fn full_entry() -> steeple_spiffe_core::RegistrationEntry {
    let mut full = entry("full", "/full", "unix:uid:1");
    full.selectors = selectors(&["unix:uid:1", "docker:label:a:b"]);
    full.x509_svid_ttl_s = 60;
    full.jwt_svid_ttl_s = 30;
    full.federates_with = [TrustDomain::parse("other.org").unwrap()].into();
    full.admin = true;
    full.downstream = true;
    full.expires_at_unix_s = 1_900_000_000;
    full.dns_names = vec!["b.example".to_owned(), "a.example".to_owned()];
    full.created_at = Timestamp::from_unix_ms(1_800_000_000_123);
    full.store_svid = true;
    full.hint = "hint".to_owned();
    full.additional_attributes =
        Some(AdditionalAttributes { disable_x509_svid_prefetch: true, jwt_svid_include_jti: true });
    full
}

fn init_at(feature_level: u32) -> Command {
    let Command::InitCluster(init) = init() else { panic!("init() is one") };
    Command::InitCluster(InitCluster { feature_level, ..init })
}

fn commands() -> Vec<(&'static str, Command)> {
    let agent = spiffe("/spire/agent/a");
    let at = Timestamp::from_unix_ms(1_800_000_000_000).plus(Duration::from_secs(60));
    let mut masked = update("full");
    masked.spiffe_id = Some(spiffe("/new"));
    masked.selectors = Some(selectors(&["a:b"]));
    masked.federates_with = Some(std::iter::empty().collect());
    masked.dns_names = Some(Vec::new());
    masked.admin = Some(false);
    masked.expires_at_unix_s = Some(0);
    let mut aliased = token("t", 60);
    aliased.alias = Some(Box::new(entry("alias", "/w", "spiffe_id:x")));
    let mut by_token = admit("/spire/agent/a", 7, Some(serials(Some(1), None)));
    by_token.token = Some("t".to_owned());
    vec![
        ("init_cluster", init_at(1)),
        ("init_cluster_at_level_2", init_at(2)),
        ("init_cluster_at_level_3", init_at(3)),
        ("init_cluster_at_level_4", init_at(4)),
        ("init_cluster_at_level_5", init_at(5)),
        ("init_cluster_at_level_6", init_at(6)),
        ("init_cluster_at_level_7", init_at(7)),
        ("create_entries", Command::CreateEntries(vec![full_entry(), entry("e", "/w", "a:b")])),
        ("update_entries", Command::UpdateEntries(vec![masked, update("full")])),
        ("delete_entries", Command::DeleteEntries(vec![entry_id("a"), entry_id("b")])),
        ("create_join_token", Command::CreateJoinToken(aliased)),
        ("admit_agent", Command::AdmitAgent(by_token)),
        (
            "set_pending_serial",
            Command::SetPendingSerial(SetPendingSerial {
                agent_id: agent.clone(),
                seen: serials(Some(1), Some(2)),
                pending: serial(3),
                not_after: at,
            }),
        ),
        (
            "promote_serial",
            Command::PromoteSerial(PromoteSerial {
                agent_id: agent.clone(),
                seen: serials(Some(1), Some(2)),
            }),
        ),
        ("ban_agent", Command::BanAgent(agent.clone())),
        ("delete_agent", Command::DeleteAgent(agent.clone())),
        (
            "set_agent_version",
            Command::SetAgentVersion { agent_id: agent, version: "1.15.2".to_owned() },
        ),
        (
            "adopt_agent",
            Command::AdoptAgent(AdoptAgent {
                agent_id: spiffe("/spire/agent/x509pop/a"),
                attestation_type: "x509pop".to_owned(),
                serial: serial(4),
                not_after: at,
                can_reattest: true,
                seen: Some(serials(Some(1), Some(2))),
            }),
        ),
        ("decide_agents", Command::DecideAgents(UnknownAgents::Adopt)),
        (
            "prune_expired",
            Command::PruneExpired(PruneExpired {
                agents_expired_for_s: Some(0),
                include_non_reattestable: true,
                limit: 100,
            }),
        ),
    ]
}

fn bundle_commands() -> Vec<(&'static str, Command)> {
    let x509 = |tainted| X509Authority { certificate_der: vec![0x30, 1], tainted };
    let jwt = |expires_at| JwtAuthority {
        key_id: "kid".to_owned(),
        public_key_der: vec![0x30, 2],
        expires_at,
        tainted: false,
    };
    let other = TrustDomain::parse("other.org").unwrap();
    let full = Bundle {
        trust_domain: other.clone(),
        x509_authorities: vec![x509(true), x509(false)],
        jwt_authorities: vec![jwt(None), jwt(Some(Timestamp::from_unix_ms(1_800_000_000_000)))],
        refresh_hint_s: 300,
        sequence_number: 7,
        wit_authorities: Vec::new(),
    };
    let bundles = vec![full, Bundle::empty(TrustDomain::parse("third.org").unwrap())];
    let fields =
        BundleFields { jwt_authorities: true, sequence_number: true, ..Default::default() };
    let write = |mode| Command::WriteBundles(WriteBundles { mode, bundles: bundles.clone() });
    let delete =
        |mode| Command::DeleteBundles(DeleteBundles { mode, trust_domains: vec![other.clone()] });
    vec![
        ("create_bundles", write(BundleWrite::Create)),
        ("set_bundles", write(BundleWrite::Set)),
        ("update_bundles", write(BundleWrite::Update(fields))),
        ("delete_bundles_restrict", delete(BundleDeletion::Restrict)),
        ("delete_bundles_delete", delete(BundleDeletion::Delete)),
        ("delete_bundles_dissociate", delete(BundleDeletion::Dissociate)),
        (
            "append_bundle",
            Command::AppendBundle(AppendBundle {
                x509_authorities: vec![x509(false)],
                jwt_authorities: vec![jwt(None)],
            }),
        ),
    ]
}

fn relationships() -> [FederationRelationship; 2] {
    let web = FederationRelationship {
        trust_domain: TrustDomain::parse("other.org").unwrap(),
        endpoint_url: EndpointUrl::parse("https://other.org:8443/bundle").unwrap(),
        profile: EndpointProfile::HttpsWeb,
    };
    let spiffe = FederationRelationship {
        trust_domain: TrustDomain::parse("third.org").unwrap(),
        profile: EndpointProfile::HttpsSpiffe { endpoint_id: spiffe("/spire/server") },
        ..web.clone()
    };
    [web, spiffe]
}

fn relationship_commands() -> Vec<(&'static str, Command)> {
    let [web, spiffe] = relationships();
    let bundle = Some(Bundle::empty(web.trust_domain.clone()));
    let items = vec![
        RelationshipWrite { relationship: web, bundle },
        RelationshipWrite { relationship: spiffe, bundle: None },
    ];
    let names = items.iter().map(|item| item.relationship.trust_domain.clone()).collect();
    let write =
        |mode| Command::WriteRelationships(WriteRelationships { mode, items: items.clone() });
    let update = |endpoint_url, profile| {
        write(RelationshipMode::Update(RelationshipFields { endpoint_url, profile }))
    };
    vec![
        ("create_relationships", write(RelationshipMode::Create)),
        ("update_relationships_url", update(true, false)),
        ("update_relationships_profile", update(false, true)),
        ("delete_relationships", Command::DeleteRelationships(names)),
    ]
}

fn refresh_commands() -> Vec<(&'static str, Command)> {
    let trust_domain = TrustDomain::parse("other.org").unwrap();
    let record = |refreshed| {
        let trust_domain = trust_domain.clone();
        Command::RecordRefresh { trust_domain, refreshed }
    };
    let bundle = Bundle { sequence_number: 2, ..Bundle::empty(trust_domain.clone()) };
    let fetched = |seen| {
        let bundle = bundle.clone();
        record(Refreshed::Succeeded(Some(FetchedBundle { bundle, seen })))
    };
    let seen = BundleDigest::of(&Bundle::empty(trust_domain.clone()));
    vec![
        ("record_refresh_unchanged", record(Refreshed::Succeeded(None))),
        ("record_refresh_first", fetched(None)),
        ("record_refresh_changed", fetched(Some(seen))),
        (
            "record_refresh_failed",
            record(Refreshed::Failed { class: "dial".to_owned(), text: "refused".to_owned() }),
        ),
        ("record_refresh_ended", record(Refreshed::Ended)),
    ]
}

fn wit_duties() -> Vec<(&'static str, Command)> {
    vec![
        (
            "prepare_wit_authority",
            Command::PrepareAuthority {
                expected_journal: 11,
                authority: authority(AuthorityKind::Wit, "w"),
            },
        ),
        (
            "prune_wit_authority",
            Command::PruneAuthorities {
                expected_journal: 12,
                ids: vec![(AuthorityKind::Wit, AuthorityId::new("w"))],
            },
        ),
    ]
}

fn duties() -> Vec<(&'static str, Command)> {
    vec![
        (
            "prepare_authority",
            Command::PrepareAuthority {
                expected_journal: 4,
                authority: authority(AuthorityKind::X509, "a"),
            },
        ),
        (
            "prepare_chained",
            Command::PrepareChained {
                expected_journal: 9,
                authority: authority(AuthorityKind::X509, "a"),
                roots: vec![vec![0x30, 1], vec![0x30, 2]],
            },
        ),
        ("add_roots", change_roots(RootChange::Add)),
        ("taint_roots", change_roots(RootChange::Taint)),
        ("revoke_roots", change_roots(RootChange::Revoke)),
        (
            "prune_bundle",
            Command::PruneBundle {
                expected_journal: 11,
                roots: vec![vec![0x30, 1]],
                key_ids: vec!["k1".to_owned(), "k2".to_owned()],
            },
        ),
        (
            "activate_authority",
            Command::ActivateAuthority {
                expected_journal: 5,
                kind: AuthorityKind::Jwt,
                id: AuthorityId::new("j"),
            },
        ),
        (
            "taint_authority",
            Command::TaintAuthority {
                expected_journal: 7,
                kind: AuthorityKind::X509,
                id: AuthorityId::new("a"),
            },
        ),
        (
            "revoke_authority",
            Command::RevokeAuthority {
                expected_journal: 8,
                kind: AuthorityKind::Jwt,
                id: AuthorityId::new("j"),
            },
        ),
        (
            "prune_authorities",
            Command::PruneAuthorities {
                expected_journal: 6,
                ids: vec![(AuthorityKind::X509, AuthorityId::new("a"))],
            },
        ),
        ("raise_feature_level", Command::RaiseFeatureLevel { to: 2 }),
    ]
}

fn cluster_keys() -> Vec<(&'static str, Command)> {
    vec![
        (
            "move_cluster_key",
            Command::MoveClusterKey { expected: "k1".to_owned(), to: "k2".to_owned() },
        ),
        (
            "reseal_authority",
            Command::ResealAuthority(Box::new(ResealAuthority {
                kind: AuthorityKind::Jwt,
                id: AuthorityId::new("j"),
                seen_kek_id: "k1".to_owned(),
                seen_nonce: vec![0; 12],
                sealed_key: SealedKey {
                    kek_id: "k2".to_owned(),
                    version: 1,
                    nonce: vec![1; 12],
                    ciphertext: vec![2, 3],
                },
            })),
        ),
        (
            "write_sealed",
            Command::WriteSealed(Box::new(WriteSealed {
                name: SealedName::AcmeCertificate,
                expected: 4,
                sealed: SealedKey {
                    kek_id: "k2".to_owned(),
                    version: 1,
                    nonce: vec![1; 12],
                    ciphertext: vec![2, 3],
                },
            })),
        ),
    ]
}

fn change_roots(change: RootChange) -> Command {
    Command::ChangeRoots { expected_journal: 10, change, roots: vec![vec![0x30, 1]] }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("src/codec/golden/v1")
        .join(format!("{name}.hex"));
    if std::env::var_os("STEEPLE_WRITE_GOLDEN").is_some() && !path.exists() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, hex(bytes) + "\n").unwrap();
    }
    let frozen = fs::read_to_string(&path).unwrap();
    assert_eq!(hex(bytes), frozen.trim(), "bytes of {name} have changed");
}

#[test]
fn commands_keep_their_bytes_and_decode_to_themselves() {
    let more = bundle_commands()
        .into_iter()
        .chain(relationship_commands())
        .chain(refresh_commands())
        .chain(duties())
        .chain(wit_duties())
        .chain(cluster_keys());
    for (name, command) in commands().into_iter().chain(more) {
        let bytes = command_to_pb(&command).encode_to_vec();
        check(name, &bytes);
        let decoded = pb::store::Command::decode(bytes.as_slice()).unwrap();
        assert_eq!(command_from_pb(decoded).unwrap(), command, "{name}");
    }
}

#[test]
fn outcomes_keep_their_bytes_and_decode_to_themselves() {
    let rejections = [
        Rejection::AlreadyInitialised,
        Rejection::NotInitialised,
        Rejection::EntryIdTaken(entry_id("e")),
        Rejection::EntryNotFound,
        Rejection::EntryWouldBeSimilar(entry_id("e")),
        Rejection::FederatedBundleMissing(TrustDomain::parse("other.org").unwrap()),
        Rejection::StoreSvidSelectorTypes,
        Rejection::LimitReached { what: "entries".to_owned(), limit: 5 },
        Rejection::TokenExists,
        Rejection::TokenUnknown,
        Rejection::TokenExpired,
        Rejection::AgentNotFound,
        Rejection::AgentBanned,
        Rejection::SerialsChanged,
        Rejection::JournalMoved { expected: 1, actual: 2 },
        Rejection::AuthorityState("a".to_owned()),
        Rejection::RequestIdReused,
        Rejection::RequestForgotten,
    ];
    let whole = rejections.iter().cloned().map(Err);
    let item = |entry| std::sync::Arc::new(entry);
    let items = [
        EntryOutcome::Created(item(full_entry())),
        EntryOutcome::Similar(item(full_entry())),
        EntryOutcome::Updated(item(full_entry())),
        EntryOutcome::Deleted,
        EntryOutcome::Rejected(Rejection::EntryNotFound),
    ];
    let done = [Ok(Outcome::Done), Ok(Outcome::Pruned(3)), Ok(Outcome::Entries(items.to_vec()))];
    let mut all = Vec::new();
    for outcome in done.into_iter().chain(whole) {
        let applied = Applied {
            revision: Revision::new(1, 9),
            time: Timestamp::from_unix_ms(1_800_000_000_000),
            outcome,
        };
        let bytes = applied_to_pb(&applied).encode_to_vec();
        let decoded = pb::store::Applied::decode(bytes.as_slice()).unwrap();
        assert_eq!(applied_from_pb(decoded).unwrap(), applied);
        all.extend(bytes);
    }
    check("outcomes", &all);
    let (expected, actual) = ("k1".to_owned(), "k2".to_owned());
    let later = [
        ("outcome_nothing_to_adopt", Rejection::NothingToAdopt),
        ("outcome_cluster_key_moved", Rejection::ClusterKeyMoved { expected, actual }),
        ("outcome_sealed_moved", Rejection::SealedMoved { expected: 1, actual: 2 }),
        ("outcome_bundle_moved", Rejection::BundleMoved),
    ];
    for (name, rejection) in later {
        let (revision, time) = (Revision::new(2, 9), Timestamp::from_unix_ms(1_800_000_000_000));
        let applied = Applied { revision, time, outcome: Err(rejection) };
        let bytes = applied_to_pb(&applied).encode_to_vec();
        let decoded = pb::store::Applied::decode(bytes.as_slice()).unwrap();
        assert_eq!(applied_from_pb(decoded).unwrap(), applied);
        check(name, &bytes);
    }
}

#[test]
fn outcomes_of_bundle_commands_keep_their_bytes_and_decode_to_themselves() {
    let other = TrustDomain::parse("other.org").unwrap();
    let rejections = [
        Rejection::OwnBundle,
        Rejection::BundleExists,
        Rejection::BundleNotFound,
        Rejection::BundleInUse(3),
    ];
    let items =
        [BundleOutcome::Written(std::sync::Arc::new(Bundle::empty(other))), BundleOutcome::Deleted];
    let items = items.into_iter().chain(rejections.map(BundleOutcome::Rejected)).collect();
    let applied = Applied {
        revision: Revision::new(1, 9),
        time: Timestamp::from_unix_ms(1_800_000_000_000),
        outcome: Ok(Outcome::Bundles(items)),
    };
    let bytes = applied_to_pb(&applied).encode_to_vec();
    let decoded = pb::store::Applied::decode(bytes.as_slice()).unwrap();
    assert_eq!(applied_from_pb(decoded).unwrap(), applied);
    check("bundle_outcomes", &bytes);
}

#[test]
fn outcomes_of_relationship_commands_keep_their_bytes_and_decode_to_themselves() {
    let rejections = [
        Rejection::OwnRelationship,
        Rejection::RelationshipExists,
        Rejection::RelationshipNotFound,
    ];
    let written = |one| RelationshipOutcome::Written(std::sync::Arc::new(one));
    let items = relationships().map(written).into_iter().chain([RelationshipOutcome::Deleted]);
    let items = items.chain(rejections.map(RelationshipOutcome::Rejected)).collect();
    let applied = Applied {
        revision: Revision::new(1, 9),
        time: Timestamp::from_unix_ms(1_800_000_000_000),
        outcome: Ok(Outcome::Relationships(items)),
    };
    let bytes = applied_to_pb(&applied).encode_to_vec();
    let decoded = pb::store::Applied::decode(bytes.as_slice()).unwrap();
    assert_eq!(applied_from_pb(decoded).unwrap(), applied);
    check("relationship_outcomes", &bytes);
}

#[test]
fn a_relationship_that_does_not_decode_whole_is_an_error() {
    let [web, _] = relationships().map(|one| relationship_to_pb(&one));
    let broken = [
        pb::store::FederationRelationship { profile: None, ..web.clone() },
        pb::store::FederationRelationship { endpoint_url: "http://x".to_owned(), ..web.clone() },
        pb::store::FederationRelationship { trust_domain: String::new(), ..web.clone() },
    ];
    for one in broken {
        assert!(relationship_from_pb(one.clone()).is_err(), "{one:?}");
    }
    let unspecified = pb::store::WriteRelationships { mode: 0, update: None, items: Vec::new() };
    let fieldless = pb::store::WriteRelationships { mode: 2, ..unspecified.clone() };
    for write in [unspecified, fieldless] {
        let kind = pb::store::command::Kind::WriteRelationships(write);
        let command = pb::store::Command { kind: Some(kind) };
        assert!(command_from_pb(command.clone()).is_err(), "{command:?}");
    }
}

#[test]
fn a_change_of_roots_that_is_unknown_is_an_error() {
    let change = pb::store::ChangeRoots { expected_journal: 1, change: 9, roots: Vec::new() };
    let kind = pb::store::command::Kind::ChangeRoots(change);
    assert!(command_from_pb(pb::store::Command { kind: Some(kind) }).is_err());
}

#[test]
fn a_command_of_a_newer_version_is_an_error_and_not_nothing() {
    // Field 99, length-delimited, empty.
    let unknown = pb::store::Command::decode([0x9a_u8, 0x06, 0x00].as_slice()).unwrap();
    assert!(command_from_pb(unknown).is_err());
    let levels =
        [Command::RaiseFeatureLevel { to: FEATURE_LEVEL_MAX + 1 }, init_at(FEATURE_LEVEL_MAX + 1)];
    for command in levels {
        assert!(command_from_pb(command_to_pb(&command)).is_err(), "{command:?}");
    }
}

//! Bad input to every RPC through each kind of caller: exact code and text, nothing changed.
//!
//! Expected codes are those of `spire-api` 0 and 2; texts are SPIRE's, as its services word them
//! (1.15). What a text ends with, when another library's parser speaks there, is left open: those rows
//! end in `…`.

use prost::Message;
use steeple_api::pb;
use steeple_spiffe_core::tls::insecure_bootstrap_client_config;
use steeple_testkit::client::{AttestedClient, request_key, server_id, tls_channel, unix_channel};
use steeple_testkit::{Cluster, ClusterSpec};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::tokens::create_token;

const AGENT: &str = "/spire.api.server.agent.v1.Agent";
const BUNDLE: &str = "/spire.api.server.bundle.v1.Bundle";
const ENTRY: &str = "/spire.api.server.entry.v1.Entry";
const SVID: &str = "/spire.api.server.svid.v1.SVID";
const AUTHORITY: &str = "/spire.api.server.localauthority.v1.LocalAuthority";
const TRUST_DOMAIN: &str = "/spire.api.server.trustdomain.v1.TrustDomain";
const HEALTH: &str = "/grpc.health.v1.Health";

/// Service, method, request in bytes, expected code and text.
type Row = (&'static str, &'static str, Vec<u8>, Code, String);

fn row(
    service: &'static str,
    method: &'static str,
    request: &impl Message,
    code: Code,
    text: impl Into<String>,
) -> Row {
    (service, method, request.encode_to_vec(), code, text.into())
}

/// Sends bytes as they are and reads the answer as another message would.
async fn call<A: Message + Default + 'static>(
    channel: &Channel,
    path: &str,
    request: Vec<u8>,
) -> Result<A, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(path).expect("a path");
    let codec = tonic_prost::ProstCodec::<Raw, A>::default();
    Ok(grpc.unary(Request::new(Raw(request)), path, codec).await?.into_inner())
}

/// A message that is its bytes.
#[derive(Clone, Debug, Default)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buffer: &mut impl prost::bytes::BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: prost::encoding::WireType,
        buffer: &mut impl prost::bytes::Buf,
        context: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Whether a text is the expected one; `…` at its end leaves the rest open.
fn fits(text: &str, expected: &str) -> bool {
    match expected.strip_suffix('…') {
        Some(start) => text.starts_with(start),
        None => text == expected,
    }
}

async fn check(channel: &Channel, who: &str, rows: Vec<Row>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (service, method, request, code, text) in rows {
        let path = format!("{service}/{method}");
        let answer = match call::<()>(channel, &path, request).await {
            Ok(()) => (Code::Ok, String::new()),
            Err(status) => (status.code(), status.message().to_owned()),
        };
        if answer.0 != code || !fits(&answer.1, &text) {
            wrong.push(format!("{who} {method}: {answer:?} instead of {:?}", (code, text)));
        }
    }
    wrong
}

fn item(
    wrong: &mut Vec<String>,
    what: &str,
    status: Option<&pb::types::Status>,
    want: (Code, &str),
) {
    let (code, text) = status.map_or((0, ""), |status| (status.code, status.message.as_str()));
    if code != want.0 as i32 || !fits(text, want.1) {
        wrong.push(format!("{what}: {:?} instead of {want:?}", (Code::from_i32(code), text)));
    }
}

fn id(trust_domain: &str, path: &str) -> Option<pb::types::Spiffeid> {
    Some(pb::types::Spiffeid { trust_domain: trust_domain.into(), path: path.into() })
}

fn own(path: &str) -> Option<pb::types::Spiffeid> {
    id("example.org", path)
}

/// What bad ids are told, with the prefix of their method.
fn bad_agent_ids() -> Vec<(Option<pb::types::Spiffeid>, Code, &'static str)> {
    let bad = Code::InvalidArgument;
    vec![
        (None, bad, "invalid agent ID: request must specify SPIFFE ID"),
        (id("", "/spire/agent/a"), bad, "invalid agent ID: trust domain is missing"),
        (
            id("UPPER", "/spire/agent/a"),
            bad,
            "invalid agent ID: trust domain characters are limited to lowercase letters, numbers, \
             dots, dashes, and underscores",
        ),
        (own("/spire/agent/a/"), bad, "invalid agent ID: path cannot have a trailing slash"),
        (
            id("other.org", "/spire/agent/a"),
            bad,
            "invalid agent ID: \"spiffe://other.org/spire/agent/a\" is not a member of trust \
             domain \"example.org\"",
        ),
        (
            own(""),
            bad,
            "invalid agent ID: \"spiffe://example.org\" is not an agent in trust domain \
             \"example.org\"; path is empty",
        ),
        (
            own("/web"),
            bad,
            "invalid agent ID: \"spiffe://example.org/web\" is not an agent in trust domain \
             \"example.org\"; path is not in the agent namespace",
        ),
        (own("/spire/agent/unknown"), Code::NotFound, "agent not found"),
    ]
}

fn agent_rows() -> Vec<Row> {
    use pb::server::agent::v1::*;

    let bad = Code::InvalidArgument;
    let mut rows = Vec::new();
    for (agent, code, text) in bad_agent_ids() {
        let get = GetAgentRequest { id: agent.clone(), output_mask: None };
        rows.push(row(AGENT, "GetAgent", &get, code, text));
        let ban = BanAgentRequest { id: agent.clone() };
        rows.push(row(AGENT, "BanAgent", &ban, code, text));
        rows.push(row(AGENT, "DeleteAgent", &DeleteAgentRequest { id: agent }, code, text));
    }
    let selectors = |kind: &str, value: &str| pb::types::SelectorMatch {
        selectors: vec![pb::types::Selector { r#type: kind.into(), value: value.into() }],
        r#match: 0,
    };
    for (kind, value, text) in [
        ("", "v", "failed to parse selectors: missing selector type"),
        ("a:b", "v", "failed to parse selectors: selector type contains ':'"),
        ("a", "", "failed to parse selectors: missing selector value"),
    ] {
        let by_selector_match = Some(selectors(kind, value));
        let filter = list_agents_request::Filter { by_selector_match, ..Default::default() };
        let list = ListAgentsRequest { filter: Some(filter), ..Default::default() };
        rows.push(row(AGENT, "ListAgents", &list, bad, text));
        let by_selector_match = Some(selectors(kind, value));
        let filter = count_agents_request::Filter { by_selector_match, ..Default::default() };
        let count = CountAgentsRequest { filter: Some(filter) };
        rows.push(row(AGENT, "CountAgents", &count, bad, text));
    }
    let page = ListAgentsRequest { page_token: "x".into(), page_size: 1, ..Default::default() };
    let text = "failed to list agents: could not parse token 'x'";
    rows.push(row(AGENT, "ListAgents", &page, Code::Internal, text));
    let token =
        |ttl, token: &str, agent_id| CreateJoinTokenRequest { ttl, token: token.into(), agent_id };
    for ttl in [0, -1, i32::MIN] {
        let text = "ttl is required, you must provide one";
        rows.push(row(AGENT, "CreateJoinToken", &token(ttl, "", None), bad, text));
    }
    let text = "invalid agent ID: \"spiffe://other.org/a\" is not a member of trust domain \
                \"example.org\"";
    let foreign = token(60, "", id("other.org", "/a"));
    rows.push(row(AGENT, "CreateJoinToken", &foreign, bad, text));
    let text = "invalid agent ID: \"spiffe://example.org/spire/x\" is not a workload in trust \
                domain \"example.org\"; path is in the reserved namespace";
    let reserved = token(60, "", own("/spire/x"));
    rows.push(row(AGENT, "CreateJoinToken", &reserved, bad, text));
    let taken = token(60, "left", None);
    rows.push(row(AGENT, "CreateJoinToken", &taken, Code::Internal, "failed to create token…"));
    rows
}

fn entry_rows() -> Vec<Row> {
    use pb::server::entry::v1::*;

    let bad = Code::InvalidArgument;
    let mut rows = vec![
        (
            ENTRY,
            "BatchCreateEntry",
            vec![0; 5_000_000],
            Code::ResourceExhausted,
            "grpc: received message larger than max (5000000 vs. 4194304)".to_owned(),
        ),
        row(ENTRY, "GetEntry", &GetEntryRequest::default(), bad, "missing ID"),
        row(
            ENTRY,
            "GetEntry",
            &GetEntryRequest { id: "unknown".into(), output_mask: None },
            Code::NotFound,
            "entry not found",
        ),
        row(
            ENTRY,
            "ListEntries",
            &ListEntriesRequest { page_token: "x".into(), page_size: 1, ..Default::default() },
            Code::Internal,
            "failed to list entries: could not parse token 'x'",
        ),
    ];
    type Change = fn(&mut list_entries_request::Filter);
    let filters: [(Change, &str); 4] = [
        (
            |filter| filter.by_parent_id = id("other.org", "/a"),
            "malformed parent ID filter: \"spiffe://other.org/a\" is not a member of trust domain \
             \"example.org\"",
        ),
        (
            |filter| filter.by_spiffe_id = own("/spire/a"),
            "malformed SPIFFE ID filter: \"spiffe://example.org/spire/a\" is not a workload in \
             trust domain \"example.org\"; path is in the reserved namespace",
        ),
        (
            |filter| filter.by_selectors = Some(pb::types::SelectorMatch::default()),
            "malformed selectors filter: empty selector set",
        ),
        (
            |filter| filter.by_federates_with = Some(pb::types::FederatesWithMatch::default()),
            "malformed federates with filter: empty trust domain set",
        ),
    ];
    for (change, text) in filters {
        let mut filter = list_entries_request::Filter::default();
        change(&mut filter);
        let counted = count_entries_request::Filter {
            by_spiffe_id: filter.by_spiffe_id.clone(),
            by_parent_id: filter.by_parent_id.clone(),
            by_selectors: filter.by_selectors.clone(),
            by_federates_with: filter.by_federates_with.clone(),
            ..Default::default()
        };
        let list = ListEntriesRequest { filter: Some(filter), ..Default::default() };
        rows.push(row(ENTRY, "ListEntries", &list, bad, text));
        let count = CountEntriesRequest { filter: Some(counted) };
        rows.push(row(ENTRY, "CountEntries", &count, bad, text));
    }
    rows
}

fn bundle_rows() -> Vec<Row> {
    use pb::server::bundle::v1::{
        AppendBundleRequest, BatchDeleteFederatedBundleRequest, GetFederatedBundleRequest,
    };

    let bad = Code::InvalidArgument;
    let mut rows = Vec::new();
    for (trust_domain, code, text) in [
        ("", bad, "trust domain argument is not valid…"),
        ("UPPER", bad, "trust domain argument is not valid…"),
        (
            "example.org",
            bad,
            "getting a federated bundle for the server's own trust domain is not allowed",
        ),
        ("other.org", Code::NotFound, "bundle not found"),
    ] {
        let trust_domain = trust_domain.to_owned();
        let get = GetFederatedBundleRequest { trust_domain, output_mask: None };
        rows.push(row(BUNDLE, "GetFederatedBundle", &get, code, text));
    }
    let append = |request: AppendBundleRequest, text: &'static str| {
        row(BUNDLE, "AppendBundle", &request, bad, text)
    };
    let asn1 = pb::types::X509Certificate { asn1: vec![1, 2, 3], tainted: false };
    let jwt = pb::types::JwtKey { key_id: "k".into(), ..Default::default() };
    rows.push(append(AppendBundleRequest::default(), "no authorities to append"));
    rows.push(append(
        AppendBundleRequest { x509_authorities: vec![asn1], ..Default::default() },
        "failed to convert X.509 authority…",
    ));
    rows.push(append(
        AppendBundleRequest { jwt_authorities: vec![jwt], ..Default::default() },
        "failed to convert JWT authority…",
    ));
    let delete = BatchDeleteFederatedBundleRequest { mode: 9, ..Default::default() };
    let text = "failed to parse deletion mode: unhandled delete mode \"9\"";
    rows.push(row(BUNDLE, "BatchDeleteFederatedBundle", &delete, bad, text));
    rows
}

/// A CSR with these names.
fn csr(uris: &[&str], dns: &[&str]) -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    let uris = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap()));
    params.subject_alt_names.extend(uris);
    let dns = dns.iter().map(|name| rcgen::SanType::DnsName((*name).try_into().unwrap()));
    params.subject_alt_names.extend(dns);
    params.serialize_request(&key).unwrap().der().to_vec()
}

/// A CSR whose last byte, a part of its signature, is another one.
fn forged(mut csr: Vec<u8>) -> Vec<u8> {
    *csr.last_mut().unwrap() ^= 1;
    csr
}

fn mint_rows() -> Vec<Row> {
    use pb::server::svid::v1::*;

    let bad = Code::InvalidArgument;
    let web = "spiffe://example.org/web";
    let x509 = |csr: Vec<u8>| MintX509svidRequest { csr, ttl: 0 };
    let mut rows = Vec::new();
    for (csr, text) in [
        (Vec::new(), "missing CSR"),
        (b"nonsense".to_vec(), "malformed CSR: …"),
        (forged(csr(&[web], &[])), "failed to verify CSR signature: …"),
        (csr(&[], &[]), "CSR URI SAN is required"),
        (csr(&[web, "spiffe://example.org/b"], &[]), "only one URI SAN is expected"),
        (csr(&["https://example.org/web"], &[]), "CSR URI SAN is invalid: …"),
        (csr(&["spiffe://other.org/web"], &[]), "CSR URI SAN is invalid: …"),
        (csr(&["spiffe://example.org/spire/web"], &[]), "CSR URI SAN is invalid: …"),
        (csr(&[web], &["a..example"]), "CSR DNS name is invalid: …"),
        (
            csr(&[web], &["*.a.example", "b.a.example"]),
            "CSR DNS name contains a wildcard that covers another non-wildcard name…",
        ),
    ] {
        rows.push(row(SVID, "MintX509SVID", &x509(csr), bad, text));
    }
    let jwt = |id, audience: &[&str]| MintJwtsvidRequest {
        id,
        audience: audience.iter().map(|name| (*name).to_owned()).collect(),
        ttl: 0,
    };
    for (request, text) in [
        (jwt(None, &["a"]), "invalid SPIFFE ID: request must specify SPIFFE ID"),
        (
            jwt(id("other.org", "/web"), &["a"]),
            "invalid SPIFFE ID: \"spiffe://other.org/web\" is not a member of trust domain \
             \"example.org\"",
        ),
        (jwt(own("/web"), &[]), "at least one audience is required"),
    ] {
        rows.push(row(SVID, "MintJWTSVID", &request, bad, text));
    }
    rows
}

fn health_rows() -> Vec<Row> {
    use pb::health::{HealthCheckRequest, HealthListRequest};

    let one = HealthCheckRequest { service: "one".into() };
    let missing = Code::Unimplemented;
    let text = "per-service health is not supported";
    vec![
        row(HEALTH, "Check", &one, Code::InvalidArgument, text),
        row(HEALTH, "List", &HealthListRequest::default(), missing, "method List not implemented"),
        row(
            HEALTH,
            "Watch",
            &HealthCheckRequest::default(),
            missing,
            "method Watch not implemented",
        ),
    ]
}

/// What agents ask wrongly of their own.
fn own_agent_rows() -> Vec<Row> {
    use pb::server::agent::v1::*;

    let bad = Code::InvalidArgument;
    let renew =
        |csr: &[u8]| RenewAgentRequest { params: Some(AgentX509svidParams { csr: csr.to_vec() }) };
    let status =
        |version: String| PostStatusRequest { current_bundle_serial: 0, agent_version: version };
    vec![
        row(AGENT, "RenewAgent", &RenewAgentRequest::default(), bad, "params cannot be nil"),
        row(AGENT, "RenewAgent", &renew(b""), bad, "missing CSR"),
        row(AGENT, "RenewAgent", &renew(b"nonsense"), bad, "failed to parse CSR: …"),
        row(
            AGENT,
            "PostStatus",
            &status("v".repeat(256)),
            bad,
            "agent version is too long (max 255 characters)",
        ),
    ]
}

/// What agents ask wrongly for workloads.
fn workload_rows() -> Vec<Row> {
    use pb::server::entry::v1::SyncAuthorizedEntriesRequest;
    use pb::server::svid::v1::*;

    let bad = Code::InvalidArgument;
    let jwt = |entry: &str, audience: &[&str]| NewJwtsvidRequest {
        entry_id: entry.into(),
        audience: audience.iter().map(|name| (*name).to_owned()).collect(),
    };
    let too_many = BatchNewX509svidRequest { params: vec![NewX509svidParams::default(); 501] };
    let first = |ids: &[&str], output_mask| SyncAuthorizedEntriesRequest {
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        output_mask,
    };
    let mask = pb::types::EntryMask { spiffe_id: true, ..Default::default() };
    vec![
        row(
            SVID,
            "BatchNewX509SVID",
            &BatchNewX509svidRequest::default(),
            bad,
            "missing parameters",
        ),
        row(
            SVID,
            "BatchNewX509SVID",
            &too_many,
            Code::ResourceExhausted,
            "rejecting request due to certificate signing rate limiting: rate (501) exceeds burst \
             size (500)",
        ),
        row(
            SVID,
            "NewJWTSVID",
            &jwt("unknown", &["a"]),
            Code::NotFound,
            "entry not found or not authorized",
        ),
        row(
            SVID,
            "NewJWTSVID",
            &jwt("foreign", &["a"]),
            Code::NotFound,
            "entry not found or not authorized",
        ),
        row(
            ENTRY,
            "SyncAuthorizedEntries",
            &first(&["a"], None),
            bad,
            "specifying IDs on initial request is not supported",
        ),
        row(
            ENTRY,
            "SyncAuthorizedEntries",
            &first(&[], Some(mask)),
            bad,
            "revision number cannot be masked",
        ),
    ]
}

fn attest_rows() -> Vec<Row> {
    use pb::server::agent::v1::attest_agent_request::{Params, Step};
    use pb::server::agent::v1::*;

    let bad = Code::InvalidArgument;
    let csr = request_key().unwrap().1;
    let params = |kind: &str, payload: &[u8], csr: &[u8]| Params {
        data: Some(pb::types::AttestationData { r#type: kind.into(), payload: payload.to_vec() }),
        params: Some(AgentX509svidParams { csr: csr.to_vec() }),
    };
    let complete = params("join_token", b"t", &csr);
    let spent = "failed to attest: join token does not exist or has already been used";
    let table = [
        (None, bad, "malformed param: missing params"),
        (
            Some(Params { data: None, ..complete.clone() }),
            bad,
            "malformed param: missing attestation data",
        ),
        (
            Some(Params { params: None, ..complete.clone() }),
            bad,
            "malformed param: missing X509-SVID parameters",
        ),
        (Some(params("join_token", b"t", b"")), bad, "malformed param: missing CSR"),
        (Some(params("", b"t", &csr)), bad, "malformed param: missing attestation data type"),
        (
            Some(params("join_token", b"", &csr)),
            bad,
            "malformed param: missing attestation data payload",
        ),
        (
            Some(params("x", b"t", &csr)),
            Code::FailedPrecondition,
            "error getting node attestor: could not find node attestor type \"x\"",
        ),
        (Some(complete), bad, spent),
        (Some(params("join_token", b"spent", &csr)), bad, spent),
        (Some(params("join_token", b"\xff\xfe", &csr)), bad, spent),
    ];
    let rows = table.into_iter().map(|(params, code, text)| {
        let step = params.map_or(Step::ChallengeResponse(Vec::new()), Step::Params);
        row(AGENT, "AttestAgent", &AttestAgentRequest { step: Some(step) }, code, text)
    });
    rows.collect()
}

/// Methods with those who may call them: socket, agent, anyone.
const CALLERS: [(&str, &[&str], [bool; 3]); 10] = [
    (
        AGENT,
        &["CountAgents", "ListAgents", "GetAgent", "DeleteAgent", "BanAgent", "CreateJoinToken"],
        [true, false, false],
    ),
    (AGENT, &["RenewAgent", "PostStatus"], [false, true, false]),
    (
        BUNDLE,
        &[
            "CountBundles",
            "AppendBundle",
            "ListFederatedBundles",
            "BatchCreateFederatedBundle",
            "BatchUpdateFederatedBundle",
            "BatchSetFederatedBundle",
            "BatchDeleteFederatedBundle",
        ],
        [true, false, false],
    ),
    (BUNDLE, &["PublishJWTAuthority", "PublishWITAuthority"], [false, false, false]),
    (BUNDLE, &["GetFederatedBundle"], [true, true, false]),
    (
        ENTRY,
        &[
            "CountEntries",
            "ListEntries",
            "GetEntry",
            "BatchCreateEntry",
            "BatchUpdateEntry",
            "BatchDeleteEntry",
        ],
        [true, false, false],
    ),
    (ENTRY, &["GetAuthorizedEntries", "SyncAuthorizedEntries"], [false, true, false]),
    (
        TRUST_DOMAIN,
        &[
            "ListFederationRelationships",
            "GetFederationRelationship",
            "BatchCreateFederationRelationship",
            "BatchUpdateFederationRelationship",
            "BatchDeleteFederationRelationship",
            "RefreshBundle",
        ],
        [true, false, false],
    ),
    (SVID, &["MintX509SVID", "MintJWTSVID", "MintWITSVID"], [true, false, false]),
    (
        AUTHORITY,
        &[
            "GetJWTAuthorityState",
            "PrepareJWTAuthority",
            "ActivateJWTAuthority",
            "TaintJWTAuthority",
            "RevokeJWTAuthority",
            "GetX509AuthorityState",
            "PrepareX509Authority",
            "ActivateX509Authority",
            "TaintX509Authority",
            "TaintX509UpstreamAuthority",
            "RevokeX509Authority",
            "RevokeX509UpstreamAuthority",
            "GetWITAuthorityState",
            "PrepareWITAuthority",
            "ActivateWITAuthority",
            "TaintWITAuthority",
            "RevokeWITAuthority",
        ],
        [true, false, false],
    ),
];

fn denied(caller: usize) -> Vec<Row> {
    let more: [(&str, &[&str], [bool; 3]); 2] = [
        (SVID, &["BatchNewX509SVID", "NewJWTSVID", "BatchNewWITSVID"], [false, true, false]),
        (SVID, &["NewDownstreamX509CA"], [false, false, false]),
    ];
    let mut rows = Vec::new();
    for (service, methods, _) in CALLERS.into_iter().chain(more).filter(|row| !row.2[caller]) {
        for method in methods {
            let text = format!("authorization denied for method {service}/{method}");
            rows.push(row(service, method, &(), Code::PermissionDenied, text));
        }
    }
    rows
}

fn unknown_on_tcp() -> Vec<Row> {
    let health = ["Check", "List", "Watch"].map(|method| {
        row(HEALTH, method, &(), Code::Unimplemented, "unknown service grpc.health.v1.Health")
    });
    let mut rows = health.to_vec();
    let text = "unknown method Nope for service spire.api.server.agent.v1.Agent";
    rows.push(row(AGENT, "Nope", &(), Code::Unimplemented, text));
    // No protobuf at all.
    let garbage = Raw(vec![0xff; 7]);
    let text = "…";
    rows.push(row(BUNDLE, "GetBundle", &garbage, Code::Internal, text));
    rows
}

fn entry(change: impl FnOnce(&mut pb::types::Entry)) -> pb::types::Entry {
    let selector = pb::types::Selector { r#type: "unix".into(), value: "uid:1".into() };
    let mut entry = pb::types::Entry {
        spiffe_id: own("/bad"),
        parent_id: own("/parent"),
        selectors: vec![selector],
        ..Default::default()
    };
    change(&mut entry);
    entry
}

fn bad_entries() -> Vec<(pb::types::Entry, Code, &'static str)> {
    let bad = Code::InvalidArgument;
    let selector =
        |kind: &str, value: &str| pb::types::Selector { r#type: kind.into(), value: value.into() };
    vec![
        (
            entry(|e| e.spiffe_id = None),
            bad,
            "failed to convert entry: invalid spiffe ID: request must specify SPIFFE ID",
        ),
        (
            entry(|e| e.spiffe_id = id("other.org", "/web")),
            bad,
            "failed to convert entry: invalid spiffe ID: \"spiffe://other.org/web\" is not a \
             member of trust domain \"example.org\"",
        ),
        (
            entry(|e| e.parent_id = None),
            bad,
            "failed to convert entry: invalid parent ID: request must specify SPIFFE ID",
        ),
        (entry(|e| e.selectors.clear()), bad, "failed to convert entry: selector list is empty"),
        (
            entry(|e| e.selectors = vec![selector("", "v")]),
            bad,
            "failed to convert entry: missing selector type",
        ),
        (
            entry(|e| e.selectors = vec![selector("a", "")]),
            bad,
            "failed to convert entry: missing selector value",
        ),
        (
            entry(|e| e.dns_names = vec!["a..b".into()]),
            bad,
            "failed to convert entry: invalid DNS name: …",
        ),
        (
            entry(|e| e.hint = "h".repeat(1025)),
            bad,
            "failed to convert entry: hint is too long, max length is 1024 characters",
        ),
        (
            entry(|e| e.federates_with = vec!["UPPER".into()]),
            bad,
            "failed to convert entry: invalid federated trust domain: …",
        ),
        (
            entry(|e| e.federates_with = vec!["other.org".into()]),
            Code::Internal,
            "failed to create entry: unable to find federated bundle \"spiffe://other.org\"…",
        ),
        (entry(|e| e.id = "a b".into()), bad, "failed to create entry: …"),
        (entry(|e| e.id = "i".repeat(256)), bad, "failed to create entry: …"),
        (entry(|e| e.x509_svid_ttl = -1), bad, "failed to create entry: …"),
        (entry(|e| e.jwt_svid_ttl = -1), bad, "failed to create entry: …"),
    ]
}

/// Batches answer item by item; a good one beside them would go through, so there is none.
async fn bad_items(socket: &Channel, agent: &Channel) -> Vec<String> {
    use pb::server::entry::v1::*;
    use pb::server::svid::v1::*;

    let mut wrong = Vec::new();
    let (entries, expected): (Vec<_>, Vec<_>) =
        bad_entries().into_iter().map(|(entry, code, text)| (entry, (code, text))).unzip();
    let create = BatchCreateEntryRequest { entries, output_mask: None };
    let path = format!("{ENTRY}/BatchCreateEntry");
    let reply: BatchCreateEntryResponse =
        call(socket, &path, create.encode_to_vec()).await.unwrap();
    assert_eq!(reply.results.len(), expected.len());
    for (number, (result, want)) in reply.results.iter().zip(expected).enumerate() {
        item(&mut wrong, &format!("create {number}"), result.status.as_ref(), want);
    }

    let update = BatchUpdateEntryRequest {
        entries: vec![entry(|e| e.id = "unknown".into())],
        ..Default::default()
    };
    let path = format!("{ENTRY}/BatchUpdateEntry");
    let reply: BatchUpdateEntryResponse =
        call(socket, &path, update.encode_to_vec()).await.unwrap();
    let want = (Code::NotFound, "failed to update entry…");
    item(&mut wrong, "update", reply.results[0].status.as_ref(), want);

    let delete = BatchDeleteEntryRequest { ids: vec![String::new(), "unknown".into()] };
    let path = format!("{ENTRY}/BatchDeleteEntry");
    let reply: BatchDeleteEntryResponse =
        call(socket, &path, delete.encode_to_vec()).await.unwrap();
    let expected =
        [(Code::InvalidArgument, "missing entry ID"), (Code::NotFound, "entry not found")];
    for (result, want) in reply.results.iter().zip(expected) {
        item(&mut wrong, "delete", result.status.as_ref(), want);
    }

    bad_bundles(socket, &mut wrong).await;
    bad_new_relationships(socket, &mut wrong).await;
    bad_old_relationships(socket, &mut wrong).await;

    let good = csr(&[], &[]);
    let table = [
        ("", good.clone(), Code::InvalidArgument, "missing entry ID"),
        ("unknown", Vec::new(), Code::InvalidArgument, "missing CSR"),
        ("foreign", good.clone(), Code::NotFound, "entry not found or not authorized"),
        ("unknown", good.clone(), Code::NotFound, "entry not found or not authorized"),
        ("ours", b"nonsense".to_vec(), Code::InvalidArgument, "malformed CSR: …"),
        ("ours", forged(good), Code::InvalidArgument, "invalid CSR signature: …"),
    ];
    let params = table
        .iter()
        .map(|(entry, csr, ..)| NewX509svidParams { entry_id: (*entry).into(), csr: csr.clone() });
    let batch = BatchNewX509svidRequest { params: params.collect() };
    let path = format!("{SVID}/BatchNewX509SVID");
    let reply: BatchNewX509svidResponse = call(agent, &path, batch.encode_to_vec()).await.unwrap();
    assert_eq!(reply.results.len(), table.len());
    for (result, (entry, _, code, text)) in reply.results.iter().zip(table) {
        assert!(result.svid.is_none(), "an SVID for {entry}");
        item(&mut wrong, &format!("sign {entry}"), result.status.as_ref(), (code, text));
    }
    wrong
}

/// Items of the calls that write bundles of other trust domains.
async fn bad_bundles(socket: &Channel, wrong: &mut Vec<String>) {
    use pb::server::bundle::v1::*;

    let bad = Code::InvalidArgument;
    let bundle = |name: &str| pb::types::Bundle {
        trust_domain: name.to_owned(),
        x509_authorities: vec![pb::types::X509Certificate { asn1: vec![1], tainted: false }],
        ..Default::default()
    };
    let expected = [
        (bad, "trust domain argument is not valid…"),
        (bad, "setting a federated bundle for the server's own trust domain is not allowed"),
        (bad, "failed to convert bundle: unable to parse X.509 authority…"),
    ];
    let bundles = ["UPPER", "example.org", "other.org"].map(bundle).to_vec();
    let set = BatchSetFederatedBundleRequest { bundle: bundles, output_mask: None };
    let path = format!("{BUNDLE}/BatchSetFederatedBundle");
    let reply: BatchSetFederatedBundleResponse =
        call(socket, &path, set.encode_to_vec()).await.unwrap();
    for (result, want) in reply.results.iter().zip(expected) {
        item(wrong, "set bundle", result.status.as_ref(), want);
    }

    let empty = pb::types::Bundle { trust_domain: "other.org".into(), ..Default::default() };
    let update = BatchUpdateFederatedBundleRequest { bundle: vec![empty], ..Default::default() };
    let path = format!("{BUNDLE}/BatchUpdateFederatedBundle");
    let reply: BatchUpdateFederatedBundleResponse =
        call(socket, &path, update.encode_to_vec()).await.unwrap();
    let want = (Code::NotFound, "bundle not found");
    item(wrong, "update bundle", reply.results[0].status.as_ref(), want);

    let expected = [
        (bad, "removing the bundle for the server trust domain is not allowed"),
        (Code::NotFound, "bundle not found"),
    ];
    let trust_domains = vec!["example.org".into(), "spiffe://other.org".into()];
    let delete = BatchDeleteFederatedBundleRequest { trust_domains, mode: 0 };
    let path = format!("{BUNDLE}/BatchDeleteFederatedBundle");
    let reply: BatchDeleteFederatedBundleResponse =
        call(socket, &path, delete.encode_to_vec()).await.unwrap();
    for (result, want) in reply.results.iter().zip(expected) {
        item(wrong, "delete bundle", result.status.as_ref(), want);
    }
}

/// Steps with authorities that are not there. Those with authorities that are have a test of their own.
fn authority_rows() -> Vec<Row> {
    use pb::server::localauthority::v1::*;

    let bad = Code::InvalidArgument;
    // All three steps have the same request.
    let named = |id: &str| TaintX509AuthorityRequest { authority_id: id.to_owned() };
    let (none, unexpected) = ("no authority ID provided", "unexpected authority ID");
    let mut rows = Vec::new();
    for kind in ["JWT", "X509"] {
        let method = |verb: &str| -> &'static str {
            match (verb, kind) {
                ("activate", "JWT") => "ActivateJWTAuthority",
                ("activate", _) => "ActivateX509Authority",
                ("taint", "JWT") => "TaintJWTAuthority",
                ("taint", _) => "TaintX509Authority",
                (_, "JWT") => "RevokeJWTAuthority",
                (_, _) => "RevokeX509Authority",
            }
        };
        let unknown = match kind {
            "JWT" => "invalid authority ID: no JWT authority found with provided authority ID",
            _ => "invalid authority ID: only Old local authority can be revoked",
        };
        for verb in ["activate", "taint"] {
            rows.push(row(AUTHORITY, method(verb), &named(""), bad, none));
            rows.push(row(AUTHORITY, method(verb), &named("none"), bad, unexpected));
        }
        let text = "invalid authority ID: no authority ID provided";
        rows.push(row(AUTHORITY, method("revoke"), &named(""), bad, text));
        rows.push(row(AUTHORITY, method("revoke"), &named("none"), bad, unknown));
    }
    let upstream = TaintX509UpstreamAuthorityRequest { subject_key_id: "abcd".to_owned() };
    for method in ["TaintX509UpstreamAuthority", "RevokeX509UpstreamAuthority"] {
        let text = "upstream authority is not configured";
        rows.push(row(AUTHORITY, method, &upstream, Code::FailedPrecondition, text));
    }
    for method in [
        "GetWITAuthorityState",
        "PrepareWITAuthority",
        "ActivateWITAuthority",
        "TaintWITAuthority",
        "RevokeWITAuthority",
    ] {
        let text = "WIT-SVID functionality is not yet implemented";
        rows.push(row(AUTHORITY, method, &(), Code::Unimplemented, text));
    }
    rows
}

/// Calls of relationships with other trust domains that fail as a whole.
fn relationship_rows() -> Vec<Row> {
    use pb::server::trustdomain::v1::*;

    let get = |name: &str| GetFederationRelationshipRequest {
        trust_domain: name.to_owned(),
        output_mask: None,
    };
    let refresh = |name: &str| RefreshBundleRequest { trust_domain: name.to_owned() };
    let bad = Code::InvalidArgument;
    let (show, unparsed) = ("GetFederationRelationship", "failed to parse trust domain: …");
    let none = "federation relationship does not exist";
    vec![
        row(TRUST_DOMAIN, show, &get(""), bad, unparsed),
        row(TRUST_DOMAIN, show, &get("UPPER"), bad, unparsed),
        row(TRUST_DOMAIN, show, &get("other.org"), Code::NotFound, none),
        row(TRUST_DOMAIN, "RefreshBundle", &refresh("UPPER"), bad, unparsed),
        row(
            TRUST_DOMAIN,
            "RefreshBundle",
            &refresh("other.org"),
            Code::NotFound,
            "no relationship with trust domain \"other.org\"",
        ),
    ]
}

const OTHER_URL: &str = "https://other.org";

/// A relationship by the profile https_web.
fn web(name: &str, url: &str) -> pb::types::FederationRelationship {
    use pb::types::federation_relationship::BundleEndpointProfile;

    let profile = BundleEndpointProfile::HttpsWeb(pb::types::HttpsWebProfile {});
    pb::types::FederationRelationship {
        trust_domain: name.to_owned(),
        bundle_endpoint_url: url.to_owned(),
        bundle_endpoint_profile: Some(profile),
        trust_domain_bundle: None,
    }
}

/// Items of the call that creates relationships with other trust domains.
async fn bad_new_relationships(socket: &Channel, wrong: &mut Vec<String>) {
    use pb::server::trustdomain::v1::*;

    let bad = Code::InvalidArgument;
    let bundle = pb::types::Bundle {
        trust_domain: "other.org".to_owned(),
        x509_authorities: vec![pb::types::X509Certificate { asn1: vec![1], tainted: false }],
        ..Default::default()
    };
    let table = [
        (web("UPPER", OTHER_URL), "failed to convert federation relationship: …"),
        (
            web("other.org", "http://other.org"),
            "failed to convert federation relationship: bundle endpoint URL must use the https \
             scheme",
        ),
        (
            pb::types::FederationRelationship {
                bundle_endpoint_profile: None,
                ..web("other.org", OTHER_URL)
            },
            "failed to convert federation relationship: …",
        ),
        (
            pb::types::FederationRelationship {
                trust_domain_bundle: Some(bundle),
                ..web("other.org", OTHER_URL)
            },
            "failed to convert federation relationship: …",
        ),
        (
            web("example.org", OTHER_URL),
            "unable to create federation relationship for server trust domain",
        ),
    ];
    let federation_relationships = table.iter().map(|(item, _)| item.clone()).collect();
    let create =
        BatchCreateFederationRelationshipRequest { federation_relationships, output_mask: None };
    let path = format!("{TRUST_DOMAIN}/BatchCreateFederationRelationship");
    let reply: BatchCreateFederationRelationshipResponse =
        call(socket, &path, create.encode_to_vec()).await.unwrap();
    assert_eq!(reply.results.len(), table.len());
    for (result, (asked, text)) in reply.results.iter().zip(table) {
        let what = format!("create relationship {}", asked.trust_domain);
        item(wrong, &what, result.status.as_ref(), (bad, text));
    }
}

/// Items of the calls that change and end relationships that there are not.
async fn bad_old_relationships(socket: &Channel, wrong: &mut Vec<String>) {
    use pb::server::trustdomain::v1::*;

    let bad = Code::InvalidArgument;
    let update = BatchUpdateFederationRelationshipRequest {
        federation_relationships: vec![web("other.org", OTHER_URL)],
        ..Default::default()
    };
    let path = format!("{TRUST_DOMAIN}/BatchUpdateFederationRelationship");
    let reply: BatchUpdateFederationRelationshipResponse =
        call(socket, &path, update.encode_to_vec()).await.unwrap();
    let text = "failed to update federation relationship: unable to fetch federation \
                relationship: record not found";
    item(wrong, "update relationship", reply.results[0].status.as_ref(), (Code::Internal, text));

    let trust_domains = ["", "UPPER", "other.org"].map(str::to_owned).to_vec();
    let delete = BatchDeleteFederationRelationshipRequest { trust_domains };
    let path = format!("{TRUST_DOMAIN}/BatchDeleteFederationRelationship");
    let reply: BatchDeleteFederationRelationshipResponse =
        call(socket, &path, delete.encode_to_vec()).await.unwrap();
    let expected = [
        (bad, "missing trust domain"),
        (bad, "failed to parse trust domain: …"),
        (Code::NotFound, "federation relationship not found"),
    ];
    for (result, want) in reply.results.iter().zip(expected) {
        item(wrong, "delete relationship", result.status.as_ref(), want);
    }
}

/// Everything that calls could have changed.
async fn state(socket: &Channel) -> State {
    let agents: pb::server::agent::v1::ListAgentsResponse =
        call(socket, &format!("{AGENT}/ListAgents"), Vec::new()).await.unwrap();
    let entries: pb::server::entry::v1::ListEntriesResponse =
        call(socket, &format!("{ENTRY}/ListEntries"), Vec::new()).await.unwrap();
    let bundle = call(socket, &format!("{BUNDLE}/GetBundle"), Vec::new()).await.unwrap();
    let path = format!("{TRUST_DOMAIN}/ListFederationRelationships");
    let relationships: pb::server::trustdomain::v1::ListFederationRelationshipsResponse =
        call(socket, &path, Vec::new()).await.unwrap();
    (agents.agents, entries.entries, bundle, relationships.federation_relationships)
}

/// Agents, entries, the own bundle, relationships.
type State = (
    Vec<pb::types::Agent>,
    Vec<pb::types::Entry>,
    pb::types::Bundle,
    Vec<pb::types::FederationRelationship>,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_calls_of_every_caller_get_spires_codes_and_texts_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ClusterSpec {
        members: 1,
        server_lines: "  ratelimit { attestation = false }\n".to_owned(),
        ..ClusterSpec::default()
    };
    let cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    let member = cluster.member(0).unwrap();
    let port = member.api_port;
    let socket = unix_channel(&member.socket());
    let token = create_token(&cluster, 0, "spent").await;
    let attested = AttestedClient::attest(&[port], &token).await.unwrap();
    let agent = attested.channels()[0].clone();
    let bootstrap = insecure_bootstrap_client_config(server_id().unwrap()).unwrap();
    let anyone = tls_channel(port, bootstrap);
    create_token(&cluster, 0, "left").await;
    let parents = [("ours", attested.id.to_string()), ("foreign", "spiffe://example.org/n".into())];
    for (id, parent) in parents {
        let spiffe_id = format!("spiffe://example.org/{id}");
        let words = ["entry", "create", "-entryID", id, "-parentID", &parent, "-spiffeID"];
        let made =
            member.cli(&[words.as_slice(), &[&spiffe_id, "-selector", "unix:uid:1"]].concat());
        assert!(made.as_ref().unwrap().status.success(), "{made:?}");
    }

    let before = state(&socket).await;
    let mut wrong = Vec::new();
    let rows = [
        agent_rows(),
        entry_rows(),
        bundle_rows(),
        relationship_rows(),
        authority_rows(),
        mint_rows(),
        health_rows(),
        denied(0),
    ];
    wrong.extend(check(&socket, "socket", rows.concat()).await);
    let rows = [own_agent_rows(), workload_rows(), denied(1), unknown_on_tcp()];
    wrong.extend(check(&agent, "agent", rows.concat()).await);
    let rows = [attest_rows(), denied(2), unknown_on_tcp()];
    wrong.extend(check(&anyone, "anyone", rows.concat()).await);
    wrong.extend(bad_items(&socket, &agent).await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(state(&socket).await, before, "a refused call changed something");
    assert!(
        AttestedClient::attest(&[port], "left").await.is_ok(),
        "the token that others tried to take is still there"
    );
}

//! What SPIRE 1.15 has and the published files do not have yet, one by one.
//!
//! Each group names the place in `spec/spire-api.md` whose tables state its lines; a line is the
//! element and what the table says of it (number, type). When a newer published file
//! brings one of them, the test fails until its line here is gone.

use crate::surface::Surface;

/// Additions that one place of the specification states: name and fact, as `surface` writes them.
struct Stated {
    place: &'static str,
    facts: &'static [(&'static str, &'static str)],
}

/// The surface with all additions; the error names those that are no additions any more.
pub(crate) fn add_to(mut surface: Surface) -> Result<Surface, String> {
    let mut stale = Vec::new();
    for stated in ADDITIONS {
        for (name, fact) in stated.facts {
            if let Err(error) = surface.add(name, fact) {
                stale.push(format!("{}: {error}", stated.place));
            }
        }
    }
    if stale.is_empty() { Ok(surface) } else { Err(stale.join("\n")) }
}

const ADDITIONS: &[Stated] = &[
    Stated {
        place: "sect. 1, entry.proto",
        facts: &[
            ("spire.api.types.Entry.AdditionalAttributes", "proto3 message"),
            (
                "spire.api.types.Entry.AdditionalAttributes.disable_x509_svid_prefetch",
                "1: bool, json disableX509SvidPrefetch",
            ),
            (
                "spire.api.types.Entry.AdditionalAttributes.jwt_svid_include_jti",
                "2: bool, json jwtSvidIncludeJti",
            ),
            (
                "spire.api.types.Entry.additional_attributes",
                "16: optional spire.api.types.Entry.AdditionalAttributes, json additionalAttributes",
            ),
            (
                "spire.api.types.EntryMask.additional_attributes",
                "16: bool, json additionalAttributes",
            ),
        ],
    },
    Stated {
        place: "sect. 1, agent.proto",
        facts: &[
            ("spire.api.types.Agent.agent_version", "8: string, json agentVersion"),
            ("spire.api.types.AgentMask.agent_version", "8: bool, json agentVersion"),
        ],
    },
    Stated {
        place: "sect. 1, bundle.proto",
        facts: &[
            (
                "spire.api.types.Bundle.wit_authorities",
                "6: repeated spire.api.types.WITKey, json witAuthorities",
            ),
            ("spire.api.types.BundleMask.wit_authorities", "6: bool, json witAuthorities"),
            ("spire.api.types.WITKey", "proto3 message"),
            ("spire.api.types.WITKey.expires_at", "3: int64, json expiresAt"),
            ("spire.api.types.WITKey.key_id", "2: string, json keyId"),
            ("spire.api.types.WITKey.public_key", "1: bytes, json publicKey"),
            ("spire.api.types.WITKey.tainted", "4: bool, json tainted"),
        ],
    },
    Stated {
        place: "sect. 1, witsvid.proto",
        facts: &[
            ("spire.api.types.WITSVID", "proto3 message"),
            ("spire.api.types.WITSVID.expires_at", "3: int64, json expiresAt"),
            ("spire.api.types.WITSVID.hint", "5: string, json hint"),
            ("spire.api.types.WITSVID.id", "2: spire.api.types.SPIFFEID, json id"),
            ("spire.api.types.WITSVID.issued_at", "4: int64, json issuedAt"),
            ("spire.api.types.WITSVID.token", "1: string, json token"),
        ],
    },
    Stated {
        place: "sect. 2.1",
        facts: &[(
            "spire.api.server.agent.v1.PostStatusRequest.agent_version",
            "2: string, json agentVersion",
        )],
    },
    Stated {
        place: "sect. 2.2",
        facts: &[
            (
                "spire.api.server.bundle.v1.AppendBundleRequest.wit_authorities",
                "4: repeated spire.api.types.WITKey, json witAuthorities",
            ),
            (
                "spire.api.server.bundle.v1.Bundle.PublishWITAuthority",
                "rpc (spire.api.server.bundle.v1.PublishWITAuthorityRequest) returns (spire.api.server.bundle.v1.PublishWITAuthorityResponse)",
            ),
            ("spire.api.server.bundle.v1.PublishWITAuthorityRequest", "proto3 message"),
            (
                "spire.api.server.bundle.v1.PublishWITAuthorityRequest.wit_authority",
                "1: spire.api.types.WITKey, json witAuthority",
            ),
            ("spire.api.server.bundle.v1.PublishWITAuthorityResponse", "proto3 message"),
            (
                "spire.api.server.bundle.v1.PublishWITAuthorityResponse.wit_authorities",
                "1: repeated spire.api.types.WITKey, json witAuthorities",
            ),
        ],
    },
    Stated {
        place: "sect. 2.3",
        facts: &[(
            "spire.api.server.entry.v1.EntryRevision.created_at",
            "3: int64, json createdAt",
        )],
    },
    Stated {
        place: "sect. 2.4",
        facts: &[
            ("spire.api.server.svid.v1.BatchNewWITSVIDRequest", "proto3 message"),
            (
                "spire.api.server.svid.v1.BatchNewWITSVIDRequest.params",
                "1: repeated spire.api.server.svid.v1.NewWITSVIDParams, json params",
            ),
            ("spire.api.server.svid.v1.BatchNewWITSVIDResponse", "proto3 message"),
            ("spire.api.server.svid.v1.BatchNewWITSVIDResponse.Result", "proto3 message"),
            (
                "spire.api.server.svid.v1.BatchNewWITSVIDResponse.Result.status",
                "1: spire.api.types.Status, json status",
            ),
            (
                "spire.api.server.svid.v1.BatchNewWITSVIDResponse.Result.svid",
                "2: spire.api.types.WITSVID, json svid",
            ),
            (
                "spire.api.server.svid.v1.BatchNewWITSVIDResponse.results",
                "1: repeated spire.api.server.svid.v1.BatchNewWITSVIDResponse.Result, json results",
            ),
            ("spire.api.server.svid.v1.MintWITSVIDRequest", "proto3 message"),
            (
                "spire.api.server.svid.v1.MintWITSVIDRequest.id",
                "1: spire.api.types.SPIFFEID, json id",
            ),
            ("spire.api.server.svid.v1.MintWITSVIDRequest.public_key", "2: bytes, json publicKey"),
            (
                "spire.api.server.svid.v1.MintWITSVIDRequest.signing_algorithm",
                "4: string, json signingAlgorithm",
            ),
            ("spire.api.server.svid.v1.MintWITSVIDRequest.ttl", "3: int32, json ttl"),
            ("spire.api.server.svid.v1.MintWITSVIDResponse", "proto3 message"),
            (
                "spire.api.server.svid.v1.MintWITSVIDResponse.svid",
                "1: spire.api.types.WITSVID, json svid",
            ),
            ("spire.api.server.svid.v1.NewWITSVIDParams", "proto3 message"),
            ("spire.api.server.svid.v1.NewWITSVIDParams.entry_id", "1: string, json entryId"),
            ("spire.api.server.svid.v1.NewWITSVIDParams.public_key", "2: bytes, json publicKey"),
            (
                "spire.api.server.svid.v1.NewWITSVIDParams.signing_algorithm",
                "3: string, json signingAlgorithm",
            ),
            (
                "spire.api.server.svid.v1.SVID.BatchNewWITSVID",
                "rpc (spire.api.server.svid.v1.BatchNewWITSVIDRequest) returns (spire.api.server.svid.v1.BatchNewWITSVIDResponse)",
            ),
            (
                "spire.api.server.svid.v1.SVID.MintWITSVID",
                "rpc (spire.api.server.svid.v1.MintWITSVIDRequest) returns (spire.api.server.svid.v1.MintWITSVIDResponse)",
            ),
        ],
    },
    Stated {
        place: "sect. 4",
        facts: &[
            (
                "SpiffeWorkloadAPI.FetchWITBundles",
                "rpc (WITBundlesRequest) returns (stream WITBundlesResponse)",
            ),
            (
                "SpiffeWorkloadAPI.FetchWITSVID",
                "rpc (WITSVIDRequest) returns (stream WITSVIDResponse)",
            ),
            ("WITBundlesRequest", "proto3 message"),
            ("WITBundlesResponse", "proto3 message"),
            ("WITBundlesResponse.BundlesEntry", "proto3 map entry"),
            ("WITBundlesResponse.BundlesEntry.key", "1: string, json key"),
            ("WITBundlesResponse.BundlesEntry.value", "2: string, json value"),
            (
                "WITBundlesResponse.bundles",
                "1: repeated WITBundlesResponse.BundlesEntry, json bundles",
            ),
            ("WITSVID", "proto3 message"),
            ("WITSVID.hint", "4: string, json hint"),
            ("WITSVID.spiffe_id", "1: string, json spiffeId"),
            ("WITSVID.wit_svid", "2: string, json witSvid"),
            ("WITSVID.wit_svid_key", "3: string, json witSvidKey"),
            ("WITSVIDRequest", "proto3 message"),
            ("WITSVIDRequest.spiffe_id", "1: string, json spiffeId"),
            ("WITSVIDResponse", "proto3 message"),
            ("WITSVIDResponse.svids", "1: repeated WITSVID, json svids"),
        ],
    },
    Stated {
        place: "sect. 7 (List), shapes by the public gRPC health checking protocol",
        facts: &[
            ("grpc.health.v1.HealthListRequest", "proto3 message"),
            ("grpc.health.v1.HealthListResponse", "proto3 message"),
            ("grpc.health.v1.HealthListResponse.StatusesEntry", "proto3 map entry"),
            ("grpc.health.v1.HealthListResponse.StatusesEntry.key", "1: string, json key"),
            (
                "grpc.health.v1.HealthListResponse.StatusesEntry.value",
                "2: grpc.health.v1.HealthCheckResponse, json value",
            ),
            (
                "grpc.health.v1.HealthListResponse.statuses",
                "1: repeated grpc.health.v1.HealthListResponse.StatusesEntry, json statuses",
            ),
            (
                "grpc.health.v1.Health.List",
                "rpc (grpc.health.v1.HealthListRequest) returns (grpc.health.v1.HealthListResponse)",
            ),
        ],
    },
    Stated {
        place: "sect. 2.6",
        facts: &[
            ("spire.api.server.localauthority.v1.ActivateWITAuthorityRequest", "proto3 message"),
            (
                "spire.api.server.localauthority.v1.ActivateWITAuthorityRequest.authority_id",
                "1: string, json authorityId",
            ),
            ("spire.api.server.localauthority.v1.ActivateWITAuthorityResponse", "proto3 message"),
            (
                "spire.api.server.localauthority.v1.ActivateWITAuthorityResponse.activated_authority",
                "1: spire.api.server.localauthority.v1.AuthorityState, json activatedAuthority",
            ),
            (
                "spire.api.server.localauthority.v1.AuthorityState.upstream_authority_subject_key_id",
                "3: string, json upstreamAuthoritySubjectKeyId",
            ),
            ("spire.api.server.localauthority.v1.GetWITAuthorityStateRequest", "proto3 message"),
            ("spire.api.server.localauthority.v1.GetWITAuthorityStateResponse", "proto3 message"),
            (
                "spire.api.server.localauthority.v1.GetWITAuthorityStateResponse.active",
                "1: spire.api.server.localauthority.v1.AuthorityState, json active",
            ),
            (
                "spire.api.server.localauthority.v1.GetWITAuthorityStateResponse.old",
                "3: spire.api.server.localauthority.v1.AuthorityState, json old",
            ),
            (
                "spire.api.server.localauthority.v1.GetWITAuthorityStateResponse.prepared",
                "2: spire.api.server.localauthority.v1.AuthorityState, json prepared",
            ),
            (
                "spire.api.server.localauthority.v1.LocalAuthority.ActivateWITAuthority",
                "rpc (spire.api.server.localauthority.v1.ActivateWITAuthorityRequest) returns (spire.api.server.localauthority.v1.ActivateWITAuthorityResponse)",
            ),
            (
                "spire.api.server.localauthority.v1.LocalAuthority.GetWITAuthorityState",
                "rpc (spire.api.server.localauthority.v1.GetWITAuthorityStateRequest) returns (spire.api.server.localauthority.v1.GetWITAuthorityStateResponse)",
            ),
            (
                "spire.api.server.localauthority.v1.LocalAuthority.PrepareWITAuthority",
                "rpc (spire.api.server.localauthority.v1.PrepareWITAuthorityRequest) returns (spire.api.server.localauthority.v1.PrepareWITAuthorityResponse)",
            ),
            (
                "spire.api.server.localauthority.v1.LocalAuthority.RevokeWITAuthority",
                "rpc (spire.api.server.localauthority.v1.RevokeWITAuthorityRequest) returns (spire.api.server.localauthority.v1.RevokeWITAuthorityResponse)",
            ),
            (
                "spire.api.server.localauthority.v1.LocalAuthority.TaintWITAuthority",
                "rpc (spire.api.server.localauthority.v1.TaintWITAuthorityRequest) returns (spire.api.server.localauthority.v1.TaintWITAuthorityResponse)",
            ),
            ("spire.api.server.localauthority.v1.PrepareWITAuthorityRequest", "proto3 message"),
            ("spire.api.server.localauthority.v1.PrepareWITAuthorityResponse", "proto3 message"),
            (
                "spire.api.server.localauthority.v1.PrepareWITAuthorityResponse.prepared_authority",
                "1: spire.api.server.localauthority.v1.AuthorityState, json preparedAuthority",
            ),
            ("spire.api.server.localauthority.v1.RevokeWITAuthorityRequest", "proto3 message"),
            (
                "spire.api.server.localauthority.v1.RevokeWITAuthorityRequest.authority_id",
                "1: string, json authorityId",
            ),
            ("spire.api.server.localauthority.v1.RevokeWITAuthorityResponse", "proto3 message"),
            (
                "spire.api.server.localauthority.v1.RevokeWITAuthorityResponse.revoked_authority",
                "1: spire.api.server.localauthority.v1.AuthorityState, json revokedAuthority",
            ),
            (
                "spire.api.server.localauthority.v1.RevokeX509UpstreamAuthorityResponse.upstream_authority_subject_key_id",
                "1: string, json upstreamAuthoritySubjectKeyId",
            ),
            ("spire.api.server.localauthority.v1.TaintWITAuthorityRequest", "proto3 message"),
            (
                "spire.api.server.localauthority.v1.TaintWITAuthorityRequest.authority_id",
                "1: string, json authorityId",
            ),
            ("spire.api.server.localauthority.v1.TaintWITAuthorityResponse", "proto3 message"),
            (
                "spire.api.server.localauthority.v1.TaintWITAuthorityResponse.tainted_authority",
                "1: spire.api.server.localauthority.v1.AuthorityState, json taintedAuthority",
            ),
            (
                "spire.api.server.localauthority.v1.TaintX509UpstreamAuthorityResponse.upstream_authority_subject_key_id",
                "1: string, json upstreamAuthoritySubjectKeyId",
            ),
        ],
    },
];

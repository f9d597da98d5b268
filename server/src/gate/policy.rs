//! Who may call what: one row per method, the whole authorisation policy of the server.
//!
//! The rows of SPIRE's services repeat its default policy (`spire-api` 0.4); the rows of ours follow
//! `docs/reference/cluster.md` 6. A test walks every method of the compiled protos and fails when
//! one has no row. What a row means for one caller is decided in [`super::caller`].

use Grant::{Admin, Agent, Any, Downstream, Local, OwnAdmin};

/// A kind of caller that a method lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Everyone, with or without a certificate.
    Any,
    /// A process on the admin socket.
    Local,
    /// An administrator: listed in `admin_ids`, or bearer of an entry with `admin`.
    Admin,
    /// An administrator of the server's own trust domain.
    OwnAdmin,
    /// An agent whose certificate the registry knows as current or pending.
    Agent,
    /// A downstream server: bearer of an entry with `downstream`.
    Downstream,
}

/// One method and its callers.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// `/package.Service/Method`.
    pub method: &'static str,
    /// Who may call it.
    pub grants: &'static [Grant],
    /// Whether the method exists on the admin socket only; on the API port it is unknown.
    pub socket_only: bool,
}

impl Rule {
    /// Whether the method lets in callers of a kind.
    pub fn grants(&self, grant: Grant) -> bool {
        self.grants.contains(&grant)
    }

    /// The full name of the service, `package.Service`.
    pub fn service(&self) -> &'static str {
        split(self.method).0
    }

    /// The service as SPIRE's log lines name it, without `spire.api.server.`.
    pub fn short_service(&self) -> &'static str {
        let service = self.service();
        service.strip_prefix("spire.api.server.").unwrap_or(service)
    }

    /// The method's short name.
    pub fn name(&self) -> &'static str {
        split(self.method).1
    }
}

/// The row of a method; `None` = no such method.
pub fn rule(method: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.method == method)
}

/// The text of gRPC-Go for a path that leads nowhere.
pub fn unknown_method(method: &str) -> String {
    let (service, name) = split(method);
    if RULES.iter().any(|rule| rule.service() == service && !rule.socket_only) {
        format!("unknown method {name} for service {service}")
    } else {
        format!("unknown service {service}")
    }
}

fn split(method: &str) -> (&str, &str) {
    method.trim_start_matches('/').rsplit_once('/').unwrap_or(("", method))
}

const fn row(method: &'static str, grants: &'static [Grant]) -> Rule {
    Rule { method, grants, socket_only: false }
}

const fn socket(method: &'static str) -> Rule {
    Rule { method, grants: &[Local], socket_only: true }
}

const OPERATORS: &[Grant] = &[Local, Admin];
const CLUSTER_READERS: &[Grant] = &[Local, OwnAdmin];

/// Every method of every service, in the order of the services' documentation.
pub static RULES: &[Rule] = &[
    row("/spire.api.server.agent.v1.Agent/CountAgents", OPERATORS),
    row("/spire.api.server.agent.v1.Agent/ListAgents", OPERATORS),
    row("/spire.api.server.agent.v1.Agent/GetAgent", OPERATORS),
    row("/spire.api.server.agent.v1.Agent/DeleteAgent", OPERATORS),
    row("/spire.api.server.agent.v1.Agent/BanAgent", OPERATORS),
    row("/spire.api.server.agent.v1.Agent/AttestAgent", &[Any]),
    row("/spire.api.server.agent.v1.Agent/RenewAgent", &[Agent]),
    row("/spire.api.server.agent.v1.Agent/CreateJoinToken", OPERATORS),
    row("/spire.api.server.agent.v1.Agent/PostStatus", &[Agent]),
    row("/spire.api.server.bundle.v1.Bundle/CountBundles", OPERATORS),
    row("/spire.api.server.bundle.v1.Bundle/GetBundle", &[Any]),
    row("/spire.api.server.bundle.v1.Bundle/AppendBundle", OPERATORS),
    row("/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority", &[Downstream]),
    row("/spire.api.server.bundle.v1.Bundle/PublishWITAuthority", &[Downstream]),
    row("/spire.api.server.bundle.v1.Bundle/ListFederatedBundles", OPERATORS),
    row("/spire.api.server.bundle.v1.Bundle/GetFederatedBundle", &[Local, Admin, Agent]),
    row("/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle", OPERATORS),
    row("/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle", OPERATORS),
    row("/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle", OPERATORS),
    row("/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle", OPERATORS),
    row("/spire.api.server.entry.v1.Entry/CountEntries", OPERATORS),
    row("/spire.api.server.entry.v1.Entry/ListEntries", OPERATORS),
    row("/spire.api.server.entry.v1.Entry/GetEntry", OPERATORS),
    row("/spire.api.server.entry.v1.Entry/BatchCreateEntry", OPERATORS),
    row("/spire.api.server.entry.v1.Entry/BatchUpdateEntry", OPERATORS),
    row("/spire.api.server.entry.v1.Entry/BatchDeleteEntry", OPERATORS),
    row("/spire.api.server.entry.v1.Entry/GetAuthorizedEntries", &[Agent]),
    row("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries", &[Agent]),
    row("/spire.api.server.svid.v1.SVID/MintX509SVID", OPERATORS),
    row("/spire.api.server.svid.v1.SVID/MintJWTSVID", OPERATORS),
    row("/spire.api.server.svid.v1.SVID/MintWITSVID", OPERATORS),
    row("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", &[Agent]),
    row("/spire.api.server.svid.v1.SVID/NewJWTSVID", &[Agent]),
    row("/spire.api.server.svid.v1.SVID/BatchNewWITSVID", &[Agent]),
    row("/spire.api.server.svid.v1.SVID/NewDownstreamX509CA", &[Downstream]),
    row("/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships", OPERATORS),
    row("/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship", OPERATORS),
    row(
        "/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship",
        OPERATORS,
    ),
    row(
        "/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship",
        OPERATORS,
    ),
    row(
        "/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship",
        OPERATORS,
    ),
    row("/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority", OPERATORS),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority",
        OPERATORS,
    ),
    row("/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority", OPERATORS),
    row("/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority", OPERATORS),
    socket("/spire.api.server.logger.v1.Logger/GetLogger"),
    socket("/spire.api.server.logger.v1.Logger/SetLogLevel"),
    socket("/spire.api.server.logger.v1.Logger/ResetLogLevel"),
    socket("/spire.api.server.debug.v1.Debug/GetInfo"),
    socket("/grpc.health.v1.Health/Check"),
    socket("/grpc.health.v1.Health/List"),
    socket("/grpc.health.v1.Health/Watch"),
    row("/steeple.cluster.v1.Cluster/Status", CLUSTER_READERS),
    row("/steeple.cluster.v1.Cluster/Members", CLUSTER_READERS),
    row("/steeple.cluster.v1.Cluster/TransferLeadership", CLUSTER_READERS),
    socket("/steeple.cluster.v1.Cluster/RemoveMember"),
    socket("/steeple.cluster.v1.Cluster/PromoteMember"),
    socket("/steeple.cluster.v1.Cluster/DemoteMember"),
    socket("/steeple.cluster.v1.Cluster/SaveSnapshot"),
    socket("/steeple.cluster.v1.Cluster/DecideAgents"),
    socket("/steeple.cluster.v1.Rebuild/RestoreSnapshot"),
    socket("/steeple.cluster.v1.Rebuild/Recover"),
    row("/steeple.cluster.v1.Cluster/UpgradeStatus", CLUSTER_READERS),
    socket("/steeple.cluster.v1.Cluster/FinalizeUpgrade"),
    row("/steeple.cluster.v1.Cluster/Rotation", CLUSTER_READERS),
    socket("/steeple.cluster.v1.Cluster/Rekey"),
    socket("/steeple.cluster.v1.Cluster/Check"),
    row("/steeple.agent.v1.Updates/Watch", &[Agent]),
    row("/steeple.agent.v1.Updates/Acknowledge", &[Agent]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    /// Packages whose services a server has.
    const SERVER_PACKAGES: &[&str] =
        &["spire.api.server.", "grpc.health.", "steeple.cluster.", "steeple.agent."];

    fn compiled_methods() -> Vec<String> {
        let descriptors = prost_types::FileDescriptorSet::decode(steeple_api::FILE_DESCRIPTOR_SET)
            .expect("our own descriptors decode");
        let mut methods = Vec::new();
        for file in &descriptors.file {
            let package = file.package();
            if !SERVER_PACKAGES.iter().any(|prefix| package.starts_with(prefix)) {
                continue;
            }
            for service in &file.service {
                for method in &service.method {
                    methods.push(format!("/{package}.{}/{}", service.name(), method.name()));
                }
            }
        }
        methods
    }

    #[test]
    fn every_method_of_every_compiled_service_has_a_row() {
        let methods = compiled_methods();
        assert!(methods.len() > 30, "descriptors lost their services: {methods:?}");
        for method in methods {
            assert!(rule(&method).is_some(), "{method} has no row in the policy");
        }
    }

    #[test]
    fn no_method_has_two_rows_and_every_row_lets_someone_in() {
        let mut seen = BTreeSet::new();
        for rule in RULES {
            assert!(seen.insert(rule.method), "{} has two rows", rule.method);
            assert!(!rule.grants.is_empty(), "{} lets no one in", rule.method);
        }
    }

    #[test]
    fn only_attestation_and_the_bundle_are_open_to_everyone() {
        let open: Vec<_> =
            RULES.iter().filter(|rule| rule.grants(Any)).map(|rule| rule.method).collect();
        assert_eq!(
            open,
            [
                "/spire.api.server.agent.v1.Agent/AttestAgent",
                "/spire.api.server.bundle.v1.Bundle/GetBundle",
            ]
        );
    }

    #[test]
    fn unknown_paths_get_the_texts_of_grpc_go() {
        let table = [
            (
                "/spire.api.server.agent.v1.Agent/Nope",
                "unknown method Nope for service spire.api.server.agent.v1.Agent",
            ),
            ("/no.such.Service/Method", "unknown service no.such.Service"),
            ("/grpc.health.v1.Health/Nope", "unknown service grpc.health.v1.Health"),
        ];
        for (method, text) in table {
            assert_eq!(unknown_method(method), text);
        }
    }
}

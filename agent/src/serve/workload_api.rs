//! The SPIFFE Workload API.
//!
//! Owns the order of checks (header, attestation, subscription), the codes and texts of `spire-api` 4
//! and the life of each stream. Streams look at the current view after each wake-up, so a slow
//! reader skips states instead of queueing them. Knows no server: a workload that matches nothing
//! only asks for an early sync.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, stream};
use steeple_api::pb;
use steeple_spiffe_core::svid::jwt::JwtSvid;
use steeple_spiffe_core::{Clock, SelectorSet, SpiffeId, TrustDomain};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tracing::{debug, error};

use super::answer;
use super::listen::Caller;
use super::tokens::Tokens;
use crate::attest::workload::{WorkloadAttestError, WorkloadAttestors};
use crate::store::{Store, Subscription, WorkloadView};
use crate::syncer::SyncHandle;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the operator decided about workloads.
#[derive(Clone, Debug, Default)]
pub struct WorkloadPolicy {
    /// Callers without an identity get the own trust domain's bundles.
    pub allow_unauthenticated_verifiers: bool,
    /// Claims of foreign tokens that are shown beside the universal ones.
    pub allowed_foreign_jwt_claims: Vec<String>,
    /// Prefixes of selectors that may stand in the log.
    pub log_selectors: Vec<String>,
}

/// The service.
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    /// What the agent knows.
    pub store: Arc<Store>,
    /// Who callers are.
    pub attestors: WorkloadAttestors,
    /// JWT-SVIDs.
    pub tokens: Arc<Tokens>,
    /// To ask for an early sync.
    pub sync: SyncHandle,
    /// The operator's settings.
    pub policy: Arc<WorkloadPolicy>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ends the streams.
    pub shutdown: CancellationToken,
}

/// A caller whose selectors are known.
struct Attested {
    pid: i32,
    selectors: SelectorSet,
    /// The agent's own health probe: no log lines, no syncs.
    is_self: bool,
}

/// The state of a stream.
struct Session {
    api: WorkloadApi,
    caller: Attested,
    subscription: Subscription,
    method: &'static str,
}

impl WorkloadApi {
    /// The checks that every call begins with.
    async fn enter<T>(&self, request: &Request<T>) -> Result<Attested, Status> {
        check_header(request)?;
        let peer = request.extensions().get::<Caller>();
        let Caller(peer) = peer.ok_or_else(attestation_failed)?;
        let selectors = match self.attestors.attest(peer).await {
            Ok(selectors) => selectors,
            Err(WorkloadAttestError::AllFailed | WorkloadAttestError::CallerGone) => {
                return Err(attestation_failed());
            }
        };
        let is_self = u32::try_from(peer.pid()).is_ok_and(|pid| pid == std::process::id());
        Ok(Attested { pid: peer.pid(), selectors, is_self })
    }

    /// Registers the caller. One that matches nothing waits for an early sync first: its entry may
    /// have been created a moment ago.
    async fn subscribe(&self, caller: &Attested) -> Subscription {
        let subscription = Subscription::new(&self.store, caller.selectors.clone());
        if subscription.view().is_empty() && !caller.is_self {
            self.sync.fresh().await;
        }
        subscription
    }

    async fn session<T>(
        &self,
        request: &Request<T>,
        method: &'static str,
    ) -> Result<Session, Status> {
        let caller = self.enter(request).await?;
        let subscription = self.subscribe(&caller).await;
        Ok(Session { api: self.clone(), caller, subscription, method })
    }

    fn no_identity(&self, caller: &Attested, method: &'static str) -> Status {
        if !caller.is_self {
            let shown: Vec<String> = caller
                .selectors
                .iter()
                .map(ToString::to_string)
                .filter(|selector| is_shown(selector, &self.policy.log_selectors))
                .collect();
            error!(
                method,
                pid = caller.pid,
                registered = false,
                selectors = (!shown.is_empty()).then(|| shown.join(",")),
                service = "WorkloadAPI",
                subsystem_name = "endpoints",
                "No identity issued",
            );
        }
        Status::permission_denied("no identity issued")
    }

    /// A stream of bundles: sent now and when they differ from what was sent last.
    async fn bundle_stream<T, M>(
        &self,
        request: Request<T>,
        method: &'static str,
        build: fn(&WorkloadView) -> M,
    ) -> Result<Response<Answers<M>>, Status>
    where
        M: Clone + PartialEq + Send + 'static,
    {
        let session = self.session(&request, method).await?;
        let first = build(&session.bundle_view()?);
        let start = (session, first.clone());
        let rest = stream::try_unfold(start, move |(mut session, last)| async move {
            loop {
                session.wait().await?;
                let next = build(&session.bundle_view()?);
                if next != last {
                    return Ok(Some((next.clone(), (session, next))));
                }
            }
        });
        Ok(Response::new(with_first(first, rest)))
    }
}

impl Session {
    /// Waits for a change, or ends with the agent.
    async fn wait(&mut self) -> Result<(), Status> {
        let shutdown = self.api.shutdown.clone();
        tokio::select! {
            () = self.subscription.changed() => Ok(()),
            () = shutdown.cancelled() => Err(stopping()),
        }
    }

    async fn next_x509(&mut self) -> Result<pb::workload::X509svidResponse, Status> {
        let shutdown = self.api.shutdown.clone();
        let view = tokio::select! {
            view = self.subscription.next_x509() => view,
            () = shutdown.cancelled() => return Err(stopping()),
        };
        if view.is_empty() {
            return Err(self.api.no_identity(&self.caller, self.method));
        }
        for identity in view.identities.iter().filter(|_| !self.caller.is_self) {
            debug!(
                method = self.method,
                pid = self.caller.pid,
                registered = true,
                service = "WorkloadAPI",
                spiffe_id = %identity.entry.spiffe_id,
                subsystem_name = "endpoints",
                "Fetched X.509 SVID",
            );
        }
        Ok(answer::x509_svids(&view))
    }

    fn bundle_view(&self) -> Result<WorkloadView, Status> {
        let view = self.subscription.view();
        if view.is_empty() && !self.api.policy.allow_unauthenticated_verifiers {
            return Err(self.api.no_identity(&self.caller, self.method));
        }
        Ok(view)
    }
}

#[tonic::async_trait]
impl pb::workload::spiffe_workload_api_server::SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<pb::workload::X509svidResponse>;
    type FetchX509BundlesStream = Answers<pb::workload::X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<pb::workload::JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<pb::workload::WitsvidResponse>;
    type FetchWITBundlesStream = Answers<pb::workload::WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<pb::workload::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let mut session = self.session(&request, "FetchX509SVID").await?;
        let first = session.next_x509().await?;
        let rest = stream::try_unfold(session, |mut session| async move {
            let answer = session.next_x509().await?;
            Ok(Some((answer, session)))
        });
        Ok(Response::new(with_first(first, rest)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<pb::workload::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.bundle_stream(request, "FetchX509Bundles", answer::x509_bundles).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<pb::workload::JwtsvidRequest>,
    ) -> Result<Response<pb::workload::JwtsvidResponse>, Status> {
        const METHOD: &str = "FetchJWTSVID";
        check_header(&request)?;
        let message = request.get_ref();
        if message.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        let wanted = wanted_id(&message.spiffe_id)?;
        let caller = self.enter(&request).await?;
        let view = self.subscribe(&caller).await.view();
        let identities = view.identities.iter().map(|identity| &identity.entry);
        let entries =
            identities.filter(|entry| wanted.as_ref().is_none_or(|id| entry.spiffe_id == *id));
        let mut svids = Vec::new();
        for entry in entries {
            let token = self.tokens.fetch(entry, &message.audience).await.map_err(|failure| {
                error!(method = METHOD, pid = caller.pid, error = %failure, "Could not fetch JWT-SVID");
                Status::unavailable(format!("could not fetch JWT-SVID: {failure}"))
            })?;
            debug!(
                method = METHOD,
                pid = caller.pid,
                registered = true,
                service = "WorkloadAPI",
                spiffe_id = %token.id,
                subsystem_name = "endpoints",
                "Fetched JWT SVID",
            );
            svids.push(pb::workload::Jwtsvid {
                spiffe_id: token.id.to_string(),
                svid: token.token.clone(),
                hint: entry.hint.clone(),
            });
        }
        if svids.is_empty() {
            return Err(self.no_identity(&caller, METHOD));
        }
        Ok(Response::new(pb::workload::JwtsvidResponse { svids }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<pb::workload::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.bundle_stream(request, "FetchJWTBundles", answer::jwt_bundles).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<pb::workload::ValidateJwtsvidRequest>,
    ) -> Result<Response<pb::workload::ValidateJwtsvidResponse>, Status> {
        check_header(&request)?;
        let message = request.get_ref();
        if message.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if message.svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        let caller = self.enter(&request).await?;
        let view = self.store.view(&caller.selectors);
        let own = &view.bundle.trust_domain;
        let bundle_of = |trust_domain: &TrustDomain| {
            if trust_domain == own {
                return Some(Arc::clone(&view.bundle));
            }
            view.federated.get(trust_domain).cloned()
        };
        let audience = std::slice::from_ref(&message.audience);
        let svid = JwtSvid::validate(&message.svid, audience, &bundle_of, self.clock.now())
            .map_err(|refusal| Status::invalid_argument(refusal.to_string()))?;
        let is_foreign = !svid.id.is_member_of(own);
        let claims = answer::claims(&svid, is_foreign, &self.policy.allowed_foreign_jwt_claims)
            .map_err(|failure| Status::internal(format!("unable to convert claims: {failure}")))?;
        Ok(Response::new(pb::workload::ValidateJwtsvidResponse {
            spiffe_id: svid.id.to_string(),
            claims: Some(claims),
        }))
    }

    async fn fetch_witsvid(
        &self,
        request: Request<pb::workload::WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        check_header(&request)?;
        Err(Status::unimplemented("method FetchWITSVID not implemented"))
    }

    async fn fetch_wit_bundles(
        &self,
        request: Request<pb::workload::WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        check_header(&request)?;
        Err(Status::unimplemented("method FetchWITBundles not implemented"))
    }
}

fn with_first<M: Send + 'static>(
    first: M,
    rest: impl Stream<Item = Result<M, Status>> + Send + 'static,
) -> Answers<M> {
    use futures::StreamExt as _;
    Box::pin(stream::iter([Ok(first)]).chain(rest))
}

/// A browser can't set this header, so that a page can't speak for its visitor's machine.
fn check_header<T>(request: &Request<T>) -> Result<(), Status> {
    let mut values = request.metadata().get_all("workload.spiffe.io").iter();
    let is_set = values.next().is_some_and(|value| value.as_bytes() == b"true");
    if is_set && values.next().is_none() {
        return Ok(());
    }
    Err(Status::invalid_argument("security header missing from request"))
}

fn wanted_id(text: &str) -> Result<Option<SpiffeId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = |error| Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}"));
    SpiffeId::parse(text).map(Some).map_err(invalid)
}

fn attestation_failed() -> Status {
    Status::unavailable("workload attestation failed")
}

fn stopping() -> Status {
    Status::new(Code::Unavailable, "agent is shutting down")
}

/// A prefix shows the selector it equals, and those it is followed by a colon in.
fn is_shown(selector: &str, prefixes: &[String]) -> bool {
    prefixes.iter().any(|prefix| {
        let rest = selector.strip_prefix(prefix.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_security_header_must_be_there_once_and_say_true() {
        let cases: [(&[&str], bool); 6] = [
            (&["true"], true),
            (&[], false),
            (&["True"], false),
            (&["false"], false),
            (&["true", "true"], false),
            (&[""], false),
        ];
        for (values, want) in cases {
            let mut request = Request::new(());
            for value in values {
                let value = value.parse().expect("metadata value");
                request.metadata_mut().append("workload.spiffe.io", value);
            }
            let checked = check_header(&request);
            assert_eq!(checked.is_ok(), want, "{values:?}");
            if let Err(status) = checked {
                assert_eq!(status.code(), Code::InvalidArgument);
                assert_eq!(status.message(), "security header missing from request");
            }
        }
    }

    #[test]
    fn only_selectors_below_a_configured_prefix_are_shown() {
        let prefixes = ["k8s:ns".to_owned(), "unix:uid:7".to_owned()];
        for (selector, want) in [
            ("k8s:ns:prod", true),
            ("k8s:ns", true),
            ("k8s:nsx:prod", false),
            ("unix:uid:7", true),
            ("unix:uid:77", false),
            ("unix:gid:7", false),
        ] {
            assert_eq!(is_shown(selector, &prefixes), want, "{selector}");
        }
    }
}

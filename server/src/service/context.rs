//! What every service works with, and the two reads that all of them share.

use std::sync::Arc;

use steeple_raft_store::{Applied, Command, ProposeError, Revision};
use steeple_spiffe_core::{Timestamp, TrustDomain};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attest::Attestors;
use crate::authority::evidence::Survey;
use crate::authority::{Issuer, Minter};
use crate::endpoint_certificate::EndpointCertificate;
use crate::gate::ratelimit::RateLimits;
use crate::gate::{Call, Gate};
use crate::refresher::Refresher;
use crate::snapshots::Schedule;
use crate::status::Failure;
use crate::view::Views;

/// What services work with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    /// Views, store, clocks: what callers are let in by serves their calls too.
    pub gate: Gate,
    /// Signs.
    pub issuer: Issuer,
    /// Makes authorities, for operators who ask for them.
    pub minter: Minter,
    /// Finds out who knows a prepared authority.
    pub survey: Survey,
    /// Verifies nodes.
    pub attestors: Arc<Attestors>,
    /// Holds back.
    pub limits: Arc<RateLimits>,
    /// What the operator decided about calls.
    pub settings: Settings,
    /// Snapshots by schedule, if there is one.
    pub schedule: Option<Schedule>,
    /// The bundle endpoint's certificate, if it is ordered by ACME.
    pub endpoint_certificate: Option<EndpointCertificate>,
    /// Fetches bundles of foreign trust domains.
    pub refresher: Refresher,
    /// Cancelled when the process stops: streams that would go on end then.
    pub stop: CancellationToken,
}

/// Settings that change what calls do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether an agent's own id becomes one of its selectors.
    pub agent_spiffe_id_as_selector: bool,
    /// Whether all JWT-SVID calls are refused.
    pub disable_jwt_svids: bool,
}

impl Context {
    /// The views.
    pub fn views(&self) -> &Views {
        &self.gate.views
    }

    /// The server's trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.gate.trust_domain
    }

    /// The time by the members' clocks: what is told of authorities is not to hang on this one's.
    pub fn common_time(&self) -> Timestamp {
        let clock = self.gate.clock.as_ref();
        by_the_median(clock.now(), self.gate.store.cluster_clock().ahead_ms(clock))
    }

    /// Confirms a read for a call: afterwards the views hold everything acknowledged before it, and
    /// the revocation of the caller's authority is seen if it was.
    ///
    /// # Errors
    ///
    /// `Unavailable`; `PermissionDenied` where that authority is revoked.
    pub async fn confirm(&self, call: &Call) -> Result<Revision, Failure> {
        let revision = self.gate.reads.confirm(call.deadline()).await?;
        self.gate.certificate_stands(call)?;
        call.notes.reflects(revision);
        Ok(revision)
    }

    /// Proposes a command of a call. `part` tells the commands of one call apart.
    ///
    /// # Errors
    ///
    /// No decision is known; a replicated refusal is inside [`Applied`].
    pub async fn propose(
        &self,
        call: &Call,
        part: u32,
        command: Command,
    ) -> Result<Applied, ProposeError> {
        let id = call.request_id(part, self.gate.random.as_ref());
        measured(call, self.gate.store.propose(command, id, call.deadline())).await
    }

    /// Proposes the one command of a call, told from others by what the client said: see
    /// [`StoreHandle::propose_said`](steeple_raft_store::StoreHandle::propose_said).
    ///
    /// # Errors
    ///
    /// As [`Self::propose`].
    pub async fn propose_said(
        &self,
        call: &Call,
        said: &[u8],
        command: Command,
    ) -> Result<Applied, ProposeError> {
        let id = call.request_id(0, self.gate.random.as_ref());
        measured(call, self.gate.store.propose_said(command, id, said, call.deadline())).await
    }
}

/// The time of a clock that is so far ahead of the median of a quorum's; `None`: they were never
/// compared.
pub(super) fn by_the_median(now: Timestamp, ahead_ms: Option<i64>) -> Timestamp {
    Timestamp::from_unix_ms(now.unix_ms().saturating_sub(ahead_ms.unwrap_or(0)))
}

async fn measured(
    call: &Call,
    proposing: impl Future<Output = Result<Applied, ProposeError>>,
) -> Result<Applied, ProposeError> {
    let started = Instant::now();
    let outcome = proposing.await;
    metrics::histogram!("spire_server_cluster_propose_elapsed_time")
        .record(started.elapsed().as_secs_f64() * 1000.0);
    let label = match &outcome {
        Ok(Applied { outcome: Ok(_), .. }) => "applied",
        Ok(Applied { outcome: Err(_), .. }) => "rejected",
        Err(ProposeError::Indeterminate { .. }) => "indeterminate",
        Err(ProposeError::Unavailable(_) | ProposeError::NotLeader) => "unavailable",
        Err(ProposeError::TooLarge { .. } | ProposeError::Overloaded) => "refused",
    };
    metrics::counter!("spire_server_cluster_propose", "outcome" => label).increment(1);
    let applied = outcome?;
    call.notes.decided(applied.revision);
    Ok(applied)
}

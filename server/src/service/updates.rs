//! `steeple.agent.v1.Updates`: the push stream that tells our agent of changes as they happen, and the
//! call by which it says that it has applied a bundle.
//!
//! Owns when a step is told. Steps are made from the views, which follow the log at once, and are
//! gathered for a moment so that a burst of commands is one step. The stream ends when the agent loses its standing, by a confirmed read.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use steeple_api::pb::agent_ext::v1 as rpc;
use steeple_raft_store::Revision;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::context::Context;
use crate::gate::Call;
use crate::status::Failure;
use crate::told::Told;

/// Changes are gathered for so long before a step is made: short against the second that an entry
/// may take to reach a workload, long against the milliseconds between commands of a burst.
const GATHER: Duration = Duration::from_millis(100);

/// An agent that nothing concerns hears the revision at least this often, so that it can resume
/// from a recent one and both sides notice a dead connection.
const QUIET_MAX: Duration = Duration::from_secs(30);

type Steps = Pin<Box<dyn Stream<Item = Result<rpc::WatchResponse, Status>> + Send>>;

/// The service.
#[derive(Clone, Debug)]
pub struct UpdatesService {
    context: Context,
}

impl UpdatesService {
    /// The service over a context.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl rpc::updates_server::Updates for UpdatesService {
    type WatchStream = Steps;

    async fn watch(
        &self,
        request: Request<rpc::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let call = Call::of(&request)?;
        let resume = Revision::from_u64(request.into_inner().resume_revision);
        let agent = call.agent()?.id.clone();
        let signal = self.context.views().subscribe_revision();
        let told = Told::new(self.context.trust_domain().clone(), agent);
        let watch =
            Watch { context: self.context.clone(), call, signal, told, resume: Some(resume) };
        let stop = self.context.stop.clone();
        let steps = futures::stream::try_unfold((watch, stop), |(mut watch, stop)| async move {
            // A stream has no end of its own: it must not hold up the drain.
            let Some(step) = stop.run_until_cancelled(watch.next()).await else {
                return Err(Failure::unavailable("this replica is stopping", Duration::ZERO).into());
            };
            Ok::<_, Status>(Some((step?, (watch, stop))))
        });
        Ok(Response::new(Box::pin(steps)))
    }

    async fn acknowledge(
        &self,
        request: Request<rpc::AcknowledgeRequest>,
    ) -> Result<Response<rpc::AcknowledgeResponse>, Status> {
        let call = Call::of(&request)?;
        self.context.survey.applied(&call.agent()?.id, request.into_inner().receipt);
        Ok(Response::new(rpc::AcknowledgeResponse {}))
    }
}

/// One agent's stream.
struct Watch {
    context: Context,
    call: Call,
    signal: watch::Receiver<Revision>,
    told: Told,
    /// Where the agent left off; taken by the first step.
    resume: Option<Revision>,
}

impl Watch {
    async fn next(&mut self) -> Result<rpc::WatchResponse, Failure> {
        if let Some(resume) = self.resume.take() {
            let revision = *self.signal.borrow_and_update();
            let (step, _) = self.told.step(self.context.views(), revision);
            // Asked after the step was made: what it holds is then what the agent has.
            if self.context.views().is_unchanged_for(&self.told.agent, resume) {
                return Ok(rpc::WatchResponse {
                    revision: revision.as_u64(),
                    ..Default::default()
                });
            }
            return Ok(rpc::WatchResponse { resync: true, ..step });
        }
        let quiet_until = tokio::time::Instant::now() + QUIET_MAX;
        loop {
            let moved = tokio::time::timeout_at(quiet_until, self.signal.changed()).await;
            if moved.is_ok() {
                tokio::time::sleep(GATHER).await;
            }
            self.check_standing().await?;
            let revision = *self.signal.borrow_and_update();
            let (step, news) = self.told.step(self.context.views(), revision);
            if news || moved.is_err() {
                return Ok(step);
            }
        }
    }

    /// Ends the stream of an agent that is banned, deleted or superseded: on a confirmed read.
    async fn check_standing(&self) -> Result<(), Failure> {
        if self.context.gate.agent_stands(&self.call).is_ok() {
            return Ok(());
        }
        self.context.gate.reads.confirm(self.call.deadline()).await?;
        self.context.gate.agent_stands(&self.call)
    }
}

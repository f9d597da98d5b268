//! The push stream: a server tells when something changed for this agent. And what this agent tells in
//! return: that it serves the bundle that it was given.
//!
//! Our own extension (`cluster` 6). What changed is not taken from the stream: it only wakes a sync,
//! so there is one way state enters the store. A stock server answers `Unimplemented`; the agent then
//! polls, as it does anyway.

use steeple_api::pb;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::conn::{CallError, Upstream};
use crate::limits::SERVER_MESSAGE_BYTES_MAX;

/// Tells a server that what it answered under this receipt is what workloads get. A server that was not
/// the one that answered takes no notice.
pub async fn acknowledge(channel: Channel, receipt: u64) -> Result<(), Status> {
    let mut client = pb::agent_ext::v1::updates_client::UpdatesClient::new(channel);
    client.acknowledge(pb::agent_ext::v1::AcknowledgeRequest { receipt }).await?;
    Ok(())
}

/// An open stream.
#[derive(Debug)]
pub struct Watch {
    responses: Streaming<pb::agent_ext::v1::WatchResponse>,
    reopen: watch::Receiver<u64>,
}

impl Watch {
    /// Opens a stream that tells of changes after `revision` (0 = the server sends everything once).
    pub async fn open(upstream: &Upstream, revision: u64) -> Result<Self, CallError> {
        let reopen = upstream.reopen_streams();
        let open = |channel| async move {
            let mut client = pb::agent_ext::v1::updates_client::UpdatesClient::new(channel)
                .max_decoding_message_size(SERVER_MESSAGE_BYTES_MAX);
            let request = pb::agent_ext::v1::WatchRequest { resume_revision: revision };
            Ok(client.watch(request).await?.into_inner())
        };
        let responses = upstream.call(open).await?;
        Ok(Self { responses, reopen })
    }

    /// Waits for the next change and returns the revision it reflects; `None` when the stream is over
    /// because the server ended it, failed a call or the agent's certificate was replaced.
    pub async fn changed(&mut self) -> Result<Option<u64>, Status> {
        tokio::select! {
            message = self.responses.message() => Ok(message?.map(|step| step.revision)),
            _ = self.reopen.changed() => Ok(None),
        }
    }
}

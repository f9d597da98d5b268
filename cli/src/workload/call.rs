//! What calls to the Workload API have in common: the socket, the deadline.
//!
//! Owns `-socketPath`, `-instance` and `-timeout`; the security header is added by `conn`.

use steeple_api::pb::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::transport::Channel;

use crate::conn::{AgentSocket, REPLY_BYTES_MAX};
use crate::error::{Error, RpcError};
use crate::flags::{FlagSet, GoDuration};
use crate::io::Io;

/// The flags of a call.
#[derive(Debug)]
pub(crate) struct Call {
    socket: AgentSocket,
    timeout: GoDuration,
}

impl Default for Call {
    fn default() -> Self {
        Self { socket: AgentSocket::default(), timeout: GoDuration::from_secs(5) }
    }
}

impl Call {
    /// Declares the flags.
    pub(crate) fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        flags.flag("timeout", &mut self.timeout, "Time to wait for a response");
    }

    /// A client.
    pub(crate) async fn client(
        &self,
        io: &Io<'_>,
    ) -> Result<SpiffeWorkloadApiClient<Channel>, Error> {
        client(&self.socket, io).await
    }

    /// Runs a call within the deadline; no deadline where the flag is zero or less.
    pub(crate) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T, Error> {
        if self.timeout.nanoseconds() <= 0 {
            return Ok(call.await?);
        }
        match tokio::time::timeout(self.timeout.to_std(), call).await {
            Ok(answer) => Ok(answer?),
            Err(_elapsed) => Err(RpcError::deadline().into()),
        }
    }
}

/// A client on the socket.
pub(crate) async fn client(
    socket: &AgentSocket,
    io: &Io<'_>,
) -> Result<SpiffeWorkloadApiClient<Channel>, Error> {
    let channel = socket.connect(io).await?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX))
}

/// The first message of a stream. A stream that ends before is an error, as it is in gRPC-Go.
pub(crate) async fn first<T>(
    stream: Result<tonic::Response<tonic::Streaming<T>>, tonic::Status>,
) -> Result<T, tonic::Status> {
    let message = stream?.into_inner().message().await?;
    message
        .ok_or_else(|| tonic::Status::unavailable("the agent ended the stream without an answer"))
}

//! What every `federation` command begins with: where the server is, and which trust domain is meant.

use steeple_api::pb::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use tonic::transport::Channel;

use crate::conn::{REPLY_BYTES_MAX, ServerSocket};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// The flags of every command.
#[derive(Debug, Default)]
pub(super) struct Server {
    socket: ServerSocket,
    pub(super) output: OutputFlag,
}

impl Server {
    pub(super) fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
    }

    /// A client; if the server is not there, the error says what was being done.
    pub(super) async fn client(
        &self,
        io: &mut Io<'_>,
        doing: &str,
    ) -> Result<TrustDomainClient<Channel>, Error> {
        let channel = self.channel(io, doing).await?;
        Ok(TrustDomainClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX))
    }

    /// The way to the server.
    pub(super) async fn channel(&self, io: &mut Io<'_>, doing: &str) -> Result<Channel, Error> {
        self.socket.connect_for(io, doing).await
    }
}

/// The flags of a command about one relationship.
#[derive(Debug, Default)]
pub(super) struct OfOne {
    pub(super) server: Server,
    id: String,
}

impl OfOne {
    pub(super) fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.server.declare(flags);
        flags.flag("id", &mut self.id, "The trust domain, by name or SPIFFE ID");
    }

    /// The trust domain, as it was given.
    pub(super) fn id(&self) -> Result<&str, Error> {
        if self.id.is_empty() {
            return Err(Error::invalid("id is required"));
        }
        Ok(&self.id)
    }
}

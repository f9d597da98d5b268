//! `federation list`.

use steeple_api::pb::server::trustdomain::v1::ListFederationRelationshipsRequest;
use steeple_api::pb::server::trustdomain::v1::trust_domain_client::TrustDomainClient;

use super::block::write_relationship;
use crate::command::{Command, Running};
use crate::conn::{REPLY_BYTES_MAX, ServerSocket};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Lists all relationships.
#[derive(Debug, Default)]
pub(crate) struct List {
    socket: ServerSocket,
    output: OutputFlag,
}

impl Command for List {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let doing = "error listing federation relationship";
            let channel = self.socket.connect(io).await;
            let channel = channel.map_err(|error| error.during_call(doing))?;
            let mut client =
                TrustDomainClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
            let request = ListFederationRelationshipsRequest::default();
            let reply = client.list_federation_relationships(request).await;
            let response = reply.map_err(|status| Error::from(status).during(doing))?.into_inner();
            let name = "spire.api.server.trustdomain.v1.ListFederationRelationshipsResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let count = response.federation_relationships.len();
            let plural = if count == 1 { "" } else { "s" };
            writeln!(io.stdout, "Found {count} federation relationship{plural}")?;
            for relationship in &response.federation_relationships {
                writeln!(io.stdout)?;
                write_relationship(io.stdout, relationship)?;
            }
            Ok(())
        })
    }
}

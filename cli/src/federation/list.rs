//! `federation list`.

use steeple_api::pb::server::trustdomain::v1::ListFederationRelationshipsRequest;

use super::block::write_relationship;
use super::client::Server;
use crate::command::{Command, Running};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;

/// Lists all relationships.
#[derive(Debug, Default)]
pub(crate) struct List {
    server: Server,
}

impl Command for List {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.server.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let doing = "error listing federation relationship";
            let mut client = self.server.client(io, doing).await?;
            let request = ListFederationRelationshipsRequest::default();
            let reply = client.list_federation_relationships(request).await;
            let response = reply.map_err(|status| Error::from(status).during(doing))?.into_inner();
            let name = "spire.api.server.trustdomain.v1.ListFederationRelationshipsResponse";
            if self.server.output.print_json(io, name, &response)? {
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

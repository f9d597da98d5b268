//! `federation show`.

use steeple_api::pb::server::trustdomain::v1::GetFederationRelationshipRequest;

use super::block::write_relationship;
use super::client::Server;
use crate::command::{Command, Running};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;

/// Shows one relationship.
#[derive(Debug, Default)]
pub(crate) struct Show {
    server: Server,
    trust_domain: String,
}

impl Command for Show {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.server.declare(flags);
        flags.flag(
            "trustDomain",
            &mut self.trust_domain,
            "The trust domain whose relationship to show",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.trust_domain.is_empty() {
                return Err(Error::invalid("a trust domain name is required"));
            }
            let doing = "error showing federation relationship";
            let mut client = self.server.client(io, doing).await?;
            let request = GetFederationRelationshipRequest {
                trust_domain: self.trust_domain.clone(),
                output_mask: None,
            };
            let reply = client.get_federation_relationship(request).await;
            let relationship =
                reply.map_err(|status| Error::from(status).during(doing))?.into_inner();
            if self.server.output.print_json(
                io,
                "spire.api.types.FederationRelationship",
                &relationship,
            )? {
                return Ok(());
            }
            let found = "Found a federation relationship with trust domain";
            write!(io.stdout, "{found} {}:\n\n", self.trust_domain)?;
            write_relationship(io.stdout, &relationship)
        })
    }
}

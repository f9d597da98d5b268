//! `federation delete`.
//!
//! Ends a relationship; the other trust domain's bundle stays (`bundle delete` forgets it).

use steeple_api::pb::server::trustdomain::v1::BatchDeleteFederationRelationshipRequest;

use super::client::OfOne;
use crate::batch::the_one;
use crate::command::{Command, Running};
use crate::conn::write_request;
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;

/// Ends one relationship.
#[derive(Debug, Default)]
pub(crate) struct Delete {
    of: OfOne,
}

impl Command for Delete {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.of.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let id = self.of.id()?;
            let doing = "failed to delete federation relationship";
            let mut client = self.of.server.client(io, doing).await?;
            let request =
                BatchDeleteFederationRelationshipRequest { trust_domains: vec![id.to_owned()] };
            let reply = client.batch_delete_federation_relationship(write_request(request)?).await;
            let response = reply.map_err(|status| Error::from(status).during(doing))?.into_inner();
            let name = "spire.api.server.trustdomain.v1.BatchDeleteFederationRelationshipResponse";
            if self.of.server.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let results = response.results.iter();
            let results = results.map(|result| (&result.status, result.trust_domain.as_str()));
            the_one(doing, results)?;
            writeln!(io.stdout, "federation relationship deleted.")?;
            Ok(())
        })
    }
}

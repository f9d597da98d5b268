//! `federation delete`.
//!
//! Ends a relationship; the other trust domain's bundle stays (`bundle delete` forgets it).

use steeple_api::pb::server::trustdomain::v1::BatchDeleteFederationRelationshipRequest;
use steeple_api::pb::server::trustdomain::v1::trust_domain_client::TrustDomainClient;

use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{OutputFlag, go_quote};

/// Ends one relationship.
#[derive(Debug, Default)]
pub(crate) struct Delete {
    socket: ServerSocket,
    output: OutputFlag,
    id: String,
}

impl Command for Delete {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("id", &mut self.id, "The trust domain, by name or SPIFFE ID");
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.id.is_empty() {
                return Err(Error::invalid("id is required"));
            }
            let doing = "failed to delete federation relationship";
            let channel = self.socket.connect(io).await;
            let channel = channel.map_err(|error| error.during_call(doing))?;
            let request =
                BatchDeleteFederationRelationshipRequest { trust_domains: vec![self.id.clone()] };
            let reply = TrustDomainClient::new(channel)
                .batch_delete_federation_relationship(write_request(request)?)
                .await;
            let response = reply.map_err(|status| Error::from(status).during(doing))?.into_inner();
            let name = "spire.api.server.trustdomain.v1.BatchDeleteFederationRelationshipResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let Some(result) = response.results.first() else {
                return Err(Error::invalid("the server's answer has no result"));
            };
            let status = result.status.clone().unwrap_or_default();
            if status.code != 0 {
                let trust_domain = go_quote(&result.trust_domain);
                return Err(Error::Batch(format!("{doing} {trust_domain}: {}", status.message)));
            }
            writeln!(io.stdout, "federation relationship deleted.")?;
            Ok(())
        })
    }
}

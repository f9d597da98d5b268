//! `federation show`: as SPIRE's tool shows it; with `-status` how the fetching of the bundle goes,
//! which is known of relationships of the server's file too.

use steeple_api::pb::cluster::v1::StatusRequest;
use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_api::pb::server::trustdomain::v1::GetFederationRelationshipRequest;

use super::block::{write_federated_bundle, write_relationship};
use super::client::Server;
use crate::command::{Command, Running};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::go_quote;

const DOING: &str = "error showing federation relationship";

/// Shows one relationship.
#[derive(Debug, Default)]
pub(crate) struct Show {
    server: Server,
    trust_domain: String,
    status: bool,
}

impl Command for Show {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.server.declare(flags);
        flags.flag(
            "trustDomain",
            &mut self.trust_domain,
            "The trust domain whose relationship to show",
        );
        flags.flag(
            "status",
            &mut self.status,
            "Show how the fetching of its bundle goes, also for a relationship of the server's file",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.trust_domain.is_empty() {
                return Err(Error::invalid("a trust domain name is required"));
            }
            if self.status {
                return self.show_status(io).await;
            }
            let mut client = self.server.client(io, DOING).await?;
            let request = GetFederationRelationshipRequest {
                trust_domain: self.trust_domain.clone(),
                output_mask: None,
            };
            let reply = client.get_federation_relationship(request).await;
            let relationship =
                reply.map_err(|status| Error::from(status).during(DOING))?.into_inner();
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

impl Show {
    async fn show_status(&self, io: &mut Io<'_>) -> Result<(), Error> {
        let mut client = ClusterClient::new(self.server.channel(io, DOING).await?);
        let reply = client.status(StatusRequest {}).await;
        let reply = reply.map_err(|status| Error::from(status).during(DOING))?.into_inner();
        let name = self.trust_domain.as_str();
        let name = name.strip_prefix("spiffe://").unwrap_or(name);
        let found = reply.federated_bundles.into_iter().find(|one| one.trust_domain == name);
        let found = found.ok_or_else(|| {
            let none = "there is no federation relationship with trust domain";
            Error::invalid(format!("{none} {}", go_quote(name)))
        })?;
        if !self.server.output.print_json(io, "steeple.cluster.v1.FederatedBundle", &found)? {
            write_federated_bundle(io.stdout, &found)?;
        }
        Ok(())
    }
}

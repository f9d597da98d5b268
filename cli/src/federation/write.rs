//! `federation create` and `federation update`.
//!
//! Owns the account of what was written and what was not, in SPIRE's words; an update replaces all
//! that a relationship has, since it is sent without a mask.

use steeple_api::pb;
use steeple_api::pb::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use steeple_api::pb::server::trustdomain::v1::{
    BatchCreateFederationRelationshipRequest, BatchUpdateFederationRelationshipRequest,
};

use super::block::write_relationship;
use super::client::Server;
use super::relationship::Given;
use crate::batch::{succeeded, told};
use crate::command::{Command, Running};
use crate::conn::write_request;
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;

/// Creates relationships from flags or from a file.
#[derive(Debug, Default)]
pub(crate) struct Create {
    write: Write,
}

/// Updates relationships from flags or from a file.
#[derive(Debug, Default)]
pub(crate) struct Update {
    write: Write,
}

/// What both have.
#[derive(Debug, Default)]
struct Write {
    server: Server,
    given: Given,
}

/// What became of one relationship.
type Outcome = (Option<pb::types::Status>, Option<pb::types::FederationRelationship>);

impl Command for Create {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.write.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let (requested, mut client) = self.write.begin(io).await?;
            let request = BatchCreateFederationRelationshipRequest {
                federation_relationships: requested.clone(),
                output_mask: None,
            };
            let reply = client.batch_create_federation_relationship(write_request(request)?).await;
            let response = reply.map_err(failed)?.into_inner();
            let name = "spire.api.server.trustdomain.v1.BatchCreateFederationRelationshipResponse";
            if self.write.server.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let results = response.results.into_iter();
            let results = results.map(|result| (result.status, result.federation_relationship));
            tell("create", results, requested, io)
        })
    }
}

impl Command for Update {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.write.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let (requested, mut client) = self.write.begin(io).await?;
            let request = BatchUpdateFederationRelationshipRequest {
                federation_relationships: requested.clone(),
                input_mask: None,
                output_mask: None,
            };
            let reply = client.batch_update_federation_relationship(write_request(request)?).await;
            let response = reply.map_err(failed)?.into_inner();
            let name = "spire.api.server.trustdomain.v1.BatchUpdateFederationRelationshipResponse";
            if self.write.server.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let results = response.results.into_iter();
            let results = results.map(|result| (result.status, result.federation_relationship));
            tell("update", results, requested, io)
        })
    }
}

impl Write {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.server.declare(flags);
        self.given.declare(flags);
    }

    async fn begin(
        &self,
        io: &mut Io<'_>,
    ) -> Result<
        (Vec<pb::types::FederationRelationship>, TrustDomainClient<tonic::transport::Channel>),
        Error,
    > {
        let requested = self.given.relationships(io)?;
        Ok((requested, self.server.client(io, FAILED).await?))
    }
}

const FAILED: &str = "request failed";

fn failed(status: tonic::Status) -> Error {
    Error::from(status).during(FAILED)
}

/// Prints the relationships that are done, then those that failed, which fail the command; `verb` is
/// what was to be done with them. The server leaves a relationship out of a failed result: people are
/// shown the one they asked for.
fn tell(
    verb: &str,
    results: impl Iterator<Item = Outcome>,
    requested: Vec<pb::types::FederationRelationship>,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    let mut refused = Vec::new();
    for ((status, written), asked) in results.zip(requested) {
        if succeeded(status.as_ref()) {
            writeln!(io.stdout)?;
            write_relationship(io.stdout, &written.unwrap_or_default())?;
        } else {
            refused.push((status, asked));
        }
    }
    for (status, asked) in &refused {
        let why = told(status.as_ref());
        writeln!(io.stdout)?;
        writeln!(io.stderr, "Failed to {verb} the following federation relationship {why}:")?;
        write_relationship(io.stderr, asked)?;
    }
    if refused.is_empty() {
        return Ok(());
    }
    Err(Error::Batch(format!("failed to {verb} one or more federation relationships")))
}

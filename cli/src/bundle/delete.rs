//! `bundle delete`: forgets the bundle of another trust domain.
//!
//! Owns the modes. What becomes of entries that federate with the trust domain is the server's
//! affair.

use steeple_api::pb::server::bundle::v1::bundle_client::BundleClient;
use steeple_api::pb::server::bundle::v1::{
    BatchDeleteFederatedBundleRequest, batch_delete_federated_bundle_request::Mode,
};

use crate::batch::the_one;
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{OutputFlag, go_quote};

/// Deletes a federated bundle.
#[derive(Debug)]
pub(crate) struct Delete {
    socket: ServerSocket,
    output: OutputFlag,
    id: String,
    mode: String,
}

impl Default for Delete {
    fn default() -> Self {
        Self {
            socket: ServerSocket::default(),
            output: OutputFlag::default(),
            id: String::new(),
            mode: "restrict".to_owned(),
        }
    }
}

impl Command for Delete {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("id", &mut self.id, "The trust domain, by name or SPIFFE ID");
        flags.flag(
            "mode",
            &mut self.mode,
            "What happens to entries that federate with it: one of restrict, delete, or dissociate",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.id.is_empty() {
                return Err(Error::invalid("id is required"));
            }
            let mode = parse_mode(&self.mode)?;
            let doing = "failed to delete federated bundle";
            let mut client = BundleClient::new(self.socket.connect_for(io, doing).await?);
            let request = BatchDeleteFederatedBundleRequest {
                trust_domains: vec![self.id.clone()],
                mode: mode.into(),
            };
            let reply = client.batch_delete_federated_bundle(write_request(request)?).await;
            let response = reply.map_err(|status| Error::from(status).during(doing))?.into_inner();
            let name = "spire.api.server.bundle.v1.BatchDeleteFederatedBundleResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let results = response.results.iter();
            let results = results.map(|result| (&result.status, result.trust_domain.as_str()));
            the_one(doing, results)?;
            writeln!(io.stdout, "bundle deleted.")?;
            Ok(())
        })
    }
}

fn parse_mode(text: &str) -> Result<Mode, Error> {
    match text {
        "" | "restrict" => Ok(Mode::Restrict),
        "delete" => Ok(Mode::Delete),
        "dissociate" => Ok(Mode::Dissociate),
        _ => Err(Error::invalid(format!("unsupported mode {}", go_quote(text)))),
    }
}

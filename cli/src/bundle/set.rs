//! `bundle set`: creates or replaces the bundle of another trust domain.
//!
//! Owns where the bundle comes from, a file or standard input; the formats are `format`'s.

use steeple_api::pb;
use steeple_api::pb::server::bundle::v1::BatchSetFederatedBundleRequest;
use steeple_api::pb::server::bundle::v1::bundle_client::BundleClient;
use steeple_spiffe_core::TrustDomain;

use super::format::BundleFormat;
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::files::read_text;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Sets a federated bundle.
#[derive(Debug)]
pub(crate) struct Set {
    socket: ServerSocket,
    output: OutputFlag,
    id: String,
    path: String,
    format: String,
}

impl Default for Set {
    fn default() -> Self {
        Self {
            socket: ServerSocket::default(),
            output: OutputFlag::default(),
            id: String::new(),
            path: String::new(),
            format: "pem".to_owned(),
        }
    }
}

impl Set {
    /// `experimental bundle set` of old releases, which knew SPIFFE's format alone.
    pub(crate) fn old() -> Self {
        Self { format: "spiffe".to_owned(), ..Self::default() }
    }

    fn bundle(&self, io: &mut Io<'_>) -> Result<pb::types::Bundle, Error> {
        if self.id.is_empty() {
            return Err(Error::invalid("id flag is required"));
        }
        let format = BundleFormat::parse(&self.format)?;
        let path = if self.path.is_empty() { "-" } else { &self.path };
        let text =
            read_text(path, io).map_err(|error| error.during("unable to load bundle data"))?;
        let trust_domain = TrustDomain::parse_name_or_id(&self.id)
            .map_err(|error| Error::invalid(error.to_string()))?;
        format.read(&text, trust_domain)
    }
}

impl Command for Set {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("id", &mut self.id, "The trust domain, by name or SPIFFE ID");
        flags.flag("path", &mut self.path, "Path to the bundle data; stdin when empty");
        flags.flag(
            "format",
            &mut self.format,
            "The format of the bundle data. Either \"pem\" or \"spiffe\".",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let bundle = vec![self.bundle(io)?];
            let doing = "failed to set federated bundle";
            let mut client = BundleClient::new(self.socket.connect_for(io, doing).await?);
            let request = BatchSetFederatedBundleRequest { bundle, output_mask: None };
            let reply = client.batch_set_federated_bundle(write_request(request)?).await;
            let response = reply
                .map_err(|status| Error::from(status).during("failed to set federated bundle"))?
                .into_inner();
            let name = "spire.api.server.bundle.v1.BatchSetFederatedBundleResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let status = response.results.first().and_then(|result| result.status.as_ref());
            match status {
                Some(status) if status.code == 0 => writeln!(io.stdout, "bundle set.")?,
                Some(status) => {
                    let text = format!("failed to set federated bundle: {}", status.message);
                    return Err(Error::Batch(text));
                }
                None => return Err(Error::invalid("the server's answer has no result")),
            }
            Ok(())
        })
    }
}

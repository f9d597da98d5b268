//! `bundle list`: bundles of other trust domains, never the own one.
//!
//! Owns the headers between bundles; each bundle's text is `format`'s.

use steeple_api::pb;
use steeple_api::pb::server::bundle::v1::bundle_client::BundleClient;
use steeple_api::pb::server::bundle::v1::{GetFederatedBundleRequest, ListFederatedBundlesRequest};

use super::format::{BundleFormat, write_bundle};
use crate::command::{Command, Running};
use crate::conn::{REPLY_BYTES_MAX, ServerSocket};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

const RULE: &str = "****************************************";

/// Lists federated bundles.
#[derive(Debug)]
pub(crate) struct List {
    socket: ServerSocket,
    output: OutputFlag,
    id: String,
    format: String,
    /// What stands before a trust domain's name in a header.
    scheme: &'static str,
}

impl Default for List {
    fn default() -> Self {
        Self {
            socket: ServerSocket::default(),
            output: OutputFlag::default(),
            id: String::new(),
            format: "pem".to_owned(),
            scheme: "",
        }
    }
}

impl List {
    /// `experimental bundle list` of old releases: SPIFFE's format, headers with a scheme.
    pub(crate) fn old() -> Self {
        Self { format: "spiffe".to_owned(), scheme: "spiffe://", ..Self::default() }
    }

    fn print(&self, bundles: &[pb::types::Bundle], io: &mut Io<'_>) -> Result<(), Error> {
        let format = BundleFormat::parse(&self.format)?;
        for (index, bundle) in bundles.iter().enumerate() {
            if index > 0 {
                writeln!(io.stdout)?;
            }
            writeln!(io.stdout, "{RULE}\n* {}{}\n{RULE}", self.scheme, bundle.trust_domain)?;
            write_bundle(io.stdout, bundle, format)?;
        }
        Ok(())
    }
}

impl Command for List {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag(
            "id",
            &mut self.id,
            "The trust domain whose bundle to list, by name or SPIFFE ID",
        );
        flags.flag(
            "format",
            &mut self.format,
            "The format to list bundles in (only for pretty output). Either \"pem\" or \"spiffe\".",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let format = BundleFormat::parse(&self.format)?;
            let mut client = BundleClient::new(self.socket.connect(io).await?)
                .max_decoding_message_size(REPLY_BYTES_MAX);
            if self.id.is_empty() {
                let response =
                    client.list_federated_bundles(ListFederatedBundlesRequest::default()).await?;
                let response = response.into_inner();
                let name = "spire.api.server.bundle.v1.ListFederatedBundlesResponse";
                if self.output.print_json(io, name, &response)? {
                    return Ok(());
                }
                return self.print(&response.bundles, io);
            }
            let request =
                GetFederatedBundleRequest { trust_domain: self.id.clone(), output_mask: None };
            let bundle = client.get_federated_bundle(request).await?.into_inner();
            if self.output.print_json(io, "spire.api.types.Bundle", &bundle)? {
                return Ok(());
            }
            write_bundle(io.stdout, &bundle, format)
        })
    }
}

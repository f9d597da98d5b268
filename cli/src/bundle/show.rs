//! `bundle show`: the own bundle.
//!
//! Owns one call; the text is `format`'s.

use steeple_api::pb::server::bundle::v1::GetBundleRequest;
use steeple_api::pb::server::bundle::v1::bundle_client::BundleClient;

use super::format::{BundleFormat, write_bundle};
use crate::command::{Command, Running};
use crate::conn::ServerSocket;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Shows the server's own bundle.
#[derive(Debug)]
pub(crate) struct Show {
    socket: ServerSocket,
    output: OutputFlag,
    format: String,
}

impl Default for Show {
    fn default() -> Self {
        Self {
            socket: ServerSocket::default(),
            output: OutputFlag::default(),
            format: "pem".to_owned(),
        }
    }
}

impl Show {
    /// `experimental bundle show` of old releases, which knew SPIFFE's format alone.
    pub(crate) fn old() -> Self {
        Self { format: "spiffe".to_owned(), ..Self::default() }
    }
}

impl Command for Show {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag(
            "format",
            &mut self.format,
            "The format to show the bundle in (only for pretty output). Either \"pem\" or \"spiffe\".",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let format = BundleFormat::parse(&self.format)?;
            let mut client = BundleClient::new(self.socket.connect(io).await?);
            let bundle =
                client.get_bundle(GetBundleRequest { output_mask: None }).await?.into_inner();
            if self.output.print_json(io, "spire.api.types.Bundle", &bundle)? {
                return Ok(());
            }
            write_bundle(io.stdout, &bundle, format)
        })
    }
}

//! `bundle count`: the own bundle and the federated ones.
//!
//! Owns one call and its line. The own bundle counts, though `bundle list` never shows it.

use steeple_api::pb::server::bundle::v1::CountBundlesRequest;
use steeple_api::pb::server::bundle::v1::bundle_client::BundleClient;

use crate::command::{Command, Running};
use crate::conn::ServerSocket;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Counts bundles.
#[derive(Debug, Default)]
pub(crate) struct Count {
    socket: ServerSocket,
    output: OutputFlag,
}

impl Command for Count {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = BundleClient::new(self.socket.connect(io).await?);
            let response = client.count_bundles(CountBundlesRequest {}).await?.into_inner();
            let name = "spire.api.server.bundle.v1.CountBundlesResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let noun = if response.count == 1 { "bundle" } else { "bundles" };
            writeln!(io.stdout, "{} {noun}", response.count)?;
            Ok(())
        })
    }
}

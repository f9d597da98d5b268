//! `federation refresh`.

use steeple_api::pb::server::trustdomain::v1::RefreshBundleRequest;
use tonic::Code;

use super::client::OfOne;
use crate::command::{Command, Running};
use crate::conn::write_request;
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::go_quote;

/// Has the bundle of one trust domain fetched now.
#[derive(Debug, Default)]
pub(crate) struct Refresh {
    of: OfOne,
}

impl Command for Refresh {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.of.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let id = self.of.id()?;
            let doing = "failed to refresh bundle";
            let mut client = self.of.server.client(io, doing).await?;
            let request = RefreshBundleRequest { trust_domain: id.to_owned() };
            match client.refresh_bundle(write_request(request)?).await {
                Ok(_) => {}
                Err(status) if status.code() == Code::NotFound => {
                    let none = "there is no federation relationship with trust domain";
                    return Err(Error::invalid(format!("{none} {}", go_quote(id))));
                }
                Err(status) => return Err(Error::from(status).during(doing)),
            }
            let done = steeple_api::status::ok();
            if !self.of.server.output.print_json(io, "spire.api.types.Status", &done)? {
                writeln!(io.stdout, "Bundle refreshed")?;
            }
            Ok(())
        })
    }
}

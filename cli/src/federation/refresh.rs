//! `federation refresh`.

use steeple_api::pb::server::trustdomain::v1::RefreshBundleRequest;
use steeple_api::pb::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use tonic::Code;

use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{OutputFlag, go_quote};

/// Has the bundle of one trust domain fetched now.
#[derive(Debug, Default)]
pub(crate) struct Refresh {
    socket: ServerSocket,
    output: OutputFlag,
    id: String,
}

impl Command for Refresh {
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
            let doing = "failed to refresh bundle";
            let channel = self.socket.connect(io).await;
            let channel = channel.map_err(|error| error.during_call(doing))?;
            let request = RefreshBundleRequest { trust_domain: self.id.clone() };
            let reply =
                TrustDomainClient::new(channel).refresh_bundle(write_request(request)?).await;
            match reply {
                Ok(_) => {}
                Err(status) if status.code() == Code::NotFound => {
                    let none = "there is no federation relationship with trust domain";
                    return Err(Error::invalid(format!("{none} {}", go_quote(&self.id))));
                }
                Err(status) => return Err(Error::from(status).during(doing)),
            }
            let done = steeple_api::status::ok();
            if !self.output.print_json(io, "spire.api.types.Status", &done)? {
                writeln!(io.stdout, "Bundle refreshed")?;
            }
            Ok(())
        })
    }
}

//! `jwt mint`.
//!
//! Owns one call and the file of `-write`. The token is passed on as it came.

use std::path::Path;

use steeple_api::pb::server::svid::v1::MintJwtsvidRequest;
use steeple_api::pb::server::svid::v1::svid_client::SvidClient;

use super::lifetime::{tell_if_capped, ttl_seconds};
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::files::{PRIVATE, write_file};
use crate::flags::{FlagSet, GoDuration};
use crate::ids::parse_id;
use crate::io::Io;
use crate::output::OutputFlag;

/// Mints a JWT-SVID.
#[derive(Debug, Default)]
pub(crate) struct Jwt {
    socket: ServerSocket,
    output: OutputFlag,
    spiffe_id: String,
    audience: Vec<String>,
    ttl: GoDuration,
    write: String,
}

impl Command for Jwt {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("spiffeID", &mut self.spiffe_id, "SPIFFE ID of the JWT-SVID");
        flags.flag(
            "audience",
            &mut self.audience,
            "Audience claim that will be included in the SVID. Can be used more than once.",
        );
        flags.flag("ttl", &mut self.ttl, "TTL of the JWT-SVID");
        flags.flag("write", &mut self.write, "File to write token to instead of stdout");
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.spiffe_id.is_empty() {
                return Err(Error::invalid("spiffeID must be specified"));
            }
            if self.audience.is_empty() {
                return Err(Error::invalid("at least one audience must be specified"));
            }
            let id = Some(parse_id(&self.spiffe_id)?);
            let ttl = ttl_seconds(self.ttl)?;
            let doing = "unable to mint SVID";
            let mut client = SvidClient::new(self.socket.connect_for(io, doing).await?);
            let asked_at = io.clock.now();
            let request = MintJwtsvidRequest { id, audience: self.audience.clone(), ttl };
            let reply = client.mint_jwtsvid(write_request(request)?).await;
            let response = reply
                .map_err(|status| Error::from(status).during("unable to mint SVID"))?
                .into_inner();
            let svid = response.svid.clone().unwrap_or_default();
            if svid.token.is_empty() {
                return Err(Error::invalid("server response missing token"));
            }
            tell_if_capped("JWT-SVID", asked_at, self.ttl, svid.expires_at, io)?;
            if !self.write.is_empty() {
                write_file(Path::new(&self.write), svid.token.as_bytes(), PRIVATE)
                    .map_err(|error| error.during("unable to write token"))?;
                writeln!(io.stdout, "JWT-SVID written to {}", self.write)?;
                return Ok(());
            }
            let name = "spire.api.server.svid.v1.MintJWTSVIDResponse";
            if !self.output.print_json(io, name, &response)? {
                writeln!(io.stdout, "{}", svid.token)?;
            }
            Ok(())
        })
    }
}

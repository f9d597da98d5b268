//! `api fetch jwt`.
//!
//! Owns the two calls, keys before tokens as SPIRE makes them, and the array of two replies that
//! scripts index.

use serde_json::Value;
use steeple_api::pb;

use super::call::{Call, first};
use crate::command::{Command, Running};
use crate::conn::workload_request;
use crate::error::Error;
use crate::flags::{FlagSet, FlagValue, Kind};
use crate::io::Io;
use crate::output::{Format, OutputFlag, print_value, proto_value};

/// Fetches JWT-SVIDs and the keys to validate them.
#[derive(Debug, Default)]
pub(crate) struct FetchJwt {
    call: Call,
    output: OutputFlag,
    old_output: OutputFlag,
    audience: Commas,
    spiffe_id: String,
}

/// A list in one word, with commas; a second use replaces the first.
#[derive(Debug, Default)]
struct Commas(Vec<String>);

impl FlagValue for Commas {
    fn set(&mut self, text: &str) -> Result<(), String> {
        self.0 = text.split(',').map(str::to_owned).collect();
        Ok(())
    }

    fn kind(&self) -> Kind {
        Kind::Custom
    }

    fn shown(&self) -> Option<String> {
        None
    }
}

impl Command for FetchJwt {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.call.declare(flags);
        self.output.declare(flags);
        flags.old_flag("format", &mut self.old_output);
        flags.flag("audience", &mut self.audience, "comma separated list of audience values");
        flags.flag("spiffeID", &mut self.spiffe_id, "SPIFFE ID subject (optional)");
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.audience.0.is_empty() {
                return Err(Error::invalid("audience must be specified"));
            }
            let (svids, bundles) = self.fetch(io).await?;
            let json = [self.output.format(), self.old_output.format()].contains(&Format::Json);
            if json {
                let values = vec![
                    proto_value("JWTSVIDResponse", &svids)?,
                    proto_value("JWTBundlesResponse", &bundles)?,
                ];
                return print_value(io, Value::Array(values));
            }
            for svid in &svids.svids {
                writeln!(io.stdout, "token({}):\n\t{}", svid.spiffe_id, svid.svid)?;
                if !svid.hint.is_empty() {
                    writeln!(io.stdout, "hint({}):\n\t{}", svid.spiffe_id, svid.hint)?;
                }
            }
            for (trust_domain, keys) in &bundles.bundles {
                let keys = String::from_utf8_lossy(keys);
                writeln!(io.stdout, "bundle({trust_domain}):\n\t{keys}")?;
            }
            Ok(())
        })
    }
}

impl FetchJwt {
    async fn fetch(
        &self,
        io: &Io<'_>,
    ) -> Result<(pb::workload::JwtsvidResponse, pb::workload::JwtBundlesResponse), Error> {
        let doing = "failed to receive JWT bundles";
        let client = self.call.client(io).await;
        let mut client = client.map_err(|error| error.during_call(doing))?;
        let request = workload_request(pb::workload::JwtBundlesRequest {});
        let bundles = self
            .call
            .within(async { first(client.fetch_jwt_bundles(request).await).await })
            .await
            .map_err(|error| error.during_call(doing))?;
        let request = workload_request(pb::workload::JwtsvidRequest {
            audience: self.audience.0.clone(),
            spiffe_id: self.spiffe_id.clone(),
        });
        let svids = self.call.within(client.fetch_jwtsvid(request)).await?.into_inner();
        Ok((svids, bundles))
    }
}

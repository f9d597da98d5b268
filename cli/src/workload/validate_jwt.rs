//! `api validate jwt`.
//!
//! Owns the words that tell a token that is refused from a question that was not answered.

use steeple_api::pb;
use tonic::Code;

use super::call::Call;
use crate::command::{Command, Running};
use crate::conn::workload_request;
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{OutputFlag, go_json, proto_value};

/// Has the agent validate a token.
#[derive(Debug, Default)]
pub(crate) struct ValidateJwt {
    call: Call,
    output: OutputFlag,
    audience: String,
    svid: String,
}

impl Command for ValidateJwt {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.call.declare(flags);
        self.output.declare(flags);
        flags.flag("audience", &mut self.audience, "expected audience value");
        flags.flag("svid", &mut self.svid, "JWT SVID");
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.audience.is_empty() {
                return Err(Error::invalid("audience must be specified"));
            }
            if self.svid.is_empty() {
                return Err(Error::invalid("svid must be specified"));
            }
            let client = self.call.client(io).await;
            let doing = "unable to validate JWT SVID";
            let mut client = client.map_err(|error| error.during_call(doing))?;
            let request = workload_request(pb::workload::ValidateJwtsvidRequest {
                audience: self.audience.clone(),
                svid: self.svid.clone(),
            });
            let answer = self.call.within(client.validate_jwtsvid(request)).await;
            let response = answer.map_err(explain)?.into_inner();
            if self.output.print_json(io, "ValidateJWTSVIDResponse", &response)? {
                return Ok(());
            }
            let claims = response.claims.clone().unwrap_or_default();
            let claims = go_json(&proto_value("google.protobuf.Struct", &claims)?);
            writeln!(io.stdout, "SVID is valid.")?;
            writeln!(io.stdout, "SPIFFE ID : {}", response.spiffe_id)?;
            writeln!(io.stdout, "Claims    : {claims}")?;
            Ok(())
        })
    }
}

/// A token that is refused is told apart from a question that was not answered.
fn explain(error: Error) -> Error {
    if let Error::Rpc(refused) = &error
        && refused.code == Code::InvalidArgument
    {
        return Error::invalid(format!("SVID is not valid: {}", refused.message));
    }
    error.during("unable to validate JWT SVID")
}

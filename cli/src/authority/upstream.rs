//! `upstreamauthority taint` and `upstreamauthority revoke`.

use steeple_api::pb::server::localauthority::v1 as rpc;
use steeple_api::pb::server::localauthority::v1::local_authority_client::LocalAuthorityClient;

use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Takes a step with an upstream authority.
#[derive(Debug)]
pub(crate) struct Upstream {
    verb: Verb,
    socket: ServerSocket,
    output: OutputFlag,
    subject_key_id: String,
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Taint,
    Revoke,
}

impl Upstream {
    /// `upstreamauthority taint`.
    pub(crate) fn taint() -> Self {
        Self::of(Verb::Taint)
    }

    /// `upstreamauthority revoke`.
    pub(crate) fn revoke() -> Self {
        Self::of(Verb::Revoke)
    }

    fn of(verb: Verb) -> Self {
        let (socket, output) = (ServerSocket::default(), OutputFlag::default());
        Self { verb, socket, output, subject_key_id: String::new() }
    }

    /// Asks for the step; `None` if the answer is printed already.
    async fn ask(&self, io: &mut Io<'_>) -> Result<Option<String>, Error> {
        let mut client = LocalAuthorityClient::new(self.socket.connect(io).await?);
        let subject_key_id = self.subject_key_id.clone();
        match self.verb {
            Verb::Taint => {
                let request = rpc::TaintX509UpstreamAuthorityRequest { subject_key_id };
                let reply = client.taint_x509_upstream_authority(write_request(request)?);
                let reply = reply.await?.into_inner();
                let name = "spire.api.server.localauthority.v1.TaintX509UpstreamAuthorityResponse";
                let printed = self.output.print_json(io, name, &reply)?;
                Ok((!printed).then_some(reply.upstream_authority_subject_key_id))
            }
            Verb::Revoke => {
                let request = rpc::RevokeX509UpstreamAuthorityRequest { subject_key_id };
                let reply = client.revoke_x509_upstream_authority(write_request(request)?);
                let reply = reply.await?.into_inner();
                let name = "spire.api.server.localauthority.v1.RevokeX509UpstreamAuthorityResponse";
                let printed = self.output.print_json(io, name, &reply)?;
                Ok((!printed).then_some(reply.upstream_authority_subject_key_id))
            }
        }
    }
}

impl Command for Upstream {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        let usage = match self.verb {
            Verb::Taint => {
                "The X.509 Subject Key Identifier (or SKID) of the authority's CA certificate of \
                 the upstream X.509 authority to taint"
            }
            Verb::Revoke => {
                "The X.509 Subject Key Identifier (or SKID) of the authority's CA certificate of \
                 the X.509 upstream authority to revoke"
            }
        };
        flags.flag("subjectKeyID", &mut self.subject_key_id, usage);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.subject_key_id.is_empty() {
                let text = "the Subject Key ID of the X.509 upstream authority is required";
                return Err(Error::invalid(text));
            }
            let (done, failed) = match self.verb {
                Verb::Taint => ("Tainted", "could not taint X.509 upstream authority"),
                Verb::Revoke => ("Revoked", "could not revoke X.509 upstream authority"),
            };
            let answer = self.ask(io).await.map_err(|error| error.during_call(failed))?;
            let Some(id) = answer else { return Ok(()) };
            writeln!(io.stdout, "{done} X.509 upstream authority:\n  Subject Key ID: {id}")?;
            Ok(())
        })
    }
}

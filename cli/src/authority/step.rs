//! `localauthority x509|jwt prepare|activate|taint|revoke`.

use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_api::pb::cluster::v1::{RotationRequest, authority};
use steeple_api::pb::server::localauthority::v1 as rpc;
use steeple_api::pb::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use tonic::Code;
use tonic::transport::Channel;

use super::state::{Kind, write_state};
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Makes an authority.
#[derive(Debug)]
pub(crate) struct Prepare {
    kind: Kind,
    asking: Asking,
}

/// Takes a step with an authority that is named.
#[derive(Debug)]
pub(crate) struct Step {
    verb: Verb,
    kind: Kind,
    asking: Asking,
    authority_id: String,
    /// Of an activation: even if some do not know the authority yet.
    force: bool,
}

/// What all steps have.
#[derive(Debug, Default)]
struct Asking {
    socket: ServerSocket,
    output: OutputFlag,
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Activate,
    Taint,
    Revoke,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Activate => "activate",
            Self::Taint => "taint",
            Self::Revoke => "revoke",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Activate => "Activated",
            Self::Taint => "Tainted",
            Self::Revoke => "Revoked",
        }
    }
}

impl Prepare {
    /// An X.509 authority.
    pub(crate) fn x509() -> Self {
        Self { kind: Kind::X509, asking: Asking::default() }
    }

    /// A JWT authority.
    pub(crate) fn jwt() -> Self {
        Self { kind: Kind::Jwt, asking: Asking::default() }
    }
}

impl Step {
    /// `localauthority x509 activate`.
    pub(crate) fn activate_x509() -> Self {
        Self::of(Verb::Activate, Kind::X509)
    }

    /// `localauthority jwt activate`.
    pub(crate) fn activate_jwt() -> Self {
        Self::of(Verb::Activate, Kind::Jwt)
    }

    /// `localauthority x509 taint`.
    pub(crate) fn taint_x509() -> Self {
        Self::of(Verb::Taint, Kind::X509)
    }

    /// `localauthority jwt taint`.
    pub(crate) fn taint_jwt() -> Self {
        Self::of(Verb::Taint, Kind::Jwt)
    }

    /// `localauthority x509 revoke`.
    pub(crate) fn revoke_x509() -> Self {
        Self::of(Verb::Revoke, Kind::X509)
    }

    /// `localauthority jwt revoke`.
    pub(crate) fn revoke_jwt() -> Self {
        Self::of(Verb::Revoke, Kind::Jwt)
    }

    fn of(verb: Verb, kind: Kind) -> Self {
        Self { verb, kind, asking: Asking::default(), authority_id: String::new(), force: false }
    }

    /// Refuses to let an authority sign that some do not know yet. A server that cannot say who does is
    /// SPIRE's: it decides alone.
    async fn check_known(&self, io: &mut Io<'_>) -> Result<(), Error> {
        let mut client = ClusterClient::new(self.asking.socket.connect(io).await?);
        let kind = match self.kind {
            Kind::X509 => authority::Kind::X509,
            Kind::Jwt => authority::Kind::Jwt,
        };
        let request = RotationRequest { kind: kind.into() };
        let seen = match client.rotation(request).await {
            Ok(seen) => seen.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => return Ok(()),
            Err(status) => return Err(status.into()),
        };
        let is_next = seen.prepared.is_some_and(|prepared| prepared.id == self.authority_id);
        if !is_next || seen.complete {
            return Ok(());
        }
        let command = match self.kind {
            Kind::X509 => "cluster rotate x509 -wait",
            Kind::Jwt => "cluster rotate jwt -wait",
        };
        Err(Error::Invalid(format!(
            "not all know it yet, waiting for {}; run \"{command}\", or use -force",
            seen.waits_for
        )))
    }

    /// Asks for the step; `None` if the answer is printed already.
    async fn ask(
        &self,
        client: &mut LocalAuthorityClient<Channel>,
        io: &mut Io<'_>,
    ) -> Result<Option<Option<rpc::AuthorityState>>, Error> {
        /// One row a method: its name, its messages, and the field of the answer.
        macro_rules! call {
            ($method:ident, $request:ident, $response:literal, $field:ident) => {{
                let authority_id = self.authority_id.clone();
                let request = write_request(rpc::$request { authority_id })?;
                let reply = client.$method(request).await?.into_inner();
                let name = concat!("spire.api.server.localauthority.v1.", $response);
                let printed = self.asking.output.print_json(io, name, &reply)?;
                Ok((!printed).then_some(reply.$field))
            }};
        }
        match (self.verb, self.kind) {
            (Verb::Activate, Kind::X509) => call!(
                activate_x509_authority,
                ActivateX509AuthorityRequest,
                "ActivateX509AuthorityResponse",
                activated_authority
            ),
            (Verb::Activate, Kind::Jwt) => call!(
                activate_jwt_authority,
                ActivateJwtAuthorityRequest,
                "ActivateJWTAuthorityResponse",
                activated_authority
            ),
            (Verb::Taint, Kind::X509) => call!(
                taint_x509_authority,
                TaintX509AuthorityRequest,
                "TaintX509AuthorityResponse",
                tainted_authority
            ),
            (Verb::Taint, Kind::Jwt) => call!(
                taint_jwt_authority,
                TaintJwtAuthorityRequest,
                "TaintJWTAuthorityResponse",
                tainted_authority
            ),
            (Verb::Revoke, Kind::X509) => call!(
                revoke_x509_authority,
                RevokeX509AuthorityRequest,
                "RevokeX509AuthorityResponse",
                revoked_authority
            ),
            (Verb::Revoke, Kind::Jwt) => call!(
                revoke_jwt_authority,
                RevokeJwtAuthorityRequest,
                "RevokeJWTAuthorityResponse",
                revoked_authority
            ),
        }
    }
}

impl Asking {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
    }

    async fn client(
        &self,
        io: &mut Io<'_>,
        failed: &str,
    ) -> Result<LocalAuthorityClient<Channel>, Error> {
        let channel = self.socket.connect(io).await;
        Ok(LocalAuthorityClient::new(channel.map_err(|error| error.during_call(failed))?))
    }
}

impl Command for Prepare {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.asking.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let failed = format!("could not prepare {} authority", self.kind.name());
            let mut client = self.asking.client(io, &failed).await?;
            let wrapped = |status: tonic::Status| Error::from(status).during(failed.clone());
            let output = &self.asking.output;
            let state = match self.kind {
                Kind::X509 => {
                    let request = write_request(rpc::PrepareX509AuthorityRequest {})?;
                    let reply = client.prepare_x509_authority(request).await.map_err(wrapped)?;
                    let reply = reply.into_inner();
                    let name = "spire.api.server.localauthority.v1.PrepareX509AuthorityResponse";
                    let printed = output.print_json(io, name, &reply)?;
                    (!printed).then_some(reply.prepared_authority)
                }
                Kind::Jwt => {
                    let request = write_request(rpc::PrepareJwtAuthorityRequest {})?;
                    let reply = client.prepare_jwt_authority(request).await.map_err(wrapped)?;
                    let reply = reply.into_inner();
                    let name = "spire.api.server.localauthority.v1.PrepareJWTAuthorityResponse";
                    let printed = output.print_json(io, name, &reply)?;
                    (!printed).then_some(reply.prepared_authority)
                }
            };
            tell("Prepared", self.kind, state, io)
        })
    }
}

impl Command for Step {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.asking.declare(flags);
        let usage = match (self.verb, self.kind) {
            (Verb::Activate, Kind::X509) => "The authority ID of the X.509 authority to activate",
            (Verb::Activate, Kind::Jwt) => "The authority ID of the JWT authority to activate",
            (Verb::Taint, Kind::X509) => "The authority ID of the X.509 authority to taint",
            (Verb::Taint, Kind::Jwt) => "The authority ID of the JWT authority to taint",
            (Verb::Revoke, Kind::X509) => "The authority ID of the X.509 authority to revoke",
            (Verb::Revoke, Kind::Jwt) => "The authority ID of the JWT authority to revoke",
        };
        flags.flag("authorityID", &mut self.authority_id, usage);
        if matches!(self.verb, Verb::Activate) {
            let usage = "Activate even if members or agents are not known to have the authority";
            flags.flag("force", &mut self.force, usage);
        }
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.authority_id.is_empty() {
                return Err(Error::invalid("an authority ID is required"));
            }
            let failed = format!("could not {} {} authority", self.verb.name(), self.kind.name());
            let mut client = self.asking.client(io, &failed).await?;
            if matches!(self.verb, Verb::Activate) && !self.force {
                self.check_known(io).await.map_err(|error| error.during(failed.clone()))?;
            }
            let state = self.ask(&mut client, io).await;
            let state = state.map_err(|error| error.during_call(&failed))?;
            tell(self.verb.done(), self.kind, state, io)
        })
    }
}

/// Prints the authority of an answer, unless the answer is printed already.
fn tell(
    done: &str,
    kind: Kind,
    answer: Option<Option<rpc::AuthorityState>>,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    let Some(state) = answer else { return Ok(()) };
    writeln!(io.stdout, "{done} {} authority:", kind.name())?;
    let Some(state) = state else {
        let (done, kind) = (done.to_lowercase(), kind.name());
        return Err(Error::Internal(format!(
            "expected to have {done} {kind} authority information"
        )));
    };
    write_state(io.stdout, kind, &state)
}

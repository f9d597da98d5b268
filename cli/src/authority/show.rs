//! `localauthority x509 show` and `localauthority jwt show`.

use steeple_api::pb::server::localauthority::v1 as rpc;
use steeple_api::pb::server::localauthority::v1::local_authority_client::LocalAuthorityClient;

use super::state::{Kind, write_state};
use crate::command::{Command, Running};
use crate::conn::ServerSocket;
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

const FAILED: &str = "could not get X.509 authorities";

/// Shows the authorities of a kind.
#[derive(Debug)]
pub(crate) struct Show {
    kind: Kind,
    socket: ServerSocket,
    output: OutputFlag,
}

/// The authorities of an answer, in the order in which they are shown.
type Shown = [(&'static str, Option<rpc::AuthorityState>); 3];

impl Show {
    /// X.509 authorities.
    pub(crate) fn x509() -> Self {
        Self::of(Kind::X509)
    }

    /// JWT authorities.
    pub(crate) fn jwt() -> Self {
        Self::of(Kind::Jwt)
    }

    fn of(kind: Kind) -> Self {
        Self { kind, socket: ServerSocket::default(), output: OutputFlag::default() }
    }

    /// Asks; `None` if the answer is printed already.
    async fn ask(&self, io: &mut Io<'_>) -> Result<Option<Shown>, Error> {
        match self.kind {
            Kind::X509 => {
                let channel = self.socket.connect(io).await;
                let channel = channel.map_err(|error| error.during_call(FAILED))?;
                let mut client = LocalAuthorityClient::new(channel);
                let reply = client.get_x509_authority_state(rpc::GetX509AuthorityStateRequest {});
                let reply = reply.await.map_err(|status| Error::from(status).during(FAILED))?;
                let reply = reply.into_inner();
                let name = "spire.api.server.localauthority.v1.GetX509AuthorityStateResponse";
                let printed = self.output.print_json(io, name, &reply)?;
                Ok((!printed).then(|| shown(reply.active, reply.prepared, reply.old)))
            }
            Kind::Jwt => {
                let mut client = LocalAuthorityClient::new(self.socket.connect(io).await?);
                let reply = client.get_jwt_authority_state(rpc::GetJwtAuthorityStateRequest {});
                let reply = reply.await?.into_inner();
                let name = "spire.api.server.localauthority.v1.GetJWTAuthorityStateResponse";
                let printed = self.output.print_json(io, name, &reply)?;
                Ok((!printed).then(|| shown(reply.active, reply.prepared, reply.old)))
            }
        }
    }
}

fn shown(
    active: Option<rpc::AuthorityState>,
    prepared: Option<rpc::AuthorityState>,
    old: Option<rpc::AuthorityState>,
) -> Shown {
    [("Active", active), ("Prepared", prepared), ("Old", old)]
}

impl Command for Show {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let Some(shown) = self.ask(io).await? else { return Ok(()) };
            let kind = self.kind.name();
            for (number, (status, state)) in shown.iter().enumerate() {
                if number > 0 {
                    writeln!(io.stdout)?;
                }
                writeln!(io.stdout, "{status} {kind} authority:")?;
                match state {
                    Some(state) => write_state(io.stdout, self.kind, state)?,
                    None => {
                        let status = status.to_lowercase();
                        writeln!(io.stdout, "  No {status} {kind} authority found")?;
                    }
                }
            }
            Ok(())
        })
    }
}

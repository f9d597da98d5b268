//! `cluster transfer`: hands leadership over.
//!
//! Owns one call and its line. Whom to choose when nobody is named is the server's affair.

use steeple_api::pb::cluster::v1::TransferLeadershipRequest;
use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;

use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Hands leadership to a member, or to the most caught-up voter.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    socket: ServerSocket,
    output: OutputFlag,
    to: String,
}

impl Command for Transfer {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag(
            "to",
            &mut self.to,
            "The ID of the member that shall lead; the most caught-up voter when empty",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = ClusterClient::new(self.socket.connect(io).await?);
            let request = write_request(TransferLeadershipRequest { to: self.to.clone() })?;
            let response = client.transfer_leadership(request).await?.into_inner();
            let name = "steeple.cluster.v1.TransferLeadershipResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            let (leader, took_ms) = (&response.leader_id, response.took_s * 1000.0);
            writeln!(io.stdout, "Leadership handed to {leader} in {took_ms:.1}ms.")?;
            Ok(())
        })
    }
}

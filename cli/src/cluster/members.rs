//! `cluster members`.
//!
//! Owns one call; the text is `table`'s.

use steeple_api::pb::cluster::v1::MembersRequest;
use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;

use super::table::{members, write_table};
use crate::command::{Command, Running};
use crate::conn::ServerSocket;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Lists the members of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Members {
    socket: ServerSocket,
    output: OutputFlag,
}

impl Command for Members {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = ClusterClient::new(self.socket.connect(io).await?);
            let response = client.members(MembersRequest {}).await?.into_inner();
            if !self.output.print_json(io, "steeple.cluster.v1.MembersResponse", &response)? {
                write_table(io.stdout, &members(&response.members))?;
            }
            Ok(())
        })
    }
}

//! `cluster remove`, `cluster promote` and `cluster demote`: the membership by hand.
//!
//! Owns the three calls and their lines. Autopilot does the usual cases; what is safe is the
//! server's decision, whichever member is asked.

use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_api::pb::cluster::v1::{
    DemoteMemberRequest, PromoteMemberRequest, RemoveMemberRequest,
};
use tonic::transport::Channel;

use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::OutputFlag;

/// Which member, and where to ask.
#[derive(Debug, Default)]
struct Target {
    socket: ServerSocket,
    output: OutputFlag,
    id: String,
}

/// Takes a member out of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Remove {
    target: Target,
    force: bool,
}

/// Gives a learner a vote.
#[derive(Debug, Default)]
pub(crate) struct Promote {
    target: Target,
}

/// Takes a voter's vote.
#[derive(Debug, Default)]
pub(crate) struct Demote {
    target: Target,
}

impl Target {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("id", &mut self.id, "The ID of the member, as \"cluster members\" prints it");
    }

    async fn connect(&self, io: &mut Io<'_>) -> Result<ClusterClient<Channel>, Error> {
        if self.id.is_empty() {
            return Err(Error::invalid("a member ID is required (use -id)"));
        }
        Ok(ClusterClient::new(self.socket.connect(io).await?))
    }
}

impl Command for Remove {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.target.declare(flags);
        flags.flag(
            "force",
            &mut self.force,
            "Remove it even if fewer than a majority of the voters that stay are healthy",
        );
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = self.target.connect(io).await?;
            let id = self.target.id.clone();
            let request = write_request(RemoveMemberRequest { id, force: self.force })?;
            let response = client.remove_member(request).await?.into_inner();
            let name = "steeple.cluster.v1.RemoveMemberResponse";
            if !self.target.output.print_json(io, name, &response)? {
                writeln!(io.stdout, "Member {} removed.", self.target.id)?;
            }
            Ok(())
        })
    }
}

impl Command for Promote {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.target.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = self.target.connect(io).await?;
            let request = write_request(PromoteMemberRequest { id: self.target.id.clone() })?;
            let response = client.promote_member(request).await?.into_inner();
            let name = "steeple.cluster.v1.PromoteMemberResponse";
            if !self.target.output.print_json(io, name, &response)? {
                writeln!(io.stdout, "Member {} votes.", self.target.id)?;
            }
            Ok(())
        })
    }
}

impl Command for Demote {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.target.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = self.target.connect(io).await?;
            let request = write_request(DemoteMemberRequest { id: self.target.id.clone() })?;
            let response = client.demote_member(request).await?.into_inner();
            let name = "steeple.cluster.v1.DemoteMemberResponse";
            if !self.target.output.print_json(io, name, &response)? {
                writeln!(io.stdout, "Member {} follows without a vote.", self.target.id)?;
            }
            Ok(())
        })
    }
}

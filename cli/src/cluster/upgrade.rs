//! `cluster upgrade status` and `cluster upgrade finalize`: the feature level.
//!
//! Owns the two calls and their lines; whether the level may be raised is the server's decision.

use std::time::Duration;

use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_api::pb::cluster::v1::{
    FinalizeUpgradeRequest, UpgradeStatusRequest, UpgradeStatusResponse,
};

use super::table::{or_dash, write_table};
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::flags::{FlagSet, GoDuration};
use crate::io::Io;
use crate::output::OutputFlag;

/// Shows which feature level the cluster is at and what its members support.
#[derive(Debug, Default)]
pub(crate) struct UpgradeStatus {
    socket: ServerSocket,
    output: OutputFlag,
}

/// Raises the feature level as far as all members support it. There is no way back.
#[derive(Debug, Default)]
pub(crate) struct UpgradeFinalize {
    socket: ServerSocket,
    output: OutputFlag,
}

impl Command for UpgradeStatus {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = ClusterClient::new(self.socket.connect(io).await?);
            let response = client.upgrade_status(UpgradeStatusRequest {}).await?.into_inner();
            let name = "steeple.cluster.v1.UpgradeStatusResponse";
            if self.output.print_json(io, name, &response)? {
                return Ok(());
            }
            writeln!(io.stdout, "Feature level : {}", response.feature_level)?;
            writeln!(io.stdout, "Next          : {}\n", next(&response))?;
            let heading = ["ID", "VERSION", "SUPPORTS"].map(str::to_owned).to_vec();
            let rows = response.members.iter().map(|member| {
                let supports = match member.feature_level_max {
                    0 => "-".to_owned(),
                    level => level.to_string(),
                };
                vec![member.id.clone(), or_dash(&member.version), supports]
            });
            let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
            write_table(io.stdout, &rows)?;
            Ok(())
        })
    }
}

fn next(response: &UpgradeStatusResponse) -> String {
    let level = response.ready_level;
    if level == 0 {
        return "not all members support a higher level".to_owned();
    }
    let raised_in = response.raised_in_s.and_then(|s| Duration::try_from_secs_f64(s.round()).ok());
    let by_itself = raised_in.map_or_else(String::new, |time| {
        format!(", is raised by itself in {}", GoDuration::from(time))
    });
    format!("{level}, supported by all members: run \"cluster upgrade finalize\"{by_itself}")
}

/// What is said where no member supports a higher level.
fn at_newest(level: u32) -> String {
    format!(
        "Nothing to do: the cluster is at feature level {level}, the newest that its members \
         support. For a newer one start a newer version on every member first."
    )
}

impl Command for UpgradeFinalize {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = ClusterClient::new(self.socket.connect(io).await?);
            let request = write_request(FinalizeUpgradeRequest {})?;
            let response = client.finalize_upgrade(request).await?.into_inner();
            let name = "steeple.cluster.v1.FinalizeUpgradeResponse";
            if !self.output.print_json(io, name, &response)? {
                let (from, to) = (response.from, response.to);
                match from == to {
                    true => writeln!(io.stdout, "{}", at_newest(to))?,
                    false => writeln!(io.stdout, "Feature level raised from {from} to {to}.")?,
                }
            }
            Ok(())
        })
    }
}

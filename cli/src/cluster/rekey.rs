//! `cluster rekey`: another cluster key, and how far it is.
//!
//! Owns the asking until it is done, and the lines. Which key may be moved to, and everything after the
//! move, is the servers' affair: it goes on whether this command waits or not, and asking again shows how
//! far it is.

use std::io::Write;
use std::time::Duration;

use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_api::pb::cluster::v1::cluster_key::Use;
use steeple_api::pb::cluster::v1::{ClusterKey, RekeyRequest, RekeyResponse};
use tonic::Code;
use tonic::transport::Channel;

use super::table::{cluster_keys, line, or_dash, write_table};
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{Format, OutputFlag};

/// Between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks without an answer, one after another, until the command gives up: a new leader is there within
/// seconds.
const UNANSWERED_MAX: usize = 60;

/// Lets another cluster key seal, and waits until nothing depends on the old one.
#[derive(Debug, Default)]
pub(crate) struct Rekey {
    socket: ServerSocket,
    output: OutputFlag,
    to: String,
    plan: bool,
}

impl Command for Rekey {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag(
            "to",
            &mut self.to,
            "The ID of the key to move to; the only new one that members hold when empty",
        );
        flags.flag("plan", &mut self.plan, "Change nothing, print what would be done");
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut client = ClusterClient::new(self.socket.connect(io).await?);
            let request = write_request(RekeyRequest { to: self.to.clone(), plan: self.plan })?;
            let mut response = client.rekey(request).await?.into_inner();
            let json = self.output.format() == Format::Json;
            if self.plan {
                if !self.print_json(io, &response)? {
                    print_plan(&response, io.stdout)?;
                }
                return Ok(());
            }
            if !json {
                print_begun(&response, io.stdout)?;
            }
            let mut told = String::new();
            while !response.done {
                let progress = progress(&response);
                if !json && progress != told {
                    writeln!(io.stdout, "{progress}")?;
                    io.stdout.flush()?;
                    told = progress;
                }
                tokio::time::sleep(LOOK_EVERY).await;
                response = look(&mut client, &response.to).await?;
            }
            if !self.print_json(io, &response)? {
                print_done(&response, io.stdout)?;
            }
            Ok(())
        })
    }
}

impl Rekey {
    fn print_json(&self, io: &mut Io<'_>, response: &RekeyResponse) -> Result<bool, Error> {
        self.output.print_json(io, "steeple.cluster.v1.RekeyResponse", response)
    }
}

/// Asks how far it is; while leadership moves there may be no answer.
async fn look(client: &mut ClusterClient<Channel>, to: &str) -> Result<RekeyResponse, Error> {
    let mut unanswered = 0;
    loop {
        let request = RekeyRequest { to: to.to_owned(), plan: true };
        match client.rekey(request).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if status.code() == Code::Unavailable && unanswered < UNANSWERED_MAX => {
                unanswered += 1;
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
}

fn print_plan(response: &RekeyResponse, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    let elsewhere = |key: &&ClusterKey| key.id != response.to;
    let authorities: u32 = response.keys.iter().filter(elsewhere).map(|key| key.authorities).sum();
    line(out, "Seals now", &or_dash(&response.from))?;
    line(out, "Is to seal", &response.to)?;
    let steps = match (response.moved, response.done) {
        (true, _) => format!(
            "1. move to {}; 2. seal {authorities} private keys anew; 3. issue the peer certificates anew",
            response.to
        ),
        (false, false) => "moved already, goes on by itself".to_owned(),
        (false, true) => "nothing to do".to_owned(),
    };
    line(out, "Would do", &steps)?;
    writeln!(out)?;
    write_table(out, &cluster_keys(&response.keys))?;
    Ok(())
}

fn print_begun(response: &RekeyResponse, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    match (response.moved, response.done) {
        (true, _) => {
            let from = or_dash(&response.from);
            writeln!(out, "Cluster key moved from {from} to {}.", response.to)?;
        }
        (false, false) => writeln!(out, "Cluster key {} seals already.", response.to)?,
        (false, true) => writeln!(
            out,
            "Nothing to do: cluster key {} seals already, and nothing is sealed under another.",
            response.to
        )?,
    }
    Ok(())
}

fn progress(response: &RekeyResponse) -> String {
    let leaving = response.keys.iter().filter(|key| key.r#use() == Use::Leaving);
    let each = leaving.map(|key| {
        format!(
            "Waiting: {} private keys and the peer certificates of {} members are still under {}.",
            key.authorities,
            key.presented_by.len(),
            key.id
        )
    });
    each.collect::<Vec<_>>().join("\n")
}

fn print_done(response: &RekeyResponse, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    let unused = response.keys.iter().filter(|key| key.r#use() == Use::Unused);
    for key in unused {
        writeln!(
            out,
            "Nothing depends on {} any more: drop its line from every key file. Keep it apart as long as \
             you keep snapshots from its time.",
            key.id
        )?;
    }
    Ok(())
}

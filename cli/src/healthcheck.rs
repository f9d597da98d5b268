//! `healthcheck` of both binaries.
//!
//! Owns the question to the gRPC health service and SPIRE's words for the answer. A daemon that
//! cannot be asked counts as unhealthy, not as an error of another kind: probes look at the exit
//! code, people at the hint.

use steeple_api::pb::health::HealthCheckRequest;
use steeple_api::pb::health::health_check_response::ServingStatus;
use steeple_api::pb::health::health_client::HealthClient;
use tonic::transport::Channel;

use crate::command::{Command, Running};
use crate::conn::{AgentSocket, ServerSocket};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;

/// `spire-server healthcheck`.
#[derive(Debug, Default)]
pub(crate) struct Server {
    socket: ServerSocket,
    probe: Probe,
}

/// `spire-agent healthcheck`.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    socket: AgentSocket,
    probe: Probe,
}

/// What both ask, and how much they say.
#[derive(Debug, Default)]
struct Probe {
    shallow: bool,
    verbose: bool,
}

impl Command for Server {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.probe.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            self.probe.announce("server", io)?;
            let channel = self.socket.connect(io).await;
            let judged = self.probe.judge("server", channel, io).await;
            judged.map_err(|error| error.during("server is unhealthy"))?;
            writeln!(io.stdout, "Server is healthy.")?;
            Ok(())
        })
    }
}

impl Command for Agent {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.probe.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            self.probe.announce("agent", io)?;
            let channel = self.socket.connect(io).await;
            let judged = self.probe.judge("agent", channel, io).await;
            judged.map_err(|error| error.during("Agent is unhealthy"))?;
            writeln!(io.stdout, "Agent is healthy.")?;
            Ok(())
        })
    }
}

impl Probe {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        let usage = "Accepted for compatibility; makes no difference";
        flags.flag("shallow", &mut self.shallow, usage);
        flags.flag("verbose", &mut self.verbose, "Print verbose information");
    }

    fn announce(&self, daemon: &str, io: &mut Io<'_>) -> Result<(), Error> {
        if self.verbose {
            writeln!(io.stdout, "Checking {daemon} health...")?;
        }
        Ok(())
    }

    async fn judge(
        &self,
        daemon: &str,
        channel: Result<Channel, Error>,
        io: &mut Io<'_>,
    ) -> Result<(), Error> {
        let answer = match channel {
            Ok(channel) => check(channel).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(status) => serving(daemon, status),
            Err(error) => {
                if self.verbose {
                    writeln!(io.stderr, "Failed to check health: {}", error.chain())?;
                }
                let text = "unable to determine health".to_owned();
                Err(Error::Unhealthy { text, hint: error.hint() })
            }
        }
    }
}

async fn check(channel: Channel) -> Result<i32, Error> {
    let request = HealthCheckRequest { service: String::new() };
    Ok(HealthClient::new(channel).check(request).await?.into_inner().status)
}

fn serving(daemon: &str, status: i32) -> Result<(), Error> {
    if status == i32::from(ServingStatus::Serving) {
        return Ok(());
    }
    let name = ServingStatus::try_from(status).map_or("UNKNOWN", |status| status.as_str_name());
    let text = format!("{daemon} returned status \"{name}\"");
    Err(Error::Unhealthy { text, hint: None })
}

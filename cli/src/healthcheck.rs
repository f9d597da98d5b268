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
    shallow: bool,
    verbose: bool,
}

/// `spire-agent healthcheck`.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    socket: AgentSocket,
    shallow: bool,
    verbose: bool,
}

const SHALLOW: &str = "Accepted for compatibility; makes no difference";
const VERBOSE: &str = "Print verbose information";

impl Command for Server {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        flags.flag("shallow", &mut self.shallow, SHALLOW);
        flags.flag("verbose", &mut self.verbose, VERBOSE);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.verbose {
                writeln!(io.stdout, "Checking server health...")?;
            }
            let answer = match self.socket.connect(io).await {
                Ok(channel) => check(channel).await,
                Err(error) => Err(error),
            };
            judge("server", answer, self.verbose, io)
                .map_err(|error| error.during("server is unhealthy"))?;
            writeln!(io.stdout, "Server is healthy.")?;
            Ok(())
        })
    }
}

impl Command for Agent {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        flags.flag("shallow", &mut self.shallow, SHALLOW);
        flags.flag("verbose", &mut self.verbose, VERBOSE);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.verbose {
                writeln!(io.stdout, "Checking agent health...")?;
            }
            let answer = match self.socket.connect(io).await {
                Ok(channel) => check(channel).await,
                Err(error) => Err(error),
            };
            judge("agent", answer, self.verbose, io)
                .map_err(|error| error.during("Agent is unhealthy"))?;
            writeln!(io.stdout, "Agent is healthy.")?;
            Ok(())
        })
    }
}

async fn check(channel: Channel) -> Result<i32, Error> {
    let request = HealthCheckRequest { service: String::new() };
    Ok(HealthClient::new(channel).check(request).await?.into_inner().status)
}

fn judge(
    daemon: &str,
    answer: Result<i32, Error>,
    verbose: bool,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    let status = match answer {
        Ok(status) => status,
        Err(error) => {
            if verbose {
                writeln!(io.stderr, "Failed to check health: {}", error.chain())?;
            }
            let text = "unable to determine health".to_owned();
            return Err(Error::Unhealthy { text, hint: error.hint() });
        }
    };
    if status == i32::from(ServingStatus::Serving) {
        return Ok(());
    }
    let name = ServingStatus::try_from(status).map_or("UNKNOWN", |status| status.as_str_name());
    let text = format!("{daemon} returned status \"{name}\"");
    Err(Error::Unhealthy { text, hint: None })
}

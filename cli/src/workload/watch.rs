//! `api watch`: prints each update until it is interrupted.
//!
//! Owns the retry: a stream that breaks, or a workload that has no identity yet, is tried again; a
//! refusal that no waiting mends ends the command.

use std::time::Duration;

use steeple_api::pb;
use tonic::Code;

use super::call::client;
use super::print::{Style, write_reply};
use super::svid::Reply;
use crate::command::{Command, Running};
use crate::conn::{AgentSocket, workload_request};
use crate::error::{Error, RpcError};
use crate::flags::{FlagSet, GoDuration};
use crate::io::Io;

/// The wait after the first failure; each further one waits as much longer (go-spiffe's numbers).
const BACKOFF_STEP: Duration = Duration::from_secs(1);
/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Watches the caller's X509-SVIDs.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    socket: AgentSocket,
}

impl Command for Watch {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            // Taken out, so that the watching may borrow the rest.
            let mut interrupt =
                std::mem::replace(&mut io.interrupt, Box::pin(std::future::pending()));
            tokio::select! {
                () = &mut interrupt => Err(RpcError::canceled().into()),
                ended = self.watch(io) => ended,
            }
        })
    }
}

impl Watch {
    async fn watch(&self, io: &mut Io<'_>) -> Result<(), Error> {
        let mut updated = io.clock.boot_time();
        let mut backoff = Duration::ZERO;
        loop {
            let error = self.stream(io, &mut updated, &mut backoff).await;
            if !can_be_waited_out(&error) {
                return Err(error);
            }
            writeln!(io.stderr, "{}", error.chain())?;
            io.stderr.flush()?;
            backoff = (backoff + BACKOFF_STEP).min(BACKOFF_MAX);
            tokio::time::sleep(backoff).await;
        }
    }

    /// Prints what one stream brings; returns why it ended.
    async fn stream(
        &self,
        io: &mut Io<'_>,
        updated: &mut Duration,
        backoff: &mut Duration,
    ) -> Error {
        let mut client = match client(&self.socket, io).await {
            Ok(client) => client,
            Err(error) => return error,
        };
        let request = workload_request(pb::workload::X509svidRequest {});
        let mut stream = match client.fetch_x509svid(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status.into(),
        };
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return tonic::Status::unavailable("the agent ended the stream").into(),
                Err(status) => return status.into(),
            };
            *backoff = Duration::ZERO;
            if let Err(error) = show(&message, io, updated) {
                return error;
            }
        }
    }
}

fn show(
    message: &pb::workload::X509svidResponse,
    io: &mut Io<'_>,
    updated: &mut Duration,
) -> Result<(), Error> {
    let reply = match Reply::parse(message) {
        Ok(reply) => reply,
        // One bad update is told; the next may be good.
        Err(error) => {
            writeln!(io.stderr, "{}", error.chain())?;
            return Ok(());
        }
    };
    let now = io.clock.boot_time();
    let after = GoDuration::from(now.saturating_sub(*updated));
    *updated = now;
    write_reply(io.stdout, &reply, after, Style::Watch)?;
    io.stdout.flush()?;
    Ok(())
}

/// A workload without identity gets one when an entry is made, so a refusal for that is waited out.
fn can_be_waited_out(error: &Error) -> bool {
    match error.code() {
        Some(Code::InvalidArgument | Code::Unimplemented) | None => false,
        Some(_) => true,
    }
}

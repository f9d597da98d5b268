//! `cluster rotate x509|jwt`: a new authority without a surprise for anyone.
//!
//! Owns the order of the steps and the words about them. Where a rotation stands is in the cluster alone:
//! a command that was interrupted is run again, on any member, and goes on from there. Who knows an
//! authority is found out by the members.

use std::time::Duration;

use steeple_api::pb::cluster::v1::authority::Kind;
use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_api::pb::cluster::v1::{Authority, RotationRequest, RotationResponse};
use steeple_api::pb::server::localauthority::v1 as steps;
use steeple_api::pb::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use tonic::transport::Channel;

use super::table::line;
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{Format, OutputFlag, go_time_utc};

/// How often members and agents are asked about with `-wait`. Agents of ours fetch a bundle within a
/// second, stock ones within five.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Prepares an authority and lets it sign once everyone is known to have it.
#[derive(Debug)]
pub(crate) struct Rotate {
    kind: Kind,
    socket: ServerSocket,
    output: OutputFlag,
    plan: bool,
    wait: bool,
}

/// The two ends of the connection.
struct Clients {
    cluster: ClusterClient<Channel>,
    steps: LocalAuthorityClient<Channel>,
}

impl Rotate {
    /// Of X.509 authorities.
    pub(crate) fn x509() -> Self {
        Self::of(Kind::X509)
    }

    /// Of JWT authorities.
    pub(crate) fn jwt() -> Self {
        Self::of(Kind::Jwt)
    }

    fn of(kind: Kind) -> Self {
        let (socket, output) = Default::default();
        Self { kind, socket, output, plan: false, wait: false }
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Jwt => "JWT",
            Kind::X509 | Kind::Wit | Kind::Unspecified => "X.509",
        }
    }

    async fn look(&self, clients: &mut Clients) -> Result<RotationResponse, Error> {
        let request = RotationRequest { kind: self.kind.into() };
        Ok(clients.cluster.rotation(request).await?.into_inner())
    }

    async fn prepare(&self, clients: &mut Clients) -> Result<(), Error> {
        match self.kind {
            Kind::Jwt => {
                let request = write_request(steps::PrepareJwtAuthorityRequest {})?;
                clients.steps.prepare_jwt_authority(request).await?;
            }
            Kind::X509 | Kind::Wit | Kind::Unspecified => {
                let request = write_request(steps::PrepareX509AuthorityRequest {})?;
                clients.steps.prepare_x509_authority(request).await?;
            }
        }
        Ok(())
    }

    async fn activate(&self, clients: &mut Clients, id: &str) -> Result<(), Error> {
        let authority_id = id.to_owned();
        match self.kind {
            Kind::Jwt => {
                let request = write_request(steps::ActivateJwtAuthorityRequest { authority_id })?;
                clients.steps.activate_jwt_authority(request).await?;
            }
            Kind::X509 | Kind::Wit | Kind::Unspecified => {
                let request = write_request(steps::ActivateX509AuthorityRequest { authority_id })?;
                clients.steps.activate_x509_authority(request).await?;
            }
        }
        Ok(())
    }

    /// Takes every step that may be taken now, and with `-wait` the others as they become due. What
    /// happens is told line by line on stderr with JSON, where stdout belongs to the answer.
    async fn rotate(
        &self,
        clients: &mut Clients,
        io: &mut Io<'_>,
    ) -> Result<RotationResponse, Error> {
        let name = self.name();
        let mut told = Told::default();
        let next = self.prepared(clients, &mut told, io).await?;
        // When the one that signs now will leave the bundle; there may be older ones that go before.
        let mut leaves = None;
        loop {
            let seen = self.look(clients).await?;
            let signs = seen.active.as_ref().is_some_and(|active| active.id == next.id);
            if signs {
                let left = leaves
                    .map_or("when it has ended".to_owned(), |at| format!("at {}", go_time_utc(at)));
                self.tell(
                    io,
                    &format!(
                        "{name} authority {} signs. The one before it leaves the bundle {left}.",
                        next.id
                    ),
                )?;
                return Ok(seen);
            }
            leaves = Some(seen.leave_at);
            if seen.prepared.as_ref().is_none_or(|prepared| prepared.id != next.id) {
                let text = format!(
                    "{name} authority {} is not prepared any more: it was tainted, revoked or replaced",
                    next.id
                );
                return Err(Error::Invalid(text));
            }
            if seen.complete {
                self.activate(clients, &next.id).await?;
                continue;
            }
            let text = progress(&seen);
            if !self.wait {
                self.tell(io, &text)?;
                self.tell(io, &what_follows(&seen))?;
                return Ok(seen);
            }
            if told.is_news(&text) {
                self.tell(io, &text)?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The authority that is to sign next: prepared already, or now.
    ///
    /// # Errors
    ///
    /// Without `-wait`: one that is prepared now would be in the way of the schedule. Nothing was done.
    async fn prepared(
        &self,
        clients: &mut Clients,
        told: &mut Told,
        io: &mut Io<'_>,
    ) -> Result<Authority, Error> {
        let name = self.name();
        loop {
            let seen = self.look(clients).await?;
            if seen.active.is_none() {
                return Err(Error::Invalid(format!(
                    "nothing signs yet: no {name} authority is active"
                )));
            }
            if let Some(prepared) = seen.prepared {
                self.tell(
                    io,
                    &format!(
                        "{name} authority {} is prepared: published, but it signs nothing yet.",
                        prepared.id
                    ),
                )?;
                return Ok(prepared);
            }
            if seen.may_prepare {
                self.prepare(clients).await?;
                continue;
            }
            let from = go_time_utc(seen.may_prepare_at);
            let (published, most) = (seen.published, seen.published_max);
            let why = format!(
                "{published} of {most} places in the bundle are taken, and one is needed by the schedule"
            );
            if !self.wait {
                let kind = if self.kind == Kind::Jwt { "jwt" } else { "x509" };
                return Err(Error::Invalid(format!(
                    "no {name} authority was prepared: {why}; the next may be prepared at {from}: run \
                     the command again then, or with -wait; where an old one is not trusted any more, \
                     \"localauthority {kind} taint\" and \"revoke\" free its place"
                )));
            }
            let text = format!("{why}; waiting until {from}");
            if told.is_news(&text) {
                self.tell(io, &text)?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn tell(&self, io: &mut Io<'_>, text: &str) -> std::io::Result<()> {
        let out = match self.output.format() {
            Format::Json => &mut *io.stderr,
            Format::Pretty => &mut *io.stdout,
        };
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// What would be done, with the earliest time of each step.
    fn print_plan(&self, seen: &RotationResponse, io: &mut Io<'_>) -> std::io::Result<()> {
        let out = &mut *io.stdout;
        let Some(active) = &seen.active else {
            return writeln!(out, "Nothing signs yet: no {} authority is active.", self.name());
        };
        line(out, "Signs now", &format!("{}, until {}", active.id, go_time_utc(active.not_after)))?;
        let prepare = match &seen.prepared {
            Some(prepared) => format!("done: {}", prepared.id),
            None if seen.may_prepare => "now".to_owned(),
            None => format!(
                "at {}, when the bundle has a place for it and for the one by schedule after it",
                go_time_utc(seen.may_prepare_at)
            ),
        };
        line(out, "Prepare", &prepare)?;
        // It signs by schedule then, whoever may not know it.
        let known_by = go_time_utc(seen.assumed_at.min(seen.activate_at_latest));
        let known = match &seen.prepared {
            Some(_) if seen.complete => "done".to_owned(),
            Some(_) => format!("at {known_by} at the latest; waiting for {}", seen.waits_for),
            None => format!("when all agents have fetched the bundle; at {known_by} at the latest"),
        };
        line(out, "Known", &known)?;
        let activate = match seen.complete {
            true => "now".to_owned(),
            false => {
                let known_from = go_time_utc(seen.known_from.min(seen.activate_at_latest));
                format!("when it is known, at {known_from} at the earliest")
            }
        };
        line(out, "Activate", &activate)?;
        line(out, "Old one leaves", &format!("at {}", go_time_utc(seen.leave_at)))?;
        line(
            out,
            "By itself",
            &format!(
                "prepared at {}, activated at {}",
                go_time_utc(seen.prepare_at),
                go_time_utc(seen.activate_at)
            ),
        )
    }
}

/// Who has the prepared authority, and who is waited for.
fn progress(seen: &RotationResponse) -> String {
    let all = seen.agents;
    let have = all.saturating_sub(seen.agents_without);
    let agents = match all {
        0 => "there are no agents".to_owned(),
        _ => format!("{have} of {all} agents have it"),
    };
    format!("{agents}; waiting for {}", seen.waits_for)
}

/// What becomes of a prepared authority that is left alone.
fn what_follows(seen: &RotationResponse) -> String {
    format!(
        "Nothing more is needed: it signs by itself from {} on, once all have it, and at {} in any case. \
         To let it sign sooner run the command again, or with -wait; at {} all are taken to have it.",
        go_time_utc(seen.activate_at),
        go_time_utc(seen.activate_at_latest),
        go_time_utc(seen.assumed_at)
    )
}

/// What was told last: the same is not told twice in a row.
#[derive(Debug, Default)]
struct Told(String);

impl Told {
    fn is_news(&mut self, text: &str) -> bool {
        let news = self.0 != text;
        text.clone_into(&mut self.0);
        news
    }
}

impl Command for Rotate {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.socket.declare(flags);
        self.output.declare(flags);
        flags.flag("plan", &mut self.plan, "Print what would be done and when, and do nothing");
        let usage = "Wait for agents and members instead of ending when some do not know the new authority yet";
        flags.flag("wait", &mut self.wait, usage);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            if self.plan && self.wait {
                return Err(Error::invalid("-plan and -wait exclude each other"));
            }
            let channel = self.socket.connect(io).await?;
            let mut clients = Clients {
                cluster: ClusterClient::new(channel.clone()),
                steps: LocalAuthorityClient::new(channel),
            };
            let seen = if self.plan {
                self.look(&mut clients).await?
            } else {
                self.rotate(&mut clients, io).await?
            };
            let printed =
                self.output.print_json(io, "steeple.cluster.v1.RotationResponse", &seen)?;
            if self.plan && !printed {
                self.print_plan(&seen, io)?;
            }
            Ok(())
        })
    }
}

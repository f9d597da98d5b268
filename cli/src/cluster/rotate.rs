//! `cluster rotate x509|jwt`: a new authority without a surprise for anyone.
//!
//! Owns the order of the steps and the words about them. Where a rotation stands is in the cluster alone:
//! a command that was interrupted is run again, on any member, and goes on from there. Who knows an
//! authority is found out by the members.

use std::time::Duration;

use steeple_api::metadata::EXPECTED_JOURNAL;
use steeple_api::pb::cluster::v1::authority::Kind;
use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_api::pb::cluster::v1::{Authority, RotationRequest, RotationResponse};
use steeple_api::pb::server::localauthority::v1 as steps;
use steeple_api::pb::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use tonic::Code;
use tonic::transport::Channel;

use super::table::line;
use crate::command::{Command, Running};
use crate::conn::{ServerSocket, write_request};
use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{Format, OutputFlag, go_time_utc};

/// How often members and agents are asked about with `-wait` at first. Agents of ours fetch a bundle within
/// a second, stock ones within five.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often after a minute: who is still waited for then is gone, or far.
const LOOK_LATER_EVERY: Duration = Duration::from_secs(10);

/// So many looks are made in the first minute.
const LOOKS_AT_FIRST: u32 = 30;

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

    /// Asks how far it is; with `-wait` until the cluster can be asked.
    async fn look(
        &self,
        clients: &mut Clients,
        told: &mut Told,
        io: &mut Io<'_>,
    ) -> Result<RotationResponse, Error> {
        loop {
            let request = RotationRequest { kind: self.kind.into() };
            match clients.cluster.rotation(request).await {
                Ok(seen) => return Ok(seen.into_inner()),
                Err(status) => self.outlast(status.into(), told, io).await?,
            }
        }
    }

    /// With `-wait` waits until what failed for a while may be asked for once more.
    ///
    /// # Errors
    ///
    /// The error itself, if waiting does not help or is not wanted.
    async fn outlast(&self, error: Error, told: &mut Told, io: &mut Io<'_>) -> Result<(), Error> {
        let passes = matches!(error.code(), Some(Code::Unavailable | Code::DeadlineExceeded));
        if !(self.wait && passes) {
            return Err(error);
        }
        let text = format!("{}; trying again", error.chain());
        if told.is_news(&text) {
            self.tell(io, &text)?;
        }
        tokio::time::sleep(told.pause()).await;
        Ok(())
    }

    /// Prepares an authority for the journal that was seen alone: of two rotations at a time one does.
    async fn prepare(&self, clients: &mut Clients, journal_revision: u64) -> Result<(), Error> {
        match self.kind {
            Kind::Jwt => {
                let request = write_request(steps::PrepareJwtAuthorityRequest {})?;
                let request = for_journal(request, journal_revision);
                clients.steps.prepare_jwt_authority(request).await?;
            }
            Kind::X509 | Kind::Wit | Kind::Unspecified => {
                let request = write_request(steps::PrepareX509AuthorityRequest {})?;
                let request = for_journal(request, journal_revision);
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
        // What becomes of the one that signs now; there may be older ones that go before.
        let mut end = "The one before it leaves the bundle when it has ended.".to_owned();
        let mut failed = None;
        loop {
            let seen = self.look(clients, &mut told, io).await?;
            let signs = seen.active.as_ref().is_some_and(|active| active.id == next.id);
            if signs {
                self.tell(io, &format!("{name} authority {} signs. {end}", next.id))?;
                return Ok(seen);
            }
            end = end_of_active(&seen);
            if seen.prepared.as_ref().is_none_or(|prepared| prepared.id != next.id) {
                let text = format!(
                    "{name} authority {} is not prepared any more: it was tainted, revoked or replaced",
                    next.id
                );
                return Err(Error::Invalid(text));
            }
            if let Some(error) = failed.take() {
                self.outlast(error, &mut told, io).await?;
            }
            if seen.complete {
                // Another command may have been faster: the next look tells.
                failed = self.activate(clients, &next.id).await.err();
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
            tokio::time::sleep(told.pause()).await;
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
        let mut failed: Option<(u64, Error)> = None;
        loop {
            let seen = self.look(clients, told, io).await?;
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
            // One that lost to another step is not a failure: it was decided by what is no more.
            match failed.take() {
                Some((tried, error)) if tried == seen.journal_revision => {
                    self.outlast(error, told, io).await?;
                    continue;
                }
                Some(_) | None => {}
            }
            if seen.may_prepare {
                let tried = seen.journal_revision;
                failed = self.prepare(clients, tried).await.err().map(|error| (tried, error));
                continue;
            }
            if !self.wait {
                return Err(Error::Invalid(self.no_place(&seen)));
            }
            let from = go_time_utc(seen.may_prepare_at);
            let text = format!("{}; waiting until {from}", places(&seen));
            if told.is_news(&text) {
                self.tell(io, &text)?;
            }
            tokio::time::sleep(told.pause()).await;
        }
    }

    /// Why nothing was prepared, and what can be done about it.
    fn no_place(&self, seen: &RotationResponse) -> String {
        let (name, from) = (self.name(), go_time_utc(seen.may_prepare_at));
        let kind = if self.kind == Kind::Jwt { "jwt" } else { "x509" };
        let way_out = if seen.below_upstream {
            "to replace the one that signs all the same, \"localauthority x509 prepare\" and \"activate\" do"
                .to_owned()
        } else {
            format!(
                "where an old one is not trusted any more, \"localauthority {kind} taint\" and \"revoke\" \
                 free its place"
            )
        };
        format!(
            "no {name} authority was prepared: {}; the next may be prepared at {from}: run the command \
             again then, or with -wait; {way_out}",
            places(seen)
        )
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
                "at {}, when {} for it and for the one by schedule after it",
                go_time_utc(seen.may_prepare_at),
                if seen.below_upstream { "there is room" } else { "the bundle has a place" }
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
        let (leaves, at) = match seen.below_upstream {
            true => ("Old one ends", active.not_after),
            false => ("Old one leaves", seen.leave_at),
        };
        line(out, leaves, &format!("at {}", go_time_utc(at)))?;
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

/// What is in the way of another authority.
fn places(seen: &RotationResponse) -> String {
    let (published, most) = (seen.published, seen.published_max);
    if seen.below_upstream {
        return format!(
            "{published} of {most} authorities have not ended yet, and room for one is needed by the schedule"
        );
    }
    format!(
        "{published} of {most} places in the bundle are taken, and one is needed by the schedule"
    )
}

/// What becomes of the one that signs, once another does. Below an upstream authority the bundle has its
/// roots alone.
fn end_of_active(seen: &RotationResponse) -> String {
    match seen.active.as_ref().filter(|_| seen.below_upstream) {
        Some(active) => format!("The one before it ends at {}.", go_time_utc(active.not_after)),
        None => format!("The one before it leaves the bundle at {}.", go_time_utc(seen.leave_at)),
    }
}

/// What becomes of a prepared authority that is left alone.
fn what_follows(seen: &RotationResponse) -> String {
    // With a short ca_ttl the schedule does not wait for all of that time.
    let assumed = if seen.assumed_at < seen.activate_at_latest {
        format!("; at {} all are taken to have it", go_time_utc(seen.assumed_at))
    } else {
        String::new()
    };
    format!(
        "Nothing more is needed: it signs by itself from {} on, once all have it, and at {} in any case. \
         To let it sign sooner run the command again, or with -wait{assumed}.",
        go_time_utc(seen.activate_at),
        go_time_utc(seen.activate_at_latest),
    )
}

/// The request, to be refused if the journal is not at a revision any more. A server that does not say at
/// which it is knows nothing of that.
fn for_journal<T>(mut request: tonic::Request<T>, revision: u64) -> tonic::Request<T> {
    if revision > 0 {
        request.metadata_mut().insert(EXPECTED_JOURNAL, revision.into());
    }
    request
}

/// What was told last, and how often was looked.
#[derive(Debug, Default)]
struct Told {
    last: String,
    looks: u32,
}

impl Told {
    /// Whether that is something else than what was told last. Seconds that are left are not: they are
    /// others with every look.
    fn is_news(&mut self, text: &str) -> bool {
        let mut words = text.split(' ').peekable();
        let mut lasting = String::new();
        while let Some(word) = words.next() {
            let is_count = word.parse::<u64>().is_ok() && words.peek() == Some(&"s");
            lasting.push_str(if is_count { "" } else { word });
            lasting.push(' ');
        }
        let news = self.last != lasting;
        self.last = lasting;
        news
    }

    /// How long to wait before the next look.
    fn pause(&mut self) -> Duration {
        self.looks += 1;
        if self.looks <= LOOKS_AT_FIRST { LOOK_EVERY } else { LOOK_LATER_EVERY }
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
                self.look(&mut clients, &mut Told::default(), io).await?
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

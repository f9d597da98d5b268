//! `cluster rekey`: another cluster key, and how far it is.
//!
//! Owns the asking until it is done or nothing moves any more, and the lines. Which key may be moved to, and
//! everything after the move, is the servers' affair: it goes on whether this command waits or not, and
//! asking again shows how far it is.

use std::io::Write;
use std::time::Duration;

use steeple_api::pb::cluster::v1::cluster_client::ClusterClient;
use steeple_api::pb::cluster::v1::cluster_key::Use;
use steeple_api::pb::cluster::v1::cluster_key::waiting::Reason;
use steeple_api::pb::cluster::v1::{ClusterKey, RekeyRequest, RekeyResponse};
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Channel;

use super::table::{line, or_dash, waiting, write_cluster_keys};
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

/// Without progress for so long the command ends: a member may be down for days.
const PATIENCE: Duration = Duration::from_secs(60);

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
            let mut watch = Watch::new(Instant::now());
            while !response.done {
                if !json {
                    watch.tell(&response, io.stdout)?;
                }
                if let Err(stuck) = watch.look(&response, Instant::now()) {
                    self.print_json(io, &response)?;
                    return Err(stuck);
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

/// What is left to do: private keys, then members. Less of it is progress.
type Left = (u32, usize);

/// How far it was.
#[derive(Debug)]
struct Watch {
    told: Vec<String>,
    /// The least that was ever left, and since when.
    least: Option<Left>,
    since: Instant,
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self { told: Vec::new(), least: None, since: now }
    }

    /// Prints what is waited for, unless that was the last that was printed.
    fn tell(
        &mut self,
        response: &RekeyResponse,
        out: &mut (dyn Write + Send),
    ) -> std::io::Result<()> {
        let waited_for = waited_for(response);
        if self.told == waited_for {
            return Ok(());
        }
        for text in &waited_for {
            writeln!(out, "Waiting: {text}.")?;
        }
        self.told = waited_for;
        out.flush()
    }

    /// Fails when nothing has moved for long. A member that comes and goes is no progress.
    fn look(&mut self, response: &RekeyResponse, now: Instant) -> Result<(), Error> {
        let left = left(response);
        if self.least.is_none_or(|least| left < least) {
            (self.least, self.since) = (Some(left), now);
        }
        match now.duration_since(self.since) < PATIENCE {
            true => Ok(()),
            false => Err(stuck(response)),
        }
    }
}

fn left(response: &RekeyResponse) -> Left {
    let authorities = leaving(response).map(|key| key.authorities).sum();
    // An older server does not say for whom it waits.
    let members = leaving(response).map(|key| key.waits_for.len().max(key.presented_by.len()));
    (authorities, members.sum())
}

fn leaving(response: &RekeyResponse) -> impl Iterator<Item = &ClusterKey> {
    response.keys.iter().filter(|key| key.r#use() == Use::Leaving)
}

fn stuck(response: &RekeyResponse) -> Error {
    let text = format!(
        "nothing has moved for {} s; still waited for: {}; the move goes on by itself, and \"spire-server \
         cluster rekey\" shows again how far it is",
        PATIENCE.as_secs(),
        waited_for(response).join("; "),
    );
    let mut members = leaving(response).flat_map(|key| &key.waits_for);
    let is_silent = members.any(|waiting| waiting.reason() == Reason::Silent);
    let hint = match (left(response), is_silent) {
        ((0, _), true) => {
            "start the members that do not answer, or remove them with \"spire-server cluster remove\""
        }
        ((0, _), false) => "the logs of the members that are named say what keeps them",
        (_, _) => "the leader's log says why it has not sealed the private keys anew",
    };
    Error::Unhealthy { text, hint: Some(hint.to_owned()) }
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
            "1. move to {}; 2. seal {} anew; 3. issue the peer certificates anew",
            response.to,
            private_keys(authorities)
        ),
        (false, false) => "moved already, goes on by itself".to_owned(),
        (false, true) => "nothing to do".to_owned(),
    };
    line(out, "Would do", &steps)?;
    writeln!(out)?;
    write_cluster_keys(out, &response.keys)?;
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
    if !response.done {
        let text =
            "The move goes on by itself: this command waits for its end and may be interrupted.";
        writeln!(out, "{text}")?;
    }
    Ok(())
}

/// What keeps the old keys from being dropped, each once.
fn waited_for(response: &RekeyResponse) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for key in leaving(response) {
        for text in under(key).into_iter().chain(key.waits_for.iter().filter_map(waiting)) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
    }
    if texts.is_empty() {
        texts.push("not every member has said lately which certificate it presents".to_owned());
    }
    texts
}

/// What is known to be under a key: private keys, and the certificates of members, who are named.
fn under(key: &ClusterKey) -> Option<String> {
    let sealed = (key.authorities > 0).then(|| private_keys(key.authorities));
    let presented = match key.presented_by.len() {
        0 => None,
        1 => Some("the peer certificate of 1 member".to_owned()),
        count => Some(format!("the peer certificates of {count} members")),
    };
    let verb = match (key.authorities, key.presented_by.len()) {
        (0, 0) => return None,
        (1, 0) | (0, 1) => "is",
        (_, _) => "are",
    };
    let what = sealed.into_iter().chain(presented).collect::<Vec<_>>().join(" and ");
    let members = key.presented_by.iter().map(|id| named(key, id)).collect::<Vec<_>>().join(", ");
    let colon = if members.is_empty() { "" } else { ": " };
    Some(format!("{what} {verb} still under {}{colon}{members}", key.id))
}

fn private_keys(count: u32) -> String {
    match count {
        1 => "1 private key".to_owned(),
        count => format!("{count} private keys"),
    }
}

/// A member with its address, where the server says it.
fn named(key: &ClusterKey, id: &str) -> String {
    let known = key.waits_for.iter().find(|waiting| waiting.id == id);
    match known.map_or("", |waiting| waiting.address.as_str()) {
        "" => id.to_owned(),
        address => format!("{id} ({address})"),
    }
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

#[cfg(test)]
mod tests {
    use steeple_api::pb::cluster::v1::cluster_key::Waiting;

    use super::*;

    fn leaving_key(id: &str, authorities: u32, members: &[(&str, Reason)]) -> ClusterKey {
        let waits_for = members.iter().map(|(id, reason)| Waiting {
            id: (*id).to_owned(),
            address: format!("{id}:1"),
            reason: (*reason).into(),
        });
        let presents = members.iter().filter(|(_, reason)| *reason == Reason::Presents);
        ClusterKey {
            id: id.to_owned(),
            r#use: Use::Leaving.into(),
            authorities,
            presented_by: presents.map(|(id, _)| (*id).to_owned()).collect(),
            waits_for: waits_for.collect(),
            ..ClusterKey::default()
        }
    }

    fn response(keys: Vec<ClusterKey>) -> RekeyResponse {
        RekeyResponse { keys, ..RekeyResponse::default() }
    }

    #[test]
    fn what_is_waited_for_names_the_members_and_counts_right() {
        use Reason::{LacksKey, Presents, Silent};
        type Case<'a> = (u32, &'a [(&'a str, Reason)], &'a [&'a str]);
        let silent = "b (b:1) does not answer; its certificate is not known";
        let lacks = "c (c:1) does not hold the key that seals; put its line into the key file of that \
                     member and send it SIGHUP";
        let table: [Case<'_>; 6] = [
            (1, &[], &["1 private key is still under k"]),
            (
                0,
                &[("a", Presents)],
                &["the peer certificate of 1 member is still under k: a (a:1)"],
            ),
            (
                1,
                &[("a", Presents)],
                &["1 private key and the peer certificate of 1 member are still under k: a (a:1)"],
            ),
            (
                2,
                &[("a", Presents), ("b", Presents)],
                &["2 private keys and the peer certificates of 2 members are still under k: \
                   a (a:1), b (b:1)"],
            ),
            (0, &[("b", Silent)], &[silent]),
            (
                2,
                &[("b", Silent), ("c", LacksKey)],
                &["2 private keys are still under k", silent, lacks],
            ),
        ];
        for (authorities, members, expected) in table {
            let found = waited_for(&response(vec![leaving_key("k", authorities, members)]));
            assert_eq!(found, expected);
        }
        // Two old keys wait for the same member: it is named once.
        let keys = ["k1", "k2"].map(|id| leaving_key(id, 0, &[("b", Silent)]));
        assert_eq!(waited_for(&response(keys.to_vec())), [silent]);
    }

    #[test]
    fn the_command_ends_when_nothing_has_moved_for_a_minute() {
        use Reason::{Presents, Silent};
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let with = |authorities, members: &[(&str, Reason)]| {
            response(vec![leaving_key("k", authorities, members)])
        };
        let mut watch = Watch::new(begun);
        assert!(watch.look(&with(2, &[("a", Presents), ("b", Presents)]), at(0)).is_ok());
        assert!(watch.look(&with(0, &[("a", Presents), ("b", Presents)]), at(50)).is_ok());
        assert!(watch.look(&with(0, &[("b", Presents)]), at(100)).is_ok());
        // Whoever comes and goes is no progress, and neither is silence.
        assert!(watch.look(&with(0, &[("a", Silent), ("b", Silent)]), at(110)).is_ok());
        assert!(watch.look(&with(0, &[("b", Silent)]), at(159)).is_ok());
        let stuck = watch.look(&with(0, &[("b", Silent)]), at(160)).unwrap_err();
        assert_eq!(
            stuck.to_string(),
            "nothing has moved for 60 s; still waited for: b (b:1) does not answer; its certificate is \
             not known; the move goes on by itself, and \"spire-server cluster rekey\" shows again how \
             far it is"
        );
        let hint = stuck.hint().unwrap();
        assert!(hint.starts_with("start the members that do not answer, or remove them"), "{hint}");
        let mut watch = Watch::new(begun);
        assert!(watch.look(&with(1, &[]), at(0)).is_ok());
        let stuck = watch.look(&with(1, &[]), at(60)).unwrap_err();
        assert!(stuck.hint().unwrap().starts_with("the leader's log says"), "{stuck}");
        let stuck = watch.look(&with(1, &[("b", Silent)]), at(60)).unwrap_err();
        assert!(stuck.hint().unwrap().starts_with("the leader's log says"), "{stuck}");
        let mut watch = Watch::new(begun);
        assert!(watch.look(&with(0, &[("a", Presents)]), at(0)).is_ok());
        let stuck = watch.look(&with(0, &[("a", Presents)]), at(60)).unwrap_err();
        assert!(stuck.hint().unwrap().starts_with("the logs of the members"), "{stuck}");
    }

    #[test]
    fn the_same_lines_are_printed_once() {
        let mut out = Vec::new();
        let mut watch = Watch::new(Instant::now());
        let two = response(vec![leaving_key("k", 2, &[])]);
        let one = response(vec![leaving_key("k", 1, &[])]);
        for seen in [&two, &two, &one] {
            watch.tell(seen, &mut out).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        let expected = "Waiting: 2 private keys are still under k.\n\
                        Waiting: 1 private key is still under k.\n";
        assert_eq!(text, expected);
    }
}

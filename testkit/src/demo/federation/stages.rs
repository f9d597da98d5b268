//! The story's stages, in order.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steeple_testkit::process::wait_for;
use tokio::time::Instant;

use super::domain::Domain;
use super::handshakes::{Counts, Handshakes};
use crate::demo::story::Story;

/// So many refusals in a row, of one second, show that nobody is let in by chance.
const REFUSALS: usize = 20;

/// So many handshakes follow when all is well again, of three seconds.
const REUNITED: usize = 60;

/// How fast the story goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As products do it: a bundle is fetched four times a minute, and a new authority is published
    /// for two and a half minutes before it signs, since peers fetch anonymously.
    Schedule,
    /// The refresher's minute lasts two seconds, and an operator who sees that both sides know a
    /// new authority lets it sign at once.
    Haste,
}

impl Pace {
    /// How long the refresher's minute is, if it is none.
    pub(super) fn minute(self) -> Option<Duration> {
        match self {
            Self::Schedule => None,
            Self::Haste => Some(Duration::from_secs(2)),
        }
    }

    /// What peers are told: a minute, the shortest that they heed.
    pub(super) fn refresh_hint(self) -> &'static str {
        match self {
            Self::Schedule => "1m",
            Self::Haste => "2s",
        }
    }

    /// Until when a new bundle is fetched: after a quarter of the hint, or a minute after a try
    /// that failed.
    pub(super) fn fetched_within(self) -> Duration {
        match self {
            Self::Schedule => Duration::from_secs(100),
            Self::Haste => Duration::from_secs(30),
        }
    }
}

/// The whole story; an error says what went wrong. `program` is the pair of go-spiffe programs.
#[expect(clippy::print_stdout, reason = "the story is the program's output")]
pub(crate) async fn demo(program: &Path, pace: Pace) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("steeple-demo-").tempdir()?;
    let outcome = stages(folder.path(), program, pace).await;
    if outcome.is_err() {
        println!("logs are kept in {}", folder.keep().display());
    }
    outcome?;
    println!("demo: ok");
    Ok(())
}

async fn stages(folder: &Path, program: &Path, pace: Pace) -> Result<()> {
    let story = Story::begin();
    let (mut own, mut bar) = begin(&story, folder, pace).await?;
    let mut handshakes = Handshakes::start(folder, program, &own, &bar)?;
    let first = handshakes.until(true, 0).await.context("of the two workloads")?;
    story.tell(format!(
        "{} and {} shook hands by go-spiffe; from now on they do so every 50 ms, each time anew",
        bar.workload(),
        own.workload()
    ));
    lose_leaders_while_rotating(&story, &mut own, &mut bar, &mut handshakes).await?;
    cut_off_while_rotating(&story, &own, &bar, &mut handshakes).await?;
    let last = handshakes.count()?;
    let federated = handshakes.counts(first..last);
    ensure_none_refused(&federated).context("while federated")?;
    story.tell(format!("{} handshakes so far, none has failed", federated.ok));

    let removed = part(&story, &own, &bar, &mut handshakes).await?;
    let again = reunite(&story, &mut own, &bar, &mut handshakes).await?;
    story.tell("what came of the handshakes:");
    conclude(&[("federated", &federated), ("removed", &removed), ("federated again", &again)]);
    Ok(())
}

/// Two trust domains that trust each other.
async fn begin(story: &Story, folder: &Path, pace: Pace) -> Result<(Domain, Domain)> {
    story.tell("starting foo.example.com and bar.example.com: three replicas and an agent each");
    if pace == Pace::Haste {
        story.tell("in haste: bundles are fetched every half second, rotations wait for no clock");
    }
    let (mut own, mut bar) = tokio::try_join!(
        Domain::start(folder, "foo.example.com", pace),
        Domain::start(folder, "bar.example.com", pace),
    )?;
    story.tell("both run, each with one name in front of its three bundle endpoints");
    own.relate(0, &bar)?;
    bar.relate(2, &own)?;
    story.tell("both: spire-server federation create, with the other's roots, on one replica");
    tokio::try_join!(own.follows(&bar), bar.follows(&own))?;
    story.tell("each has fetched the other's bundle; all replicas hold it");
    own.register(1, &bar)?;
    bar.register(0, &own)?;
    story.tell("both: spire-server entry create … -federatesWith the other");
    Ok((own, bar))
}

/// Both sides replace their authority, and both leaders die under it.
async fn lose_leaders_while_rotating(
    story: &Story,
    own: &mut Domain,
    bar: &mut Domain,
    handshakes: &mut Handshakes,
) -> Result<()> {
    let new = [own.prepare(1)?, bar.prepare(0)?];
    story.tell("both: a first rotation begins, the next X.509 authority is published");
    let killed = Instant::now();
    let (of_foo, of_bar) = tokio::try_join!(own.lose_leader(), bar.lose_leader())?;
    for (domain, [dead, next]) in [(&own, of_foo), (&bar, of_bar)] {
        let name = domain.name();
        story.tell(format!(
            "{name}: replica {} (the leader) killed with SIGKILL, replica {} leads",
            dead + 1,
            next + 1
        ));
    }
    tokio::try_join!(own.follows(bar), bar.follows(own))?;
    story.tell(format!(
        "the new leaders fetch: {} ms after the kill each side's replicas hold the other's new bundle",
        killed.elapsed().as_millis()
    ));
    tokio::try_join!(own.bring_back(of_foo[0]), bar.bring_back(of_bar[0]))?;
    story.tell("both killed replicas are back");
    activate(story, own, bar, &new, handshakes).await
}

/// Both sides replace their authority once more, while neither reaches the other's endpoint.
async fn cut_off_while_rotating(
    story: &Story,
    own: &Domain,
    bar: &Domain,
    handshakes: &mut Handshakes,
) -> Result<()> {
    let began = Instant::now();
    own.endpoint.cut();
    bar.endpoint.cut();
    story.tell("bar is cut off: neither side reaches the other's bundle endpoint");
    let new = [own.prepare(2)?, bar.prepare(1)?];
    story.tell("both: a second rotation begins");
    let turned_away = || [own.endpoint.turned_away(), bar.endpoint.turned_away()];
    // A second one in a row would put off the third for two minutes: longer than a new authority
    // waits.
    wait_for("a fetch of each side to fail", own.pace.fetched_within(), async || {
        let counts = turned_away();
        ensure!(counts.iter().all(|count| *count > 0), "{counts:?} connections");
        Ok(())
    })
    .await?;
    own.endpoint.mend();
    bar.endpoint.mend();
    story.tell(format!(
        "the way is open again after {} ms; {} fetches found it shut",
        began.elapsed().as_millis(),
        turned_away().iter().sum::<usize>()
    ));
    let mended = Instant::now();
    tokio::try_join!(own.follows(bar), bar.follows(own))?;
    let after = mended.elapsed().as_millis();
    story.tell(format!("{after} ms later all replicas hold the other's new bundle"));
    activate(story, own, bar, &new, handshakes).await
}

/// Lets the next authorities sign, and waits until they have signed what both workloads present.
async fn activate(
    story: &Story,
    own: &Domain,
    bar: &Domain,
    [of_foo, of_bar]: &[String; 2],
    handshakes: &mut Handshakes,
) -> Result<()> {
    for domain in [own, bar] {
        tokio::try_join!(domain.is_told_of(of_foo), domain.is_told_of(of_bar))?;
    }
    story.tell("both workloads know both new authorities; neither has signed anything yet");
    if own.pace == Pace::Schedule {
        story.tell(
            "both: spire-server cluster rotate x509 -wait; peers fetch anonymously, so time decides",
        );
    }
    tokio::try_join!(own.activate(2, of_foo), bar.activate(1, of_bar))?;
    story.tell("both new authorities sign");
    handshakes.signed_by([of_bar, of_foo]).await?;
    story.tell("the workloads shake hands with SVIDs of the new authorities, on both ends");
    Ok(())
}

/// Foo ends the relationship: bar's workload is refused.
async fn part(
    story: &Story,
    own: &Domain,
    bar: &Domain,
    handshakes: &mut Handshakes,
) -> Result<Counts> {
    let (before, began) = (handshakes.count()?, Instant::now());
    own.part(1, bar)?;
    story.tell("foo: spire-server federation delete, bundle delete -mode dissociate");
    let first = handshakes.until(false, before).await?;
    story.tell(format!("bar's workload is refused after {} ms", began.elapsed().as_millis()));
    let last = handshakes.more(REFUSALS).await?;
    let removed = handshakes.counts(first..last);
    ensure!(removed.ok == 0, "{} handshakes after the first refusal", removed.ok);
    let text = removed.refusal.clone().unwrap_or_default();
    story.tell(format!("{} refusals in a row: {text}", removed.refused));
    Ok(removed)
}

/// And begins it again.
async fn reunite(
    story: &Story,
    own: &mut Domain,
    bar: &Domain,
    handshakes: &mut Handshakes,
) -> Result<Counts> {
    let (before, began) = (handshakes.count()?, Instant::now());
    own.relate(2, bar)?;
    own.register(0, bar)?;
    story.tell("foo: federation create with bar's roots of today, and the entry federates again");
    let first = handshakes.until(true, before).await?;
    story.tell(format!("bar's workload is served after {} ms", began.elapsed().as_millis()));
    own.follows(bar).await?;
    let last = handshakes.more(REUNITED).await?;
    let again = handshakes.counts(first..last);
    ensure_none_refused(&again).context("after the relationship was restored")?;
    Ok(again)
}

fn ensure_none_refused(counts: &Counts) -> Result<()> {
    let text = counts.refusal.as_deref().unwrap_or("no text");
    let (refused, all) = (counts.refused, counts.ok + counts.refused);
    ensure!(refused == 0, "{refused} of {all} handshakes failed, first: {text}");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is the program's output")]
fn conclude(rows: &[(&str, &Counts)]) {
    println!("\n{:<16} {:>10} {:>7} {:>8} {:>9}", "", "handshakes", "ok", "refused", "slowest");
    for (name, counts) in rows {
        let Counts { ok, refused, slowest_ms, refusal: _ } = counts;
        println!("{name:<16} {:>10} {ok:>7} {refused:>8} {slowest_ms:>6} ms", ok + refused);
    }
    println!();
}
